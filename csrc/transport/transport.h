/// Moves messages between ranks. The executor knows nothing else of a network.
///
/// Peers are numbered 0..peers-1 by whoever makes the transport (the world's ranks).
/// A message is matched by (peer, match): between one pair of peers, messages with the same
/// `match` are received in the order in which they were sent; different `match`es are independent.
/// There is no wildcard: who receives from anybody probes each peer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/status.h"

namespace shoal::transport {

/// What a message is matched by, and a fingerprint that is compared (not matched) on arrival.
///   bit 63       0: collective, 1: point-to-point
///   bits 34..24  communicator, at most kMaxCommunicators - 1
///   bits 23..0   low bits of the sequence number, or the user's tag, at most kMaxTag
/// 36 bits in use: with a 16-bit sender and the fingerprint they fill a 64-bit network tag.
struct Match {
  std::uint64_t key = 0;
  /// Low kFingerprintBits bits of a hash of what the sender believes it is doing.
  std::uint16_t fingerprint = 0;
};
inline constexpr int kFingerprintBits = 12;
inline constexpr std::uint32_t kMaxCommunicators = 1u << 11;
inline constexpr std::uint32_t kMaxTag = (1u << 24) - 1;
inline constexpr int kMaxPeers = 1 << 16;

constexpr std::uint64_t collective_key(std::uint32_t communicator,
                                       std::uint64_t sequence) noexcept {
  return (std::uint64_t{communicator} << 24) | (sequence & kMaxTag);
}
constexpr std::uint64_t p2p_key(std::uint32_t communicator, std::uint32_t tag) noexcept {
  return (std::uint64_t{1} << 63) | (std::uint64_t{communicator} << 24) | tag;
}

/// Where one send or receive stands. Owned by the caller, at a stable address from start until
/// `done()`. One thread: written only inside calls on the transport.
struct Operation {
  enum class State : std::uint8_t { kIdle, kActive, kDone };
  State state = State::kIdle;
  Status status{};                ///< valid when done
  std::int64_t bytes = 0;         ///< received bytes, valid when a receive is done
  std::uint16_t fingerprint = 0;  ///< the sender's, valid when a receive is done
  void* request = nullptr;        ///< the transport's own
  std::uint64_t request_id = 0;   ///< the transport's own

  [[nodiscard]] bool done() const noexcept { return state == State::kDone; }
  void end(Status outcome) noexcept {
    status = outcome;
    request = nullptr;
    state = State::kDone;
  }
};

/// What a peer needs to put into a part of this rank's memory: plain bytes, of one size, to be sent
/// to it. An empty one is right too, and no leave to write.
struct Key {
  static constexpr std::size_t kMostBytes = 242;
  std::uint64_t address = 0;
  std::uint16_t bytes = 0;  ///< of `data`, the transport's own; 0: an empty key
  std::byte data[kMostBytes] = {};
  [[nodiscard]] bool empty() const noexcept { return bytes == 0; }
};

/// One thread at a time (the engine's lock); no call blocks; none throws.
class Transport {
 public:
  virtual ~Transport() = default;

  /// Starts sending `bytes` bytes. `data` must stay unchanged until the operation is done.
  /// False: no room now, nothing was started, progress() and try again.
  /// Errors are reported through `operation` (done, with a status).
  virtual bool send(int peer, Match match, const void* data, std::int64_t bytes,
                    Operation& operation) noexcept = 0;

  /// Starts receiving at most `capacity` bytes. A longer message ends it with kMismatch, and
  /// writes nothing past `capacity`. False as in send().
  virtual bool receive(int peer, Match match, void* data, std::int64_t capacity,
                       Operation& operation) noexcept = 0;

  /// One-sided operations: whether put() can save anything over send() here.
  [[nodiscard]] virtual bool has_put() const noexcept { return false; }

  /// The key to memory of this rank, which stays as long as anybody may use the key.
  virtual Key key_to(const void* /*data*/, std::int64_t /*bytes*/) noexcept { return {}; }

  /// Brings `bytes` (> 0) bytes to the place that lies `offset` bytes behind what `key` of the peer
  /// is for. Matched as a message by a receive of that place, in one of two ways, at this side's
  /// choice: the data are written there without the peer's doing and an empty message follows them;
  /// or they are the message, as with send(), which is what a transport without put() does.
  ///
  /// Unlike send() it may write to the peer's memory until this transport ends, even if its peer
  /// has cancelled the receive.
  virtual bool put(int peer, Match match, const Key& /*key*/, std::int64_t /*offset*/,
                   const void* data, std::int64_t bytes, Operation& operation) noexcept {
    return send(peer, match, data, bytes, operation);
  }

  /// True if a message of this peer and match has come, or announced itself, and no receive that
  /// has been started takes it: a receive(peer, match) started now, before any other call, gets it.
  /// Until the next progress() a peer that was probed in vain counts as waited for: what it sends
  /// ends a sleep on arm()'s fd.
  [[nodiscard]] virtual bool probe(int peer, Match match) noexcept = 0;

  /// Gives every active operation a chance. True if anything moved.
  virtual bool progress() noexcept = 0;

  /// Ends an active operation: when this returns it is done (kAborted, or as it had ended), and
  /// its memory is not touched any more, neither by this process nor by a device.
  virtual void cancel(Operation& operation) noexcept = 0;

  /// Called before sleeping. >= 0: an fd that becomes readable on the next event.
  /// -1: something may be ready now, do not sleep. -2: this transport has no fd to wait for (its
  /// events ring the node's doorbell, or it cannot sleep).
  virtual int arm() noexcept { return -2; }

  /// One line for `shoal info`, e.g. "ucx 1.22.0 (wheel) tcp".
  [[nodiscard]] virtual std::string describe() const = 0;
};

}  // namespace shoal::transport
