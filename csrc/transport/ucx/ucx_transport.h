/// Messages between nodes, by UCX's tag matching. This header needs no UCX: what stands behind it
/// is made by loader.h's make_ucx(), in a shared object of its own (libshoal_ucx.so).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "memory/registrar.h"
#include "transport/transport.h"

namespace shoal::transport::ucx {

struct UcxOptions {
  int self = 0;
  int peers = 1;
  /// What UCX calls UCX_TLS, e.g. "rc_v,ud_v". Empty: the environment's UCX_TLS, else all but
  /// shared memory (ours is better, and UCX drops its own where failures must be seen).
  std::string transports;
  /// The handle that register_memory() gave for memory holding these bytes, or nullptr
  /// (memory::Pool::registration). Not called for small messages. May be empty.
  std::function<void*(const void* data, std::int64_t bytes)> registration;
};

/// One thread at a time, as every Transport; register_memory() and deregister_memory() too.
///
/// Endpoints are made at the first send to a peer. A peer whose endpoint fails, or that a cancel()
/// had to cut off, stays failed: all its operations end in kPeerFailed, but for receives of
/// messages that had come before. UCX's notice of a failure is late or never comes: watch peers by
/// other means and cancel().
///
/// cancel() asks UCX first, then closes the endpoint of the peer, then, where even that does not
/// end the operation within kCancelMs, destroys the worker: every operation of this transport ends
/// then, and later ones end in kTransport at once.
class UcxTransport : public Transport, public memory::Registrar {
 public:
  /// Bytes that every peer needs for set_peer_address(), a few hundred.
  [[nodiscard]] virtual const std::vector<std::byte>& address() const noexcept = 0;
  /// Before the first operation with `peer`.
  virtual void set_peer_address(int peer, std::span<const std::byte> address) = 0;
  [[nodiscard]] virtual bool peer_failed(int peer) const noexcept = 0;
};

inline constexpr std::int64_t kCancelMs = 2000;

/// What libshoal_ucx.so exports. Raised whenever the types above change: the loader compares it.
inline constexpr int kModuleAbi = 1;
/// nullptr: `error` says why.
using CreateFunction = UcxTransport* (*)(const UcxOptions& options, char* error,
                                         std::size_t error_bytes);
using AbiFunction = int (*)();

}  // namespace shoal::transport::ucx
