/// The sending half of the shared-memory transport.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/pool.h"
#include "transport/shm/fifo_map.h"
#include "transport/shm/node.h"
#include "transport/transport.h"

namespace shoal::transport::shm {

/// Arena memory is announced and read by the receiver in place. Other memory is copied into pool
/// memory first:
///
///   up to kEagerBytes    at once, into an eager tile (if one is free), announced like a block
///   longer               after the receiver's "go", fragment by fragment through staging tiles,
///                        of which a message holds at most kTilesPerSend
///
/// Only messages whose receive is posted hold staging tiles, and such a receiver always takes
/// fragments: tiles come back whatever the order in which receives are posted. One thread.
class Sender {
 public:
  Sender(Node& node, memory::Pool& pool);
  ~Sender();
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;

  bool send(int peer, Match match, const void* data, std::int64_t bytes,
            Operation& operation) noexcept;
  bool progress() noexcept;
  void cancel(Operation& operation) noexcept;

  static constexpr std::int64_t kEagerBytes = 8 << 10;
  static constexpr int kEagerTiles = 32;
  static constexpr std::int64_t kTileBytes = 64 << 10;
  static constexpr int kTiles = 16;
  static constexpr std::uint32_t kTilesPerSend = 4;

 private:
  /// An ack word's user. Without an operation it was cancelled: it stays until the receiver has
  /// written the word for the last time, then the word may serve another message.
  struct Send : Element<Send> {
    Operation* operation = nullptr;
    const std::byte* data = nullptr;
    std::int64_t bytes = 0;
    std::int64_t staged = 0;      // bytes that have left in fragments
    std::uint32_t fragments = 0;  // that have left
    std::uint32_t copied = 0;     // of them, copied by the receiver
    std::uint32_t generation = 0;
    int ack = 0;
    int eager_tile = -1;
    Kind kind = Kind::kBlock;
    bool withdrawn = false;
    int tiles[kTilesPerSend] = {};  // of fragment n: n % kTilesPerSend
  };

  /// Tiles of one size in one pool block, allocated at the first use.
  struct Tiles {
    memory::Offset block = memory::kNoOffset;
    std::vector<int> free;
  };

  [[nodiscard]] bool has_room(int peer) noexcept;
  void post(int peer, const Message& message) noexcept;
  void send_inline(int peer, Match match, const void* data, std::int64_t bytes,
                   Operation& operation) noexcept;
  bool announce(Send* send, Match match, memory::Offset offset) noexcept;
  [[nodiscard]] std::uint32_t progress_of(const Send& send) noexcept;
  bool advance(Send* send, std::uint32_t progress) noexcept;
  bool stage_fragments(Send* send) noexcept;
  bool withdraw(Send* send) noexcept;
  void release_tiles(Send* send, std::uint32_t copied) noexcept;
  void finish(Send* send) noexcept;
  memory::Offset copy_to_eager_tile(Send* send) noexcept;
  bool allocate(Tiles& tiles, int count, std::int64_t bytes) noexcept;
  void give_back(Tiles& tiles) noexcept;

  Node& node_;
  memory::Pool& pool_;
  Header header_;
  std::vector<std::uint64_t> positions_;  // in our ring at each receiver
  std::vector<int> free_acks_;
  std::vector<std::uint32_t> generations_;  // of each ack word
  std::vector<Send*> active_;
  ElementPool<Send> sends_;
  Tiles staging_;
  Tiles eager_;
};

}  // namespace shoal::transport::shm
