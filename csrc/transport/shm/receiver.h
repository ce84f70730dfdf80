/// The receiving half of the shared-memory transport: drains the rings, matches, copies.
#pragma once

#include <cstdint>
#include <vector>

#include "transport/shm/fifo_map.h"
#include "transport/shm/node.h"
#include "transport/transport.h"

namespace shoal::transport::shm {

/// A receive waits in `posted_` until its message is announced; a message that is announced first
/// waits in `unexpected_` (its descriptor only; its bytes stay with the sender). Then, by kind:
///
///   inline       copied out of the descriptor
///   block        copied from the sender's block, at most kCopyBytesPerTurn a call: `copying_`
///   rendezvous   told to go; each fragment is copied as it comes: `streaming_`
///
/// The sender reads in its ack word how far we are. One thread.
class Receiver {
 public:
  explicit Receiver(Node& node);

  void receive(int peer, Match match, void* data, std::int64_t capacity,
               Operation& operation) noexcept;
  /// What no receive has taken: a receive that waits would have, when the message was announced.
  [[nodiscard]] bool has_unexpected(int peer, Match match) noexcept {
    return unexpected_.find(peer, match.key) != nullptr;
  }
  bool progress() noexcept;
  void cancel(Operation& operation) noexcept;

 private:
  enum class Stage : std::uint8_t { kPosted, kCopying, kStreaming };
  struct Receive : Element<Receive> {
    Operation* operation = nullptr;
    std::byte* data = nullptr;
    std::int64_t capacity = 0;
    Message message{};        // once matched
    std::int64_t copied = 0;  // bytes
    std::uint32_t fragments = 0;
    Stage stage = Stage::kPosted;
  };
  struct Arrived : Element<Arrived> {
    Message message{};
  };

  bool look_at(int peer) noexcept;
  bool look_at_every() noexcept;
  bool look_at_announced() noexcept;
  bool copy_some() noexcept;
  void deliver(int peer, const Message& message) noexcept;
  void begin(Receive* receive, const Message& message) noexcept;
  bool copy_block(Receive* receive, std::int64_t most_bytes) noexcept;
  void take_fragment(int peer, const Message& message) noexcept;
  void take_withdrawal(int peer, const Message& message) noexcept;
  void acknowledge(int peer, const Message& message, std::uint32_t progress) noexcept;
  void finish(Receive* receive, Status status) noexcept;

  Node& node_;
  Header header_;
  std::vector<std::uint64_t> positions_;  // in the ring of each sender
  std::vector<std::uint64_t> announced_;  // like Arrivals, of senders we have not finished with
  FifoMap<Receive> posted_;
  FifoMap<Arrived> unexpected_;
  std::vector<Receive*> copying_;
  FifoMap<Receive> streaming_;  // key: ack word and its generation
  ElementPool<Receive> receives_;
  ElementPool<Arrived> arrived_;
};

}  // namespace shoal::transport::shm
