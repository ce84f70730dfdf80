/// This rank's view of its node: doorbells, sleeping, progress pages.
#pragma once

#include <cstdint>
#include <span>

#include "core/probes.h"
#include "core/status.h"
#include "memory/arena.h"
#include "shoal/abi/progress_page.h"
#include "transport/shm/layout.h"

namespace shoal::transport::shm {

/// Any thread. The arena outlives it.
class Node {
 public:
  Node(memory::Arena& arena, int self) noexcept;

  /// Gives pages to this rank's control memory, near the calling thread. Optional: without it they
  /// come at the first touch, from whichever rank touches first.
  [[nodiscard]] Status commit_header() noexcept;

  [[nodiscard]] memory::Arena& arena() const noexcept { return *arena_; }
  [[nodiscard]] int self() const noexcept { return self_; }
  [[nodiscard]] int ranks() const noexcept { return arena_->shape().ranks; }

  /// True if heavy_fence() can take the fences of the others upon itself. Then, once all ranks of
  /// the node have agreed on it, let_heavy_fences() makes light_fence() cost nothing.
  [[nodiscard]] bool has_heavy_fence() const noexcept { return has_heavy_fence_; }
  void let_heavy_fences() noexcept { light_fences_ = true; }
  /// Two fences for Dekker's pattern (each side stores and then loads; at least one sees the
  /// other's store): the light one on the side that runs always, the heavy one, a few microseconds,
  /// on the side that runs seldom. A full fence on the fast side would wait for the line just
  /// stored to come from another core (100 ns and more) before it looks at anything else.
  void light_fence() const noexcept;
  void heavy_fence() const noexcept;

  /// After a store that `local_rank` may sleep for. A system call only if it does sleep.
  void ring(int local_rank) noexcept;
  /// The same for several; this rank itself may be among them and is left out.
  void ring(std::span<const int> local_ranks) noexcept;
  /// Wakes this rank's own sleepers (another thread of the process has something for them).
  void ring_self() noexcept { ring(self_); }

  /// Sleep protocol: token = prepare_sleep(); look once more at what is awaited; if it is still not
  /// there sleep(token, ...), else cancel_sleep(). A ring after prepare_sleep() ends the sleep; it
  /// may also end early for no reason. No wake-up is lost: see node.cc.
  [[nodiscard]] std::uint32_t prepare_sleep() noexcept;
  void sleep(std::uint32_t token, std::int64_t timeout_ns) noexcept;
  void cancel_sleep() noexcept;

  /// Once: this rank looks at nothing of the communicator any more.
  void depart(std::uint32_t communicator) noexcept;
  /// `local_rank` has said so.
  [[nodiscard]] bool has_departed(int local_rank, std::uint32_t communicator) const noexcept;

  [[nodiscard]] abi::ProgressPage& page(int local_rank) const noexcept;
  /// On this rank's page: this thread calls an operation that has to wait.
  void name_caller() noexcept;
  /// A row of this rank's page that no communicator has; nullptr: all are taken.
  [[nodiscard]] abi::CommunicatorRow* free_row() const noexcept;
  /// On this rank's page: one more of so many bytes has begun and ended, within a moment.
  void count_operation(std::int64_t bytes) noexcept {
    if constexpr (!kObservable) return;
    abi::ProgressPage& page = *page_;
    add(page.at_once, 1);
    add(page.bytes, bytes);
  }
  /// Of a collective that has ended: what Plan::payload_bytes says.
  void count_bytes(std::int64_t bytes) noexcept {
    if constexpr (kObservable) add(page_->bytes, bytes);
  }
  /// An operation has so many bytes of buffers that are not in the arena.
  void count_staged(std::int64_t bytes) noexcept;

 private:
  /// To a counter of this rank's page: it has no other writer. Three instructions, for which GCC
  /// would call a function.
  [[gnu::always_inline]] static void add(std::atomic<std::uint64_t>& counter,
                                         std::int64_t more) noexcept {
    constexpr auto kRelaxed = std::memory_order_relaxed;
    counter.store(counter.load(kRelaxed) + static_cast<std::uint64_t>(more), kRelaxed);
  }
  void wake_sleepers(Doorbell& doorbell) noexcept;
  memory::Arena* arena_;
  abi::ProgressPage* page_;  ///< this rank's
  int self_;
  bool has_heavy_fence_;
  bool light_fences_ = false;
};

}  // namespace shoal::transport::shm
