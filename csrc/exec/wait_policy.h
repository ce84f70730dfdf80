/// Spin briefly, then yield, then sleep: ranks will outnumber cores in every test and many jobs.
#pragma once

#include <cstdint>

namespace shoal::exec {

/// One wait. One thread.
class WaitPolicy {
 public:
  enum class Action : std::uint8_t { kSpin, kYield, kSleep };

  explicit WaitPolicy(bool crowded) noexcept : crowded_(crowded) {}

  void moved() noexcept { rounds_ = 0; }
  Action next() noexcept {
    // Crowded: whoever is awaited needs this core. Else some microseconds outlast most small
    // collectives; then giving way costs little where nobody else wants the core, and much is won
    // where somebody does whom this process does not know of (another job, another "host" on this
    // machine). A futex wake-up across cores costs 22..33 us.
    const std::uint32_t yields = crowded_ ? 60 : 200;
    if (rounds_ < spins() + yields) ++rounds_;
    if (rounds_ <= spins()) return Action::kSpin;
    return rounds_ < spins() + yields ? Action::kYield : Action::kSleep;
  }
  /// Reading the clock and running callbacks costs as much as a round of polling: not while
  /// spinning.
  [[nodiscard]] bool slow() const noexcept { return rounds_ > spins(); }

 private:
  [[nodiscard]] std::uint32_t spins() const noexcept { return crowded_ ? 10 : 100; }

  bool crowded_;
  std::uint32_t rounds_ = 0;
};

}  // namespace shoal::exec
