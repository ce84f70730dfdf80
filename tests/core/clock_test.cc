#include "core/clock.h"

#include <gtest/gtest.h>

#include <limits>

namespace shoal {
namespace {

TEST(Clock, NeverGoesBack) {
  std::int64_t before = now_ns();
  for (int i = 0; i < 10'000; ++i) {
    const std::int64_t now = now_ns();
    ASSERT_GE(now, before);
    before = now;
  }
}

TEST(Deadline, LiesAheadByWhatWasAsked) {
  const std::int64_t before = now_ns();
  const Deadline deadline = Deadline::after_ms(2000);
  EXPECT_GE(deadline.at_ns(), before + 2000 * kNsPerMs);
  EXPECT_LE(deadline.at_ns(), now_ns() + 2000 * kNsPerMs);
}

// Who polls for remaining_ms() must not spin through the last fraction of one: it is rounded up,
// and is 0 exactly when the deadline has passed.
TEST(Deadline, TheLastFractionOfAMillisecondIsOne) {
  const Deadline deadline = Deadline::at_ns(now_ns() + kNsPerMs);
  while (!deadline.passed()) {
    const std::int64_t left = deadline.remaining_ms();
    ASSERT_TRUE(left == 1 || deadline.passed()) << left;
  }
  EXPECT_EQ(deadline.remaining_ms(), 0);
}

TEST(Deadline, FarPastAndFarFutureDoNotOverflow) {
  EXPECT_TRUE(Deadline::at_ns(0).passed());
  EXPECT_EQ(Deadline::at_ns(0).remaining_ms(), 0);
  const Deadline never = Deadline::at_ns(std::numeric_limits<std::int64_t>::max());
  EXPECT_FALSE(never.passed());
  EXPECT_GT(never.remaining_ms(), 0);
}

}  // namespace
}  // namespace shoal
