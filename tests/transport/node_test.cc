#include "transport/shm/node.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>

#include "local_job.h"

namespace shoal::transport::shm {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

TEST(Node, NobodySleepsSoARingIsNoSystemCall) {
  LocalJob job(2);
  for (int i = 0; i < 1000; ++i) job.at(0).node.ring(1);
  job.at(0).node.ring(std::array{0, 1});
  // Whoever makes the system call counts it here first.
  EXPECT_EQ(Header(job.at(0).node.arena(), 1).doorbell().rings.load(), 0u);
}

TEST(Node, DeparturesAreOfOneRankAndOneCommunicator) {
  LocalJob job(2);
  job.at(1).node.depart(70);
  EXPECT_TRUE(job.at(0).node.has_departed(1, 70));
  EXPECT_FALSE(job.at(0).node.has_departed(1, 6));
  EXPECT_FALSE(job.at(0).node.has_departed(0, 70));
}

TEST(Node, SleepEndsAtItsTimeout) {
  LocalJob job(1);
  Node& node = job.at(0).node;
  const std::int64_t begin = now_ns();
  node.sleep(node.prepare_sleep(), 20 * kNsPerMs);
  EXPECT_GE(now_ns() - begin, 19 * kNsPerMs);
  EXPECT_LT(now_ns() - begin, 10 * kSecond);
  EXPECT_EQ(Header(node.arena(), 0).doorbell().sleepers.load(), 0u);
}

TEST(Node, ARingAfterPrepareEndsTheSleep) {
  LocalJob job(2);
  Node& sleeper = job.at(0).node;
  const std::uint32_t token = sleeper.prepare_sleep();
  job.at(1).node.ring(0);
  const std::int64_t begin = now_ns();
  sleeper.sleep(token, 30 * kSecond);
  EXPECT_LT(now_ns() - begin, 10 * kSecond);
}

TEST(Node, ARingOfAllWakesAllOthers) {
  LocalJob job(4);
  std::atomic<bool> go{false};
  std::atomic<int> late{0};
  job.run([&](int rank) {
    Node& node = job.at(rank).node;
    if (rank == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      go.store(true);
      node.ring(std::array{0, 1, 2, 3});
      return;
    }
    const std::uint32_t token = node.prepare_sleep();
    if (go.load()) return node.cancel_sleep();
    const std::int64_t begin = now_ns();
    node.sleep(token, 30 * kSecond);
    if (now_ns() - begin > 10 * kSecond) ++late;
  });
  EXPECT_EQ(late.load(), 0);
}

// Two threads wake one another, each going to sleep as fast as it can. A lost wake-up would show as
// a sleep of kTooLong.
TEST(Node, NoWakeUpIsLost) {
  constexpr int kRounds = 5000;
  constexpr std::int64_t kTooLong = 5 * kSecond;
  LocalJob job(2);
  std::atomic<int> turn{0};
  std::atomic<int> lost{0};
  job.run([&](int rank) {
    Node& node = job.at(rank).node;
    for (int round = rank; round < kRounds; round += 2) {
      while (turn.load(std::memory_order_acquire) != round && lost.load() == 0) {
        const std::uint32_t token = node.prepare_sleep();
        if (turn.load(std::memory_order_acquire) == round) {
          node.cancel_sleep();
          break;
        }
        const std::int64_t begin = now_ns();
        node.sleep(token, kTooLong);
        if (now_ns() - begin >= kTooLong) ++lost;
      }
      turn.store(round + 1, std::memory_order_release);
      node.ring(1 - rank);
    }
  });
  EXPECT_EQ(lost.load(), 0);
}

TEST(Node, WakesASleeperInAnotherProcess) {
  LocalJob job(2);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    Node& node = job.at(1).node;
    const std::int64_t begin = now_ns();
    node.sleep(node.prepare_sleep(), 30 * kSecond);
    ::_exit(now_ns() - begin < 20 * kSecond ? 0 : 1);
  }
  Doorbell& bell = Header(job.at(0).node.arena(), 1).doorbell();
  EXPECT_TRUE(eventually([&] { return bell.sleepers.load() == 1; }, 10'000));
  job.at(0).node.ring(1);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(Node, ProgressPagesAreSeenByAll) {
  LocalJob job(3);
  abi::ProgressPage& page = job.at(2).node.page(2);
  page.rank = 17;
  page.posted.store(5, std::memory_order_relaxed);
  EXPECT_EQ(job.at(0).node.page(2).rank, 17);
  EXPECT_EQ(job.at(0).node.page(2).posted.load(std::memory_order_relaxed), 5u);
  EXPECT_TRUE(job.at(0).node.commit_header().ok());
  EXPECT_EQ(job.at(0).node.page(2).rank, 17) << "committing takes nothing away";
}

}  // namespace
}  // namespace shoal::transport::shm
