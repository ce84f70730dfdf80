/// This rank's view of its node: doorbells, sleeping, progress pages.
#pragma once

#include <cstdint>

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

  /// After a store that `local_rank` may sleep for. A system call only if it does sleep; else about
  /// 10 ns.
  void ring(int local_rank) noexcept;
  /// The same for every rank of the node but this one.
  void ring_every() noexcept;
  /// Wakes this rank's own sleepers (another thread of the process has something for them).
  void ring_self() noexcept { ring(self_); }

  /// Sleep protocol: token = prepare_sleep(); look once more at what is awaited; if it is still not
  /// there sleep(token, ...), else cancel_sleep(). A ring after prepare_sleep() ends the sleep; it
  /// may also end early for no reason. No wake-up is lost: see node.cc.
  [[nodiscard]] std::uint32_t prepare_sleep() noexcept;
  void sleep(std::uint32_t token, std::int64_t timeout_ns) noexcept;
  void cancel_sleep() noexcept;

  [[nodiscard]] abi::ProgressPage& page(int local_rank) const noexcept;

 private:
  void wake_sleepers(Doorbell& doorbell) noexcept;
  memory::Arena* arena_;
  int self_;
};

}  // namespace shoal::transport::shm
