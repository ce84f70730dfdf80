/// What lies in the header of each slice: the node's shared control memory.
/// Fixed sizes: every rank of a node computes the same addresses from (local rank, local ranks).
///
///   0          abi::ArenaHeader (slice 0 only)
///   4 KiB      abi::ProgressPage
///   8 KiB      Doorbell, Arrivals, Departures
///   16 KiB     ack words of this rank's sends
///   48 KiB     door of this rank's CUDA memory
///   64 KiB     one ring of descriptors per sending local rank
///
/// A page of zeros is a valid initial state of all of it, so nobody waits for anybody's set-up.
/// Sparse: what a rank does not use (rings of ranks that do not exist) has no pages.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "memory/arena.h"
#include "shoal/abi/progress_page.h"
#include "transport/transport.h"

namespace shoal::transport::shm {

inline constexpr int kMaxLocalRanks = 512;
inline constexpr int kCacheLine = 64;

/// Rings one rank's bell. Writers: any local rank; sleeper: its owner.
struct alignas(kCacheLine) Doorbell {
  std::atomic<std::uint32_t> rings{0};     // futex word
  std::atomic<std::uint32_t> sleepers{0};  // > 0: somebody sleeps on `rings`
};

/// Which senders' rings are worth a look: bit = local rank. Used on nodes of more than
/// kScanRanks ranks; on smaller ones the receiver looks at every ring (a cached load each).
struct alignas(kCacheLine) Arrivals {
  std::atomic<std::uint64_t> words[kMaxLocalRanks / 64];
};
inline constexpr int kScanRanks = 32;

/// Which groups the owner has done with: bit = id of the communicator, which is never used again.
struct alignas(kCacheLine) Departures {
  std::atomic<std::uint64_t> words[(kMaxCommunicators + 63) / 64];
};

inline constexpr std::int64_t kInlineBytes = 32;

/// What a descriptor says.
enum class Kind : std::uint8_t {
  kInline,      ///< a message, payload within
  kBlock,       ///< a message that lies in the arena; acked when copied
  kRendezvous,  ///< a message in private memory; acked with "go" when its receive is posted
  kFragment,    ///< the next piece of a message that has got its "go", in a staging tile
  kWithdrawn,   ///< instead of a fragment: the sender has cancelled
};

struct Message {
  std::uint64_t key;          ///< Match::key
  std::int64_t bytes;         ///< of the message; of the piece in a fragment
  std::uint32_t generation;   ///< of the ack word
  std::uint16_t fingerprint;  ///< Match::fingerprint
  Kind kind;
  std::uint8_t reserved;
  union {
    std::byte payload[kInlineBytes];
    struct {
      memory::Offset offset;
      std::int64_t ack;  ///< index of the sender's ack word
    } place;
  };
};

/// One entry of a ring, one cache line: a message costs the transfer of exactly one.
struct alignas(kCacheLine) Descriptor {
  /// 2 * lap: free for that lap of the ring; 2 * lap + 1: filled. Lap = position / kRingDepth.
  std::atomic<std::uint64_t> turn;
  Message message;
};
static_assert(sizeof(Descriptor) == kCacheLine);

/// 32 slots: a sender runs ahead of a receiver that is busy for a few microseconds.
inline constexpr int kRingDepth = 32;

/// One direction between two ranks; single producer, single consumer. Positions count from 0.
struct Ring {
  Descriptor slots[kRingDepth];

  [[nodiscard]] Descriptor& slot(std::uint64_t position) noexcept {
    return slots[position % kRingDepth];
  }
  [[nodiscard]] bool writable(std::uint64_t position) noexcept {
    // acquire: pairs with the release in free()
    return slot(position).turn.load(std::memory_order_acquire) == 2 * (position / kRingDepth);
  }
  void fill(std::uint64_t position, const Message& message) noexcept {
    slot(position).message = message;
    // release: pairs with the acquire in readable()
    slot(position).turn.store(2 * (position / kRingDepth) + 1, std::memory_order_release);
  }
  [[nodiscard]] bool readable(std::uint64_t position) noexcept {
    // acquire: pairs with the release in fill()
    return slot(position).turn.load(std::memory_order_acquire) == 2 * (position / kRingDepth) + 1;
  }
  void free(std::uint64_t position) noexcept {
    // release: pairs with the acquire in writable()
    slot(position).turn.store(2 * (position / kRingDepth) + 2, std::memory_order_release);
  }
};

/// Written by the receiver: generation << 32 | progress. Progress 0: nothing yet; 1: go; 1 + n: n
/// fragments copied; kAckDone: finished, nothing more will be read and the word not be written.
using AckWord = std::atomic<std::uint64_t>;
inline constexpr std::uint32_t kAckGo = 1;
inline constexpr std::uint32_t kAckDone = 0xffffffff;
/// Bounds the sends of one rank that are under way and not inline.
inline constexpr int kAckWords = 4096;

inline constexpr std::int64_t kDoorbellOffset = abi::kProgressPageOffset + abi::kProgressPageBytes;
inline constexpr std::int64_t kArrivalsOffset = kDoorbellOffset + sizeof(Doorbell);
inline constexpr std::int64_t kDeparturesOffset = kArrivalsOffset + sizeof(Arrivals);
inline constexpr std::int64_t kAckOffset = 16 << 10;
inline constexpr std::int64_t kCudaDoorOffset = 48 << 10;
inline constexpr std::int64_t kRingsOffset = 64 << 10;

static_assert(sizeof(abi::ArenaHeader) <= abi::kProgressPageOffset);
static_assert(kDeparturesOffset + sizeof(Departures) <= kAckOffset);
static_assert(kAckOffset + kAckWords * sizeof(AckWord) <= kCudaDoorOffset);
static_assert(kCudaDoorOffset + sizeof(std::uint64_t) <= kRingsOffset);
static_assert(kRingsOffset + kMaxLocalRanks * sizeof(Ring) <= memory::kHeaderBytes);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "shared between processes");

/// Bytes of the header that a node of `ranks` local ranks uses.
constexpr std::int64_t header_bytes_used(int ranks) noexcept {
  return kRingsOffset + ranks * static_cast<std::int64_t>(sizeof(Ring));
}

/// The control memory of one local rank.
class Header {
 public:
  Header(const memory::Arena& arena, int local_rank) noexcept
      : base_(arena.at(arena.slice_begin(local_rank))) {}

  [[nodiscard]] abi::ProgressPage& page() const noexcept {
    return at<abi::ProgressPage>(abi::kProgressPageOffset);
  }
  [[nodiscard]] Doorbell& doorbell() const noexcept { return at<Doorbell>(kDoorbellOffset); }
  [[nodiscard]] Arrivals& arrivals() const noexcept { return at<Arrivals>(kArrivalsOffset); }
  [[nodiscard]] Departures& departures() const noexcept {
    return at<Departures>(kDeparturesOffset);
  }
  [[nodiscard]] AckWord& ack(int index) const noexcept {
    return at<AckWord>(kAckOffset + index * static_cast<std::int64_t>(sizeof(AckWord)));
  }
  /// Where the node's other ranks find this one's CUDA memory; 0: it has none.
  [[nodiscard]] std::atomic<std::uint64_t>& cuda_door() const noexcept {
    return at<std::atomic<std::uint64_t>>(kCudaDoorOffset);
  }
  /// From `sender` to this rank.
  [[nodiscard]] Ring& ring_from(int sender) const noexcept {
    return at<Ring>(kRingsOffset + sender * static_cast<std::int64_t>(sizeof(Ring)));
  }

 private:
  template <class T>
  [[nodiscard]] T& at(std::int64_t offset) const noexcept {
    return *reinterpret_cast<T*>(base_ + offset);
  }
  std::byte* base_;
};

}  // namespace shoal::transport::shm
