/// The ranks of one node within one communicator: entry lines and phases.
///
/// Each operation (sequence number) of a communicator begins with one 64-byte line per rank. Lines
/// and phases live in a ring of kWindowSlots per communicator. No line is overwritten unread, for a
/// rank enters sequence s only when
/// - its own operation s - kMaxInFlight has completed, and
/// - it knows that every rank of the node has entered s - kMaxAhead, so has completed
///   s - kMaxAhead - kMaxInFlight, and has compared the lines up to there (exec/group.h). The
///   others are then at most at s + kMaxAhead, which leaves what this rank has yet to compare
///   alone.
#pragma once

#include <atomic>
#include <cstdint>

#include "memory/arena.h"
#include "transport/shm/layout.h"

namespace shoal::transport::shm {

inline constexpr int kMaxInFlight = 8;
/// How far a rank that waits for nobody (a broadcast's root) runs ahead of the slowest one. 64:
/// where ranks outnumber cores each time it is full costs a context switch (docs/decisions/0004).
inline constexpr int kMaxAhead = 64;
inline constexpr int kWindowSlots = 2 * kMaxAhead;
/// Inputs that a rank shows to the others from its pool: all have completed #s when one enters
/// #s + kInputSlots.
inline constexpr int kInputSlots = kMaxAhead + kMaxInFlight;
static_assert(kMaxInFlight <= kMaxAhead);

/// Where the others find a rank's spaces: in the arena (kNoOffset: none, or not there).
struct Places {
  memory::Offset input;
  memory::Offset output;
  memory::Offset scratch;
  std::uint64_t flags;  ///< PlaceFlag
};

enum PlaceFlag : std::uint64_t {
  kPrivate = 1,     ///< a buffer of the rank is memory that only it has mapped
  kInSlot = 2,      ///< `input` is a copy that is left alone until long after the operation
  kInputList = 4,   ///< `input` is a table: the offset of each of its blocks
  kOutputList = 8,  ///< `output` is
};

/// What a rank says when it enters a collective. One cache line, one writer.
struct alignas(kCacheLine) EntryLine {
  std::atomic<std::uint64_t> sequence;  ///< stored last (release): the line is valid for it
  std::uint64_t fingerprint;            ///< of everything all ranks must agree on
  union {
    Places places;
    std::byte payload[48];  ///< the input itself, where it is that small
  };
};
static_assert(sizeof(EntryLine) == kCacheLine);

struct alignas(kCacheLine) PhaseLine {
  std::atomic<std::uint64_t> value;  ///< sequence << 20 | phase
};

/// Bytes of control memory for a group of `ranks` (allocated by one rank from its pool, zeroed).
constexpr std::int64_t control_bytes(int ranks) noexcept {
  return static_cast<std::int64_t>(kWindowSlots) * ranks * (sizeof(EntryLine) + sizeof(PhaseLine));
}

/// A view of that memory. Any thread for reading; each rank writes its own lines only.
/// Sequence numbers start at 1.
class NodeGroup {
 public:
  NodeGroup() noexcept = default;
  NodeGroup(std::byte* control, int ranks, int self) noexcept
      : entries_(reinterpret_cast<EntryLine*>(control)),
        phases_(reinterpret_cast<PhaseLine*>(control + static_cast<std::int64_t>(kWindowSlots) *
                                                           ranks * sizeof(EntryLine))),
        ranks_(ranks),
        self_(self) {}

  [[nodiscard]] int ranks() const noexcept { return ranks_; }
  [[nodiscard]] int self() const noexcept { return self_; }

  [[nodiscard]] EntryLine& entry(std::uint64_t sequence, int rank) const noexcept {
    return entries_[static_cast<std::int64_t>(sequence % kWindowSlots) * ranks_ + rank];
  }
  /// Makes this rank's line (filled but for `sequence`) visible.
  void enter(std::uint64_t sequence) const noexcept {
    // release: pairs with the acquire in entered()
    entry(sequence, self_).sequence.store(sequence, std::memory_order_release);
  }
  [[nodiscard]] bool entered(std::uint64_t sequence, int rank) const noexcept {
    // acquire: pairs with the release in enter()
    return entry(sequence, rank).sequence.load(std::memory_order_acquire) >= sequence;
  }
  /// Phases count from 1 within an operation.
  void post(std::uint64_t sequence, std::uint32_t phase) const noexcept {
    // release: pairs with the acquire in posted()
    phase_line(sequence, self_).value.store(sequence << 20 | phase, std::memory_order_release);
  }
  [[nodiscard]] bool posted(std::uint64_t sequence, int rank, std::uint32_t phase) const noexcept {
    // acquire: pairs with the release in post()
    return phase_line(sequence, rank).value.load(std::memory_order_acquire) >=
           (sequence << 20 | phase);
  }

 private:
  [[nodiscard]] PhaseLine& phase_line(std::uint64_t sequence, int rank) const noexcept {
    return phases_[static_cast<std::int64_t>(sequence % kWindowSlots) * ranks_ + rank];
  }

  EntryLine* entries_ = nullptr;
  PhaseLine* phases_ = nullptr;
  int ranks_ = 0;
  int self_ = 0;
};

}  // namespace shoal::transport::shm
