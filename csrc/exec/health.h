#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/clock.h"
#include "shoal/types.h"

namespace shoal::exec {

/// The network notices a death before the control connection brings its cause: so long it is
/// awaited. And so long a rank that has left in order may still have something under way.
inline constexpr std::int64_t kGraceNs = 1000 * kNsPerMs;
/// After an error: how long a rank that does not acknowledge it is waited for before it is cut off,
/// and a stream that does not pass. More than two ticks of the control thread, which acknowledges
/// for ranks outside a call.
inline constexpr std::int64_t kFenceNs = 250 * kNsPerMs;

/// Which ranks of the world are gone. Any thread: the control thread writes, the engine reads.
class Health {
 public:
  explicit Health(Rank ranks)
      : failed_(new std::atomic<bool>[static_cast<std::size_t>(ranks)]()),
        left_(new std::atomic<bool>[static_cast<std::size_t>(ranks)]()) {}

  void set_failed(Rank world) noexcept {
    failed_[world].store(true, std::memory_order_relaxed);
    // release: pairs with the acquire in changes()
    changes_.fetch_add(1, std::memory_order_release);
  }
  [[nodiscard]] bool failed(Rank world) const noexcept {
    return failed_[world].load(std::memory_order_relaxed);
  }
  /// It has left in order: what it has done before still counts, but it does nothing more.
  void set_left(Rank world) noexcept { left_[world].store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool left(Rank world) const noexcept {
    return left_[world].load(std::memory_order_relaxed);
  }
  /// Grows with every failure; a reader that sees it also sees which rank failed.
  [[nodiscard]] std::uint32_t changes() const noexcept {
    // acquire: pairs with the release in set_failed()
    return changes_.load(std::memory_order_acquire);
  }

 private:
  std::unique_ptr<std::atomic<bool>[]> failed_, left_;
  std::atomic<std::uint32_t> changes_{0};
};

}  // namespace shoal::exec
