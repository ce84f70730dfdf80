#include "memory/placement.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "memory/arena.h"

namespace shoal::memory {
namespace {

constexpr std::int64_t kSlabs = 4;
constexpr ArenaShape kOneRank{1, kHeaderBytes + 2 * kSlabs* kSlabBytes};

/// Bytes of [begin, begin + bytes) that this process has mapped as huge pages of shared memory.
std::int64_t mapped_huge_bytes(const std::byte* begin, std::int64_t bytes) {
  const auto low = reinterpret_cast<std::uintptr_t>(begin);
  std::ifstream file("/proc/self/smaps");
  std::int64_t kib = 0, sum = 0;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    std::uintptr_t from = 0, to = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &from, &to) == 2) {
      inside = from < low + static_cast<std::uintptr_t>(bytes) && low < to;
    }
    if (inside && std::sscanf(line.c_str(), "ShmemPmdMapped: %ld kB", &kib) == 1) sum += kib * 1024;
  }
  return sum;
}

// What `shoal info` says is what a pool gets, in the mapping of the rank that commits.
TEST(Placement, CommittedSlabsAreHugeExactlyWhereInfoSaysSo) {
  auto arena = Arena::create(kOneRank);
  ASSERT_TRUE(arena.ok());
  const Offset pool = arena.value().pool_begin(0);
  std::byte* begin = arena.value().at(pool);
  ASSERT_TRUE(arena.value().commit(pool, kSlabs * kSlabBytes).ok());
  std::memset(begin, 1, kSlabs * kSlabBytes);
  EXPECT_EQ(mapped_huge_bytes(begin, kSlabs * kSlabBytes),
            huge_pages().granted ? kSlabs * kSlabBytes : 0);
  EXPECT_EQ(begin[kSlabBytes], std::byte{1});
}

// A slab that is committed in part keeps small pages: its other part may have content already.
TEST(Placement, OnlyWholeSlabsBecomeHuge) {
  auto arena = Arena::create(kOneRank);
  ASSERT_TRUE(arena.ok());
  const Offset pool = arena.value().pool_begin(0);
  std::byte* begin = arena.value().at(pool);
  ASSERT_TRUE(arena.value().commit(pool + 4096, 2 * kSlabBytes).ok());  // whole: the second one
  std::memset(begin + 4096, 1, 2 * kSlabBytes);
  EXPECT_EQ(mapped_huge_bytes(begin, 3 * kSlabBytes), huge_pages().granted ? kSlabBytes : 0);
}

TEST(Placement, ARefusalOfHugePagesNamesTheSetting) {
  const Grant huge = huge_pages();
  if (huge.granted || !std::filesystem::exists("/sys/kernel/mm/transparent_hugepage")) {
    EXPECT_EQ(huge.advice.find("echo"), std::string::npos) << huge.advice;
  } else {
    EXPECT_NE(huge.advice.find("within_size > /sys/kernel/mm/transparent_hugepage/shmem_enabled"),
              std::string::npos)
        << huge.advice;
  }
}

/// The policy of the page at `address`, and its nodes; -1: the kernel does not tell.
int policy_at(const std::byte* address, std::uint64_t& nodes) {
  int policy = 0;
  unsigned long mask[16] = {};
  if (::syscall(SYS_get_mempolicy, &policy, mask, 1024, address, MPOL_F_ADDR) != 0) return -1;
  nodes = mask[0];
  return policy;
}

// The policy is the memory's, not the mapping's: it holds for whichever rank touches a page first.
TEST(Placement, PagesArePreferredFromOneNodeWhereInfoSaysSo) {
  auto arena = Arena::create(kOneRank);
  ASSERT_TRUE(arena.ok());
  auto peer = Arena::open(Fd(::dup(arena.value().fd())), kOneRank);
  ASSERT_TRUE(peer.ok());
  const Offset pool = arena.value().pool_begin(0);
  ASSERT_TRUE(arena.value().commit(pool, kSlabBytes).ok());
  std::uint64_t nodes = 0;
  const int policy = policy_at(peer.value().at(pool), nodes);
  if (policy < 0) GTEST_SKIP() << "get_mempolicy is refused";
  EXPECT_EQ(policy == MPOL_PREFERRED, local_pages().granted) << local_pages().advice;
  EXPECT_EQ(std::popcount(nodes), local_pages().granted ? 1 : 0);
  EXPECT_EQ(policy_at(peer.value().at(pool + kSlabBytes), nodes), MPOL_DEFAULT) << "the next slab";
}

// Where the system does not say, the node of this thread: either is one that there is.
TEST(Placement, APageIsOnANodeOfThisMachine) {
  auto arena = Arena::create(kOneRank);
  ASSERT_TRUE(arena.ok());
  const Offset pool = arena.value().pool_begin(0);
  ASSERT_TRUE(arena.value().commit(pool, kSlabBytes).ok());
  *arena.value().at(pool) = std::byte{1};
  const std::string nodes = "/sys/devices/system/node/node";
  if (!std::filesystem::exists(nodes + "0")) GTEST_SKIP() << "no NUMA in this kernel";
  for (const void* page :
       {static_cast<const void*>(arena.value().at(pool)), static_cast<const void*>(nullptr)}) {
    const int node = node_of_page(page);
    EXPECT_TRUE(std::filesystem::exists(nodes + std::to_string(node))) << node;
  }
}

}  // namespace
}  // namespace shoal::memory
