#include "duty_cycle.h"

#include <gtest/gtest.h>

namespace shoal::tracer {
namespace {

constexpr uint64_t kMs = 1'000'000;

TEST(DutyCycle, ProbesThatAreHitSeldomStay) {
  // 400 hits in 20 ms are 0.2 ms: exactly the 1 % that they may cost.
  EXPECT_EQ(time_off_ns(20 * kMs, 400, 0), 0U);
  EXPECT_GT(time_off_ns(20 * kMs, 401, 0), 0U);
  // What taking them off costs is no reason to take them off.
  EXPECT_EQ(time_off_ns(20 * kMs, 400, 50 * kMs), 0U);
}

// Over a turn, the time on and the time off after it, hits and switching take 1 % of a core.
TEST(DutyCycle, ATurnCostsOnePercent) {
  for (const uint64_t hits : {500U, 5'000U, 50'000U}) {
    for (const uint64_t switch_ns : {0U, 100'000U, 3'000'000U}) {
      const uint64_t turn_ns = 20 * kMs + time_off_ns(20 * kMs, hits, switch_ns);
      EXPECT_NEAR(static_cast<double>(hits * kHitNs + switch_ns) / static_cast<double>(turn_ns),
                  0.01, 1e-6);
    }
  }
}

TEST(DutyCycle, AtLeastAThousandthOfTheTimeIsSeen) {
  EXPECT_EQ(time_off_ns(20 * kMs, 1'000'000'000, 0), 999 * 20 * kMs);
  EXPECT_EQ(time_off_ns(0, 1'000'000, kMs), 0U);  // and no division by nothing
}

}  // namespace
}  // namespace shoal::tracer
