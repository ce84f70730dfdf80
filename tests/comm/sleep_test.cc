// Ranks that wait leave the processor to others, above all where ranks outnumber cores.
#include <gtest/gtest.h>
#include <time.h>
#include <unistd.h>

#include "comm/job.h"
#include "core/clock.h"

namespace shoal {
namespace {

/// CPU time of all ranks: they are threads of this process.
std::int64_t cpu_ns() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return used.tv_sec * 1'000'000'000 + used.tv_nsec;
}

class Sleep : public ::testing::TestWithParam<int> {};

// One rank comes a second late to a barrier. What the others use meanwhile is spinning at first,
// then looking around every now and then, and the ticks of every rank's control thread.
TEST_P(Sleep, WaitingUsesLessThanTwoPercentOfACore) {
  constexpr std::int64_t kLateUs = 1'000'000;
  constexpr std::int64_t kFirstMomentNs = 10 * kNsPerMs;
  const int ranks = GetParam();
  run_ranks(ranks, [&](Communicator& comm) {
    for (int i = 0; i < 3; ++i) comm.barrier().wait();
    if (comm.rank() == 0) {
      const std::int64_t began_ns = now_ns(), used_ns = cpu_ns();
      ::usleep(kLateUs);
      const std::int64_t spent_ns = cpu_ns() - used_ns;
      const std::int64_t waited_ns = (now_ns() - began_ns) * (ranks - 1);
      EXPECT_GT(spent_ns, 0) << "the clock does not run";
      EXPECT_LT(spent_ns, waited_ns / 50 + kFirstMomentNs);
      RecordProperty("percent_of_a_core", std::to_string(100.0 * static_cast<double>(spent_ns) /
                                                         static_cast<double>(waited_ns)));
    }
    comm.barrier().wait();
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, Sleep, ::testing::Values(2, 8));

}  // namespace
}  // namespace shoal
