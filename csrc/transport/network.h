/// A transport between nodes: its peers are found by addresses that the job exchanges, and may
/// fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "transport/transport.h"

namespace shoal::transport {

/// cancel() asks first, then cuts the peer off, and ends within so long.
inline constexpr std::int64_t kCancelMs = 2000;

/// One thread at a time, as every Transport.
///
/// A peer is connected to at the first send. One whose connection fails, or that a cancel() had to
/// cut off, stays failed: all its operations end in kPeerFailed, but for receives of messages that
/// had come before. A network's notice of a failure is late or never comes: watch peers by other
/// means and cancel().
class Network : public Transport {
 public:
  /// Bytes that every peer needs for set_peer_address(), at most a few hundred.
  [[nodiscard]] virtual const std::vector<std::byte>& address() const noexcept = 0;
  /// Before the first operation with `peer`.
  virtual void set_peer_address(int peer, std::span<const std::byte> address) = 0;
  [[nodiscard]] virtual bool peer_failed(int peer) const noexcept = 0;
};

}  // namespace shoal::transport
