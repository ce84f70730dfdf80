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
    // Crowded: whoever is awaited needs this core. Else 1000 rounds of about 60 ns outlast most
    // collectives; a yield costs 1.4 us, a futex wake-up across cores 22..33 us.
    const std::uint32_t spins = crowded_ ? 10 : 1000;
    const std::uint32_t yields = crowded_ ? 60 : 40;
    if (rounds_ < spins + yields) ++rounds_;
    if (rounds_ <= spins) return Action::kSpin;
    return rounds_ < spins + yields ? Action::kYield : Action::kSleep;
  }
  /// Reading the clock and running callbacks costs as much as a round of polling: not while
  /// spinning.
  [[nodiscard]] bool slow() const noexcept { return rounds_ > (crowded_ ? 10u : 1000u); }

 private:
  bool crowded_;
  std::uint32_t rounds_ = 0;
};

}  // namespace shoal::exec
