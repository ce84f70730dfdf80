/// What the ranks of a communicator on one node share about its operations on CUDA memory: flags
/// and records, in host memory that every process has mapped and registered with its driver.
///
///   abort        not 0: kernels write nothing any more
///   ready[r]     rank r's stream has reached its operation n: its input is there, its output free
///   done[r]      rank r's kernel of operation n is over
///   completed[r] ... and so are those of all others: rank r's buffers are its own again
///   issued[r]    rank r's host has enqueued operation n, or is about to
///   present[r]   1: rank r has all that it needs of the driver to launch kernels
///   left[r]      not 0: rank r has left; who sees that sends it nothing
///   place[r]     where rank r's workspace lies (workspace.h), for ranks of its process
///   complaint[r] what a kernel of rank r has found called differently (kernel_parameters.h)
///   records[r]   a ring: operation n uses number n % kRecords
///   captures     one CaptureSlot for each captured operation, see below
///
/// Flags are sequence numbers of 32 bits that go round; "n has been reached" is the sign of a
/// difference. A page of zeros is a valid beginning.
///
/// An operation of a graph is enqueued once and runs many times: it cannot wait for another number
/// each time. It has flags of its own for each pair of ranks, 0 or 1. ready[from][to] is set by
/// `from`, and reset by `to` when it has seen it and before it sets done[to][from]; that one is
/// reset by `from` when it has seen it. So neither can be set again before it has been reset.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "cuda/kernel_parameters.h"

namespace shoal::cuda {

/// Of each rank: how many operations its host may be ahead of its GPU.
inline constexpr std::uint32_t kRecords = 512;

/// Further than any number that a host may have issued, and still a later one.
inline constexpr std::uint32_t kFarAhead = 1u << 28;

/// `a` is `b` or a later number.
constexpr bool has_reached(std::uint32_t a, std::uint32_t b) noexcept {
  return static_cast<std::int32_t>(a - b) >= 0;
}

// A word that hosts, streams and kernels share.

inline std::uint32_t load_word(const std::uint32_t& word) noexcept {
  // acquire: pairs with the release of streams, kernels and hosts; none of them holds a lock
  return std::atomic_ref(const_cast<std::uint32_t&>(word)).load(std::memory_order_acquire);
}
inline void store_word(std::uint32_t& word, std::uint32_t value) noexcept {
  // release: pairs with load_word(), the streams' waits and the kernels' looks
  std::atomic_ref(word).store(value, std::memory_order_release);
}

/// Offsets in the block of a group of so many ranks. Immutable.
class ControlLayout {
 public:
  explicit constexpr ControlLayout(int ranks) noexcept : ranks_(ranks) {}

  enum Flag : int { kReady, kDone, kCompleted, kIssued, kPresent, kLeft, kFlags };

  static constexpr std::int64_t abort() noexcept { return 0; }
  [[nodiscard]] constexpr std::int64_t flag(Flag which, int rank) const noexcept {
    return kLine + which * words(ranks_) + rank * kWord;
  }
  [[nodiscard]] constexpr std::int64_t complaint(int rank) const noexcept {
    return flag(kFlags, 0) + rank * std::int64_t{sizeof(std::uint64_t)};
  }
  [[nodiscard]] constexpr std::int64_t place(int rank) const noexcept {
    return complaint(0) + 2 * words(ranks_) + rank * std::int64_t{sizeof(std::uint64_t)};
  }
  [[nodiscard]] constexpr std::int64_t record(int rank, std::uint32_t number) const noexcept {
    return place(0) + 2 * words(ranks_) +
           (rank * std::int64_t{kRecords} + number % kRecords) * std::int64_t{sizeof(Record)};
  }

  /// Captured operations that a communicator can have over its life.
  [[nodiscard]] constexpr int captures() const noexcept {
    return static_cast<int>(std::clamp<std::int64_t>(kCaptureBytes / capture_bytes(), 16, 256));
  }
  [[nodiscard]] constexpr std::int64_t capture_ready(int slot, int from, int to) const noexcept {
    return capture(slot) + (from * ranks_ + to) * kWord;
  }
  [[nodiscard]] constexpr std::int64_t capture_done(int slot, int from, int to) const noexcept {
    return capture(slot) + words(ranks_ * ranks_) + (from * ranks_ + to) * kWord;
  }
  /// How often rank's kernel has run.
  [[nodiscard]] constexpr std::int64_t capture_runs(int slot, int rank) const noexcept {
    return capture(slot) + 2 * words(ranks_ * ranks_) + rank * kWord;
  }
  [[nodiscard]] constexpr std::int64_t capture_record(int slot, int rank) const noexcept {
    return capture(slot) + 2 * words(ranks_ * ranks_) + words(ranks_) +
           rank * std::int64_t{sizeof(Record)};
  }

  /// Of the whole block, in pages.
  [[nodiscard]] constexpr std::int64_t bytes() const noexcept {
    return (capture(captures()) + kPage - 1) / kPage * kPage;
  }

 private:
  static constexpr std::int64_t kLine = 64;
  static constexpr std::int64_t kPage = 4096;
  static constexpr std::int64_t kWord = sizeof(std::uint32_t);
  static constexpr std::int64_t kCaptureBytes = 512 << 10;  ///< for all of them, about

  /// An array of `n` words, in lines.
  static constexpr std::int64_t words(int n) noexcept {
    return (n * kWord + kLine - 1) / kLine * kLine;
  }
  [[nodiscard]] constexpr std::int64_t capture_bytes() const noexcept {
    return 2 * words(ranks_ * ranks_) + words(ranks_) + ranks_ * std::int64_t{sizeof(Record)};
  }
  [[nodiscard]] constexpr std::int64_t capture(int slot) const noexcept {
    return record(ranks_, 0) + slot * capture_bytes();
  }

  int ranks_;
};

/// The host's view of the block. Any thread.
class ControlBlock {
 public:
  ControlBlock(std::byte* memory, int ranks) noexcept : memory_(memory), layout_(ranks) {}

  [[nodiscard]] const ControlLayout& layout() const noexcept { return layout_; }
  [[nodiscard]] std::byte* memory() const noexcept { return memory_; }

  [[nodiscard]] std::uint32_t load(std::int64_t offset) const noexcept {
    return load_word(word(offset));
  }
  void store(std::int64_t offset, std::uint32_t value) const noexcept {
    store_word(word(offset), value);
  }
  [[nodiscard]] std::uint64_t complaint(int rank) const noexcept {
    return wide(layout_.complaint(rank)).load(std::memory_order_acquire);  // of the kernel's store
  }
  [[nodiscard]] std::uint64_t place(int rank) const noexcept {
    return wide(layout_.place(rank)).load(std::memory_order_acquire);  // pairs with set_place()
  }
  void set_place(int rank, std::uint64_t address) const noexcept {
    wide(layout_.place(rank)).store(address, std::memory_order_release);
  }
  [[nodiscard]] Record& record_at(std::int64_t offset) const noexcept {
    return *reinterpret_cast<Record*>(memory_ + offset);
  }

 private:
  [[nodiscard]] std::atomic_ref<std::uint64_t> wide(std::int64_t offset) const noexcept {
    return std::atomic_ref(*reinterpret_cast<std::uint64_t*>(memory_ + offset));
  }
  [[nodiscard]] std::uint32_t& word(std::int64_t offset) const noexcept {
    return *reinterpret_cast<std::uint32_t*>(memory_ + offset);
  }

  std::byte* memory_;
  ControlLayout layout_;
};

}  // namespace shoal::cuda
