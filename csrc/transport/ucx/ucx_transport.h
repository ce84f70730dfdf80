/// Messages between nodes, by UCX's tag matching. This header needs no UCX: what stands behind it
/// is made by loader.h's make_ucx(), in a shared object of its own (libshoal_ucx.so).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/status.h"
#include "memory/registrar.h"
#include "transport/network.h"

namespace shoal::transport::ucx {

struct UcxOptions {
  int self = 0;
  int peers = 1;
  /// What UCX calls UCX_TLS, e.g. "rc_v,ud_v". Empty: the environment's UCX_TLS, RC and DC over
  /// RDMA devices, else all but shared memory (ours is better, and UCX drops its own where failures
  /// must be seen).
  std::string transports;
  /// This node has RDMA devices and the loaded UCX has verbs (make_ucx() sets it): unless
  /// transports are named, they are used and nothing else, and it is an error if none can be.
  bool verbs{};
  /// The handle that register_memory() gave for memory holding these bytes, or nullptr
  /// (memory::Pool::registration). Not called for small messages. May be empty.
  std::function<void*(const void* data, std::int64_t bytes)> registration;
  /// What UCX calls UCX_NET_DEVICES, e.g. "mlx5_0:1": a rail. Empty: the environment's, else all.
  std::string device{};
  /// Messages of up to 8 KiB that a device may hold for us, each of which pins as much; 0: UCX's
  /// 4096. For who opens many transports with few peers each.
  int receive_queue = 0;
};

/// register_memory() and deregister_memory(): one thread at a time, too.
///
/// cancel() asks UCX first, then closes the endpoint of the peer, then, where even that does not
/// end the operation within kCancelMs, destroys the worker: every operation of this transport ends
/// then, and later ones end in kTransport at once.
class UcxTransport : public Network, public memory::Registrar {};

/// What libshoal_ucx.so exports. Raised whenever the types above change: the loader compares it.
inline constexpr int kModuleAbi = 6;
/// nullptr: `error` says why.
using CreateFunction = UcxTransport* (*)(const UcxOptions& options, char* error,
                                         std::size_t error_bytes);

}  // namespace shoal::transport::ucx
