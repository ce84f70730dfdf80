#include "memory/free_ranges.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace shoal::memory {
namespace {

TEST(FreeRanges, TakesTheSmallestThatFitsAndTheLowestOfEquals) {
  FreeRanges ranges;
  ranges.give(0, 1024);
  ranges.give(4096, 256);
  ranges.give(8192, 256);
  EXPECT_EQ(ranges.take(200, 64), 4096);
  EXPECT_EQ(ranges.take(256, 64), 8192);
  EXPECT_EQ(ranges.take(300, 64), 0);
  EXPECT_EQ(ranges.take(1024, 64), kNoOffset);
}

TEST(FreeRanges, NeighboursAreJoinedOnBothSides) {
  FreeRanges ranges;
  ranges.give(0, 64);
  ranges.give(128, 64);
  EXPECT_EQ(ranges.ranges(), 2u);
  ranges.give(64, 64);
  EXPECT_EQ(ranges.ranges(), 1u);
  EXPECT_EQ(ranges.largest(), 192);
}

// More crooked ranges than are tried one by one: the search must still find the one that fits.
TEST(FreeRanges, ManyCrookedRangesDoNotHideTheOneThatFits) {
  FreeRanges ranges;
  for (Offset i = 0; i < 100; ++i) ranges.give(i * 16384 + 64, 4096);
  EXPECT_EQ(ranges.take(4096, 4096), kNoOffset);
  ranges.give(200 * 16384, 12288);
  EXPECT_EQ(ranges.take(4096, 4096), 200 * 16384);
}

// Against a bitmap of 64-byte cells: nothing overlaps, nothing is lost, removal cuts exactly.
TEST(FreeRanges, AgreesWithABitmap) {
  constexpr int kCells = 4096;
  std::mt19937 random(7);
  for (int round = 0; round < 20; ++round) {
    FreeRanges ranges;
    ranges.give(0, kCells * 64);
    std::vector<bool> free(kCells, true);
    std::vector<std::pair<Offset, std::int64_t>> taken;
    const auto mark = [&](Offset begin, std::int64_t bytes, bool value) {
      for (Offset cell = begin / 64; cell < (begin + bytes) / 64; ++cell) free[cell] = value;
    };
    for (int step = 0; step < 500; ++step) {
      const auto dice = random() % 16;
      if (dice < 8) {
        const std::int64_t bytes = 64 * (1 + random() % 100);
        const std::int64_t alignment = 64 << random() % 7;
        const Offset begin = ranges.take(bytes, alignment);
        if (begin == kNoOffset) continue;
        ASSERT_EQ(begin % alignment, 0);
        for (Offset cell = begin / 64; cell < (begin + bytes) / 64; ++cell) ASSERT_TRUE(free[cell]);
        mark(begin, bytes, false);
        taken.emplace_back(begin, bytes);
      } else if (dice < 15 && !taken.empty()) {
        const std::size_t i = random() % taken.size();
        ranges.give(taken[i].first, taken[i].second);
        mark(taken[i].first, taken[i].second, true);
        taken[i] = taken.back();
        taken.pop_back();
      } else if (dice == 15) {
        const Offset begin = 64 * (random() % (kCells - 32));
        ranges.remove(begin, 64 * 32);
        mark(begin, 64 * 32, false);
        // What was taken there must not be given back twice: forget it.
        std::erase_if(taken, [&](const auto& block) {
          return block.first < begin + 64 * 32 && begin < block.first + block.second;
        });
      }
      std::int64_t longest = 0, run = 0;
      for (const bool cell : free) longest = std::max(longest, run = cell ? run + 64 : 0);
      ASSERT_EQ(ranges.largest(), longest);
    }
  }
}

}  // namespace
}  // namespace shoal::memory
