// The same with ranks as processes: chunks travel as file descriptors or legacy IPC handles, and a
// rank may die or stop in the middle of it.
#include <gtest/gtest.h>
#include <signal.h>

#include <cstring>

#include "cuda/node.h"

namespace shoal::cuda {
namespace {

using testing::Failing;
using testing::fake_driver;
using testing::make_shared_page;
using testing::options_of;
using testing::outcome;
using testing::Processes;
using testing::reaches;
using testing::Shared;

constexpr std::int64_t kMiB = 1 << 20;

#define CHECK_THAT(condition)                                            \
  if (!(condition)) {                                                    \
    std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
    return false;                                                        \
  }

/// Each rank fills a block of its own, several times over with growth between, and reads those of
/// all others through its own mapping.
bool write_and_read(Shared& shared, int ranks, int rank, int rounds, std::int64_t bytes,
                    std::int64_t limit) {
  DeviceArena arena(fake_driver(), options_of(shared, ranks, rank, limit));
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t block = arena.allocate(bytes);
    std::memset(reinterpret_cast<void*>(block), 16 * round + rank, static_cast<std::size_t>(bytes));
    shared.words[static_cast<std::size_t>(8 + rank)] =
        static_cast<std::int64_t>(block - arena.base(rank));
    ++shared.words[0];
    CHECK_THAT(reaches(shared.words[0], (2 * round + 1) * ranks));
    for (int other = 0; other < ranks; ++other) {
      const std::uint64_t theirs =
          arena.base(other) +
          static_cast<std::uint64_t>(shared.words[static_cast<std::size_t>(8 + other)].load());
      CHECK_THAT(testing::is_accessible(theirs + static_cast<std::uint64_t>(bytes) - 1));
      const auto* data = reinterpret_cast<const unsigned char*>(theirs);
      CHECK_THAT(data[0] == 16 * round + other && data[bytes - 1] == 16 * round + other);
    }
    ++shared.words[0];
    CHECK_THAT(reaches(shared.words[0], (2 * round + 2) * ranks));
  }
  return true;
}

void expect_all_well(Processes& processes, int ranks) {
  for (int rank = 0; rank < ranks; ++rank) EXPECT_EQ(processes.wait(rank), 0) << "rank " << rank;
}

TEST(DeviceArenaProcesses, MapOneAnothersGrowingPools) {
  Shared& shared = make_shared_page();
  Processes processes(
      4, [&](int rank) { return write_and_read(shared, 4, rank, 4, 30 * kMiB, 256 * kMiB); });
  expect_all_well(processes, 4);
}

TEST(DeviceArenaProcesses, UseLegacyIpcWhereExportIsRefused) {
  ::setenv("FAKE_CUDA_NO_EXPORT", "1", 1);
  Shared& shared = make_shared_page();
  Processes processes(3, [&](int rank) {
    CHECK_THAT(write_and_read(shared, 3, rank, 2, 3 * kMiB, 16 * kMiB));
    DeviceArena arena(fake_driver(), options_of(shared, 3, rank));
    CHECK_THAT(arena.export_kind() == ExportKind::kIpcHandle);
    CHECK_THAT(arena.use().limit_bytes == 32 * kMiB);  // an eighth of the device
    CHECK_THAT(outcome([&] { (void)arena.allocate(33 * kMiB); }) == ErrorCode::kOutOfMemory);
    return true;
  });
  expect_all_well(processes, 3);
  ::unsetenv("FAKE_CUDA_NO_EXPORT");
}

// Ranks as threads on two devices use one another's addresses; each context is let in.
TEST(DeviceArenaProcesses, LegacyMemoryOfAThreadOnAnotherDeviceIsShared) {
  ::setenv("FAKE_CUDA_NO_EXPORT", "1", 1);
  Shared& shared = make_shared_page();
  Processes processes(1, [&](int) {
    MemoryOptions first = options_of(shared, 2, 0), second = options_of(shared, 2, 1);
    second.device = 1;
    DeviceArena owner(fake_driver(), first);
    DeviceArena user(fake_driver(), second);
    const std::uint64_t block = owner.allocate(kMiB);
    CHECK_THAT(user.offset_of(block, kMiB).has_value() && user.base(0) == owner.base(0));
    const Failing failing("cuCtxEnablePeerAccess:1:217");
    std::string text;
    CHECK_THAT(outcome([&] { (void)user.allocate(kMiB); }, &text) == ErrorCode::kDevice);
    CHECK_THAT(text.find("local rank 0 cannot map it: cuCtxEnablePeerAccess") != std::string::npos);
    return true;
  });
  expect_all_well(processes, 1);
  ::unsetenv("FAKE_CUDA_NO_EXPORT");
}

// Attributes promise it, and the call refuses: as in some containers.
TEST(DeviceArenaProcesses, UseLegacyIpcWhereExportFails) {
  ::setenv("FAKE_CUDA_FAIL", "cuMemExportToShareableHandle:1:801", 1);
  Shared& shared = make_shared_page();
  Processes processes(
      2, [&](int rank) { return write_and_read(shared, 2, rank, 2, 3 * kMiB, 16 * kMiB); });
  expect_all_well(processes, 2);
  ::unsetenv("FAKE_CUDA_FAIL");
}

TEST(DeviceArenaProcesses, OneThatComesLateFindsWhatThereIs) {
  Shared& shared = make_shared_page();
  Processes processes(2, [&](int rank) {
    if (rank == 1) CHECK_THAT(reaches(shared.words[0], 1));
    DeviceArena arena(fake_driver(), options_of(shared, 2, rank, 256 * kMiB));
    if (rank == 0) {
      (void)arena.allocate(40 * kMiB);
      const std::uint64_t last = arena.allocate(40 * kMiB);
      std::memset(reinterpret_cast<void*>(last), 0x77, 40 * kMiB);
      shared.words[1] = static_cast<std::int64_t>(last - arena.base(0));
      shared.words[0] = 1;
      return reaches(shared.words[0], 2);
    }
    const std::uint64_t there = arena.base(0) + static_cast<std::uint64_t>(shared.words[1].load());
    CHECK_THAT(reinterpret_cast<unsigned char*>(there)[40 * kMiB - 1] == 0x77);
    shared.words[0] = 2;
    return true;
  });
  expect_all_well(processes, 2);
}

// Killed while it maps (its import is delayed by stopping it first): the owner does not wait for
// the dead, and what it maps of the dead stays readable.
TEST(DeviceArenaProcesses, APeerThatDiesInTheExchangeIsNotWaitedFor) {
  Shared& shared = make_shared_page();
  Processes processes(2, [&](int rank) {
    DeviceArena arena(fake_driver(), options_of(shared, 2, rank, 256 * kMiB, 20'000));
    const std::uint64_t block = arena.allocate(kMiB);
    std::memset(reinterpret_cast<void*>(block), 0x40 + rank, kMiB);
    shared.words[static_cast<std::size_t>(8 + rank)] =
        static_cast<std::int64_t>(block - arena.base(rank));
    ++shared.words[0];
    CHECK_THAT(reaches(shared.words[0], 3));  // the parent has stopped rank 1
    if (rank == 1) return false;              // killed before it gets here
    shared.words[1] = 1;
    const std::int64_t begin = now_ns();
    CHECK_THAT(arena.allocate(50 * kMiB) != 0);
    CHECK_THAT(now_ns() - begin < 10'000 * kNsPerMs);
    const std::uint64_t theirs = arena.base(1) + static_cast<std::uint64_t>(shared.words[9].load());
    return *reinterpret_cast<unsigned char*>(theirs) == 0x41;
  });
  ASSERT_TRUE(reaches(shared.words[0], 2));
  processes.stop(1);
  shared.words[0] = 3;
  ASSERT_TRUE(reaches(shared.words[1], 1));
  ::usleep(100'000);  // now the owner waits for the stopped one
  ::kill(processes.pid(1), SIGKILL);
  EXPECT_EQ(processes.wait(0), 0);
  EXPECT_TRUE(WIFSIGNALED(processes.wait(1)));
}

TEST(DeviceArenaProcesses, AStoppedPeerIsATimeoutThatNamesIt) {
  Shared& shared = make_shared_page();
  Processes processes(2, [&](int rank) {
    DeviceArena arena(fake_driver(), options_of(shared, 2, rank, 256 * kMiB, 300));
    ++shared.words[0];
    CHECK_THAT(reaches(shared.words[0], 3));
    if (rank == 1) return reaches(shared.words[0], 4);
    std::string text;
    CHECK_THAT(outcome([&] { (void)arena.allocate(kMiB); }, &text) == ErrorCode::kTimeout);
    CHECK_THAT(text.find("local rank 1 has not mapped 32.0 MiB") != std::string::npos);
    shared.words[1] = 1;
    CHECK_THAT(reaches(shared.words[0], 4));  // it goes on
    for (int i = 0; i < 100; ++i) {
      if (outcome([&] { (void)arena.allocate(kMiB); }) == ErrorCode::kOk) return true;
    }
    return false;
  });
  ASSERT_TRUE(reaches(shared.words[0], 2));
  processes.stop(1);
  shared.words[0] = 3;
  EXPECT_TRUE(reaches(shared.words[1], 1));
  ::kill(processes.pid(1), SIGCONT);
  shared.words[0] = 4;
  expect_all_well(processes, 2);
}

// A door that was left open by a rank that was killed: nobody listens behind it.
TEST(DeviceArenaProcesses, ADeadRanksDoorStopsNobody) {
  Shared& shared = make_shared_page();
  shared.doors[1] = 0x1234567;
  Processes processes(1, [&](int rank) {
    DeviceArena arena(fake_driver(), options_of(shared, 2, rank, 64 * kMiB, 5000));
    return arena.allocate(kMiB) != 0;
  });
  expect_all_well(processes, 1);
}

TEST(DeviceArenaProcesses, OneThatCannotMapItsOwnersMemoryDoesNotStart) {
  Shared& shared = make_shared_page();
  Processes processes(2, [&](int rank) {
    if (rank == 0) {
      DeviceArena arena(fake_driver(), options_of(shared, 2, rank, 256 * kMiB));
      (void)arena.allocate(kMiB);
      shared.words[0] = 1;
      CHECK_THAT(reaches(shared.words[0], 2));
      CHECK_THAT(arena.allocate(40 * kMiB) != 0);  // it is not waited for
      return true;
    }
    CHECK_THAT(reaches(shared.words[0], 1));
    ::setenv("FAKE_CUDA_FAIL", "cuMemImportFromShareableHandle:1:801", 1);
    std::string text;
    CHECK_THAT(outcome([&] { DeviceArena arena(fake_driver(), options_of(shared, 2, rank)); },
                       &text) == ErrorCode::kDevice);
    CHECK_THAT(text.find("cannot map the device memory of local rank 0: "
                         "cuMemImportFromShareableHandle") != std::string::npos);
    shared.words[0] = 2;
    return true;
  });
  expect_all_well(processes, 2);
}

}  // namespace
}  // namespace shoal::cuda
