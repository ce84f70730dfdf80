#include "memory/arena.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "core/clock.h"
#include "memory/host_room.h"
#include "shoal/abi/progress_page.h"

namespace shoal::memory {
namespace {

constexpr std::int64_t kMiB = 1 << 20;
constexpr ArenaShape kTwoRanks{2, kHeaderBytes + 64 * kMiB};

Fd duplicate(const Arena& arena) { return Fd(::fcntl(arena.fd(), F_DUPFD_CLOEXEC, 0)); }

std::int64_t held_bytes(const Arena& arena) {
  struct stat file{};
  EXPECT_EQ(::fstat(arena.fd(), &file), 0);
  return file.st_blocks * 512;
}

/// Two mappings of one arena, as two ranks have them.
struct TwoMappings {
  TwoMappings() {
    auto created = Arena::create(kTwoRanks, "job-7");
    EXPECT_TRUE(created.ok());
    first = std::move(created.value());
    auto opened = Arena::open(duplicate(first), kTwoRanks);
    EXPECT_TRUE(opened.ok());
    second = std::move(opened.value());
  }
  Arena first;
  Arena second;
};

TEST(Arena, TwoMappingsSeeTheSameBytesAtTheSameOffsets) {
  TwoMappings arena;
  ASSERT_NE(arena.first.base(), arena.second.base());
  const Offset offset = arena.first.pool_begin(1) + 12'345;
  ASSERT_TRUE(arena.first.commit(offset, 4).ok());
  std::memcpy(arena.first.at(offset), "abc", 4);
  EXPECT_STREQ(reinterpret_cast<char*>(arena.second.at(offset)), "abc");
  EXPECT_EQ(arena.second.offset_of(arena.second.at(offset), 4), offset);
}

TEST(Arena, OffsetOfKnowsTheEnds) {
  TwoMappings arena;
  const std::int64_t size = kTwoRanks.ranks * kTwoRanks.slice_bytes;
  std::byte* base = arena.first.base();
  EXPECT_EQ(arena.first.offset_of(base, size), 0);
  EXPECT_EQ(arena.first.offset_of(base, size + 1), kNoOffset);
  EXPECT_EQ(arena.first.offset_of(base + size - 1, 1), size - 1);
  EXPECT_EQ(arena.first.offset_of(base + size - 1, 2), kNoOffset);
  EXPECT_EQ(arena.first.offset_of(base + size, 0), kNoOffset);
  EXPECT_EQ(arena.first.offset_of(base - 1, 2), kNoOffset);
  int elsewhere = 0;
  EXPECT_EQ(arena.first.offset_of(&elsewhere, 4), kNoOffset);
}

TEST(Arena, TheReadOnlyMappingSeesEveryStoreAndTakesNone) {
  TwoMappings arena;
  const Offset offset = arena.first.pool_begin(0);
  ASSERT_TRUE(arena.first.commit(offset, 4).ok());
  EXPECT_FALSE(arena.second.is_read_only(arena.second.at(offset)));
  ASSERT_TRUE(arena.second.map_read_only().ok());
  const std::byte* seen = arena.second.read_only_at(offset);
  ASSERT_TRUE(arena.second.map_read_only().ok());
  EXPECT_EQ(arena.second.read_only_at(offset), seen) << "it is made once";
  std::memcpy(arena.first.at(offset), "abc", 4);
  EXPECT_STREQ(reinterpret_cast<const char*>(seen), "abc");
  EXPECT_TRUE(arena.second.is_read_only(seen));
  EXPECT_FALSE(arena.second.is_read_only(arena.second.at(offset)));
  EXPECT_EQ(arena.second.offset_of(seen, 4), kNoOffset) << "to the library it is private memory";
  // SIGSEGV; sanitizers report it and exit.
  EXPECT_DEATH(*const_cast<std::byte*>(seen) = std::byte{1}, "");
}

TEST(Arena, TheHeaderNamesTheJobForReadersOutside) {
  TwoMappings arena;
  const auto& header = *reinterpret_cast<abi::ArenaHeader*>(arena.second.base());
  EXPECT_EQ(header.magic, abi::kArenaMagic);
  EXPECT_EQ(header.version, abi::kAbiVersion);
  EXPECT_EQ(header.ranks, 2);
  EXPECT_EQ(header.slice_bytes, kTwoRanks.slice_bytes);
  EXPECT_STREQ(header.job, "job-7");
  auto long_name = Arena::create(kTwoRanks, std::string(200, 'x'));
  ASSERT_TRUE(long_name.ok());
  EXPECT_EQ(std::strlen(reinterpret_cast<abi::ArenaHeader*>(long_name.value().base())->job), 63u);
}

TEST(Arena, ShapesThatCannotBeAreRefused) {
  for (const ArenaShape& shape :
       {ArenaShape{0, 64 * kMiB}, ArenaShape{1, kHeaderBytes}, ArenaShape{1, 64 * kMiB + 4096},
        ArenaShape{1 << 20, std::int64_t{1} << 40}}) {
    EXPECT_EQ(Arena::create(shape).status().code, ErrorCode::kInvalidArgument);
  }
}

// What a peer passes us is not believed: another shape, an unsealed file (it could shrink under our
// feet: SIGBUS), and one that is sealed but no arena.
TEST(Arena, OpenRefusesWhatIsNoSealedArenaOfThatShape) {
  TwoMappings arena;
  const ArenaShape other{2, kTwoRanks.slice_bytes + kSlabBytes};
  EXPECT_EQ(Arena::open(duplicate(arena.first), other).status().code, ErrorCode::kBootstrap);
  const ArenaShape same_size{1, 2 * kTwoRanks.slice_bytes};
  EXPECT_EQ(Arena::open(duplicate(arena.first), same_size).status().code, ErrorCode::kBootstrap);
  const int fd = ::memfd_create("not-an-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(::ftruncate(fd, 2 * kTwoRanks.slice_bytes), 0);
  EXPECT_EQ(Arena::open(Fd(::dup(fd)), kTwoRanks).status().code, ErrorCode::kBootstrap);
  ASSERT_EQ(::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
  EXPECT_EQ(Arena::open(Fd(fd), kTwoRanks).status().code, ErrorCode::kBootstrap);
}

TEST(Arena, NobodyCanShrinkIt) {
  TwoMappings arena;
  EXPECT_NE(::ftruncate(arena.second.fd(), 4096), 0);
}

TEST(Arena, CommitTakesPagesAndDecommitGivesThemBack) {
  TwoMappings arena;
  const std::int64_t before = held_bytes(arena.first);
  EXPECT_LT(before, kSlabBytes + 1);  // sparse
  const Offset offset = arena.first.pool_begin(0);
  ASSERT_TRUE(arena.first.commit(offset, 16 * kMiB).ok());
  EXPECT_GE(held_bytes(arena.first), before + 16 * kMiB);
  arena.first.decommit(offset, 16 * kMiB);
  EXPECT_EQ(held_bytes(arena.first), before);
}

TEST(Arena, MoreThanTheMachineHasIsAnErrorAndTakesNothing) {
  const std::int64_t too_much = host_room().bytes / kSlabBytes * kSlabBytes * 2;
  const ArenaShape sparse{2, kHeaderBytes + too_much};
  auto arena = Arena::create(sparse);
  ASSERT_TRUE(arena.ok());
  const Status status = arena.value().commit(arena.value().pool_begin(1), too_much);
  EXPECT_EQ(status.code, ErrorCode::kOutOfMemory);
  EXPECT_EQ(status.detail, ENOMEM);
  EXPECT_LT(held_bytes(arena.value()), kSlabBytes + 1);
}

// The promise behind "no user buffer is written after an error": a store that comes late, through
// another rank's mapping, does not arrive.
TEST(Arena, AfterCutOffALateStoreDoesNotArrive) {
  TwoMappings arena;
  const Offset block = arena.first.pool_begin(0) + 8192;
  constexpr std::int64_t kBlock = 3 * 4096;
  ASSERT_TRUE(arena.first.commit(arena.first.pool_begin(0), kSlabBytes).ok());
  std::memset(arena.second.at(arena.second.pool_begin(0)), 1, kSlabBytes);
  ASSERT_TRUE(arena.first.cut_off(block, kBlock).ok());
  EXPECT_EQ(arena.first.at(block)[0], std::byte{1}) << "the content is kept";
  std::memset(arena.second.at(arena.second.pool_begin(0)), 2, kSlabBytes);  // late
  for (std::int64_t i = 0; i < kBlock; ++i) ASSERT_EQ(arena.first.at(block)[i], std::byte{1});
  EXPECT_EQ(arena.first.at(block)[-1], std::byte{2}) << "neighbouring pages stay shared";
  EXPECT_EQ(arena.first.at(block)[kBlock], std::byte{2});
  std::memset(arena.first.at(block), 3, kBlock);  // the owner refills it
  EXPECT_EQ(arena.second.at(block)[0], std::byte{2});
}

TEST(Arena, WhatWasCutOffIsNoLongerInTheArena) {
  TwoMappings arena;
  const Offset block = arena.first.pool_begin(0) + 8192;
  ASSERT_TRUE(arena.first.commit(block, 8192).ok());
  ASSERT_TRUE(arena.first.cut_off(block + 100, 10).ok());  // one page, rounded outward
  ASSERT_TRUE(arena.first.cut_off(block + 3 * 4096, 4096).ok());
  const auto inside = [&](Offset begin, std::int64_t bytes) {
    return arena.first.offset_of(arena.first.at(begin), bytes) == begin;
  };
  EXPECT_FALSE(inside(block, 1));
  EXPECT_FALSE(inside(block + 4095, 1));
  EXPECT_FALSE(inside(block - 1, 2));
  EXPECT_FALSE(inside(block - 4096, 5 * 4096));
  EXPECT_FALSE(inside(block + 3 * 4096 + 5, 0));
  EXPECT_TRUE(inside(block - 4096, 4096));
  EXPECT_TRUE(inside(block + 4096, 2 * 4096));
  EXPECT_EQ(arena.second.offset_of(arena.second.at(block), 1), block) << "of this mapping only";
  Arena moved = std::move(arena.first);
  EXPECT_EQ(moved.offset_of(moved.at(block), 1), kNoOffset) << "a move keeps it";
}

std::set<std::string> files_of_dev_shm() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    if (entry.path().filename().string().find("shoal") != std::string::npos) {
      names.insert(entry.path().filename());
    }
  }
  return names;
}

std::int64_t shared_memory_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string key; file >> key; file.ignore(256, '\n')) {
    std::int64_t kib = 0;
    if (key == "Shmem:" && file >> kib) return kib * 1024;
  }
  return 0;
}

// kill -9 in the middle: no file, and the pages come back.
TEST(Arena, NothingStaysBehindAfterAKill) {
  constexpr std::int64_t kBytes = 256 * kMiB;
  if (host_room().bytes < 2 * kBytes) GTEST_SKIP() << "too little memory to measure";
  const auto files_before = files_of_dev_shm();
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto arena = Arena::create({1, kHeaderBytes + kBytes});
    const bool ok = arena.ok() && arena.value().commit(arena.value().pool_begin(0), kBytes).ok();
    if (::write(ready[1], ok ? "y" : "n", 1) == 1) ::sleep(30);  // until killed
    ::_exit(1);
  }
  ::close(ready[1]);
  char answer = 0;
  ASSERT_EQ(::read(ready[0], &answer, 1), 1);
  ::close(ready[0]);
  EXPECT_EQ(answer, 'y');
  const std::int64_t during = shared_memory_bytes();
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(files_of_dev_shm(), files_before);
  // Half of it: other programs of the machine take and give shared memory too.
  const Deadline deadline = Deadline::after_ms(10'000);
  while (shared_memory_bytes() > during - kBytes / 2 && !deadline.passed()) ::usleep(1000);
  EXPECT_LE(shared_memory_bytes(), during - kBytes / 2);
}

TEST(HostRoom, IsPositiveAndNamesItsLimit) {
  const HostRoom room = host_room();
  EXPECT_GT(room.bytes, 0);
  EXPECT_FALSE(room.limit.empty());
}

}  // namespace
}  // namespace shoal::memory
