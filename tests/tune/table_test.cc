// Which row answers for a call: every rank computes it for itself, so it must be one answer only.

#include "tune/table.h"

#include <gtest/gtest.h>

#include "rows.h"

namespace shoal::tune {
namespace {

/// The ranks of the row that answers, 0: none does.
Rank ranks_found(const Table& table, Rank ranks, Rank node_ranks, std::int64_t bytes = 1) {
  const Row* row = table.find(shape_of(Collective::kAllReduce, ranks, node_ranks), bytes);
  return row == nullptr ? 0 : row->ranks;
}

TEST(Table, AnEmptyOneKnowsNothing) { EXPECT_EQ(ranks_found(Table(), 4, 2), 0); }

TEST(Table, SizesGoUpToTheRowsBytesAndNotBeyondTheLast) {
  const Table table = table_of({all_reduce(4, 1, 4096, Algorithm::kRing),
                                all_reduce(4, 1, 64, Algorithm::kRecursiveDoubling),
                                all_reduce(4, 1, 1024, Algorithm::kRabenseifner)});
  const auto algorithm = [&](std::int64_t bytes) {
    return table.find(shape_of(Collective::kAllReduce, 4, 1), bytes)->algorithm;
  };
  EXPECT_EQ(algorithm(0), Algorithm::kRecursiveDoubling);
  EXPECT_EQ(algorithm(64), Algorithm::kRecursiveDoubling);
  EXPECT_EQ(algorithm(65), Algorithm::kRabenseifner);
  EXPECT_EQ(algorithm(1024), Algorithm::kRabenseifner);
  EXPECT_EQ(algorithm(4096), Algorithm::kRing);
  // What is larger than anything measured is not answered by guessing.
  EXPECT_EQ(ranks_found(table, 4, 1, 4097), 0);
}

TEST(Table, AnotherCollectiveIsNotAnswered) {
  const Table table = table_of({all_reduce(4, 1, 64, Algorithm::kRing)});
  EXPECT_EQ(table.find(shape_of(Collective::kAllGather, 4, 1), 1), nullptr);
}

TEST(Table, TheSameShapeComesBeforeNearerSizes) {
  const Table table = table_of(
      {all_reduce(4, 1, 64, Algorithm::kRing), all_reduce(8, 1, 4096, Algorithm::kRabenseifner)});
  EXPECT_EQ(ranks_found(table, 4, 1, 64), 4);
  // 4 ranks were measured, but not at this size: the built-in rules, not those of 8 ranks.
  EXPECT_EQ(ranks_found(table, 4, 1, 65), 0);
}

TEST(Table, RanksThatWereNotMeasuredTakeTheNearestInLog2) {
  const Table table =
      table_of({all_reduce(2, 1, 64, Algorithm::kRing), all_reduce(8, 1, 64, Algorithm::kRing),
                all_reduce(64, 1, 64, Algorithm::kRing)});
  EXPECT_EQ(ranks_found(table, 3, 1), 2);
  EXPECT_EQ(ranks_found(table, 5, 1), 8);  // 8 / 5 is less than 5 / 2
  EXPECT_EQ(ranks_found(table, 16, 1), 8);
  EXPECT_EQ(ranks_found(table, 23, 1), 64);
  EXPECT_EQ(ranks_found(table, 100'000, 1), 64);
}

// Equally near: the same one on every rank, whatever its floating point makes of log2(2/3).
TEST(Table, OfTwoEquallyNearTheSmallerAnswers) {
  const Table table =
      table_of({all_reduce(9, 1, 64, Algorithm::kRing), all_reduce(4, 1, 64, Algorithm::kRing)});
  EXPECT_EQ(ranks_found(table, 6, 1), 4);
  const Table widths =
      table_of({all_reduce(32, 8, 64, Algorithm::kRing), all_reduce(32, 2, 64, Algorithm::kRing)});
  EXPECT_EQ(widths.find(shape_of(Collective::kAllReduce, 32, 4), 1)->node_ranks, 2);
}

TEST(Table, OneRankANodeSaysNothingOfSeveral) {
  const Table flat = table_of({all_reduce(4, 1, 64, Algorithm::kRing)});
  EXPECT_EQ(ranks_found(flat, 4, 2), 0);
  const Table wide = table_of({all_reduce(4, 2, 64, Algorithm::kHierarchical)});
  EXPECT_EQ(ranks_found(wide, 4, 1), 0);
  EXPECT_EQ(ranks_found(wide, 64, 8), 4);
}

TEST(Table, NearestOfBothRanksAndRanksANode) {
  const Table table = table_of({all_reduce(8, 2, 64, Algorithm::kHierarchical),
                                all_reduce(8, 4, 64, Algorithm::kHierarchical)});
  EXPECT_EQ(table.find(shape_of(Collective::kAllReduce, 16, 8), 1)->node_ranks, 4);
  EXPECT_EQ(table.find(shape_of(Collective::kAllReduce, 16, 2), 1)->node_ranks, 2);
}

TEST(Table, AnUpdateReplacesWholeShapesAndKeepsTheOthers) {
  const Table old =
      table_of({all_reduce(4, 1, 64, Algorithm::kRing), all_reduce(4, 1, 128, Algorithm::kRing),
                all_reduce(8, 1, 64, Algorithm::kRing)});
  const Table newer({Origin{"2026-04-02", "c", "TCP"}},
                    {all_reduce(4, 1, 256, Algorithm::kRabenseifner)});
  const Table both = old.updated_by(newer);
  ASSERT_EQ(both.rows().size(), 2U);
  EXPECT_EQ(both.rows()[0].algorithm, Algorithm::kRabenseifner);
  EXPECT_EQ(both.origins()[both.rows()[0].origin].date, "2026-04-02");
  EXPECT_EQ(both.rows()[1].ranks, 8);
  EXPECT_EQ(both.origins()[both.rows()[1].origin].date, "2026-03-01");
}

// Every algorithm that tuning may find the fastest may stand in a table, and no other.
TEST(Row, OnlyWhatRunsBetweenNodesHasNoObjection) {
  for (const schedule::Entry& entry : schedule::catalog()) {
    for (const Rank node_ranks : {1, 2, 4}) {
      Row row;
      row.collective = entry.collective;
      row.ranks = 4;
      row.node_ranks = node_ranks;
      row.algorithm = entry.algorithm;
      row.us = 1;
      const schedule::Shape shape = shape_of(entry.collective, 4, node_ranks);
      const bool is_right = node_ranks < 4 && schedule::supports(entry, shape) &&
                            !schedule::is_staged(entry.algorithm);
      EXPECT_EQ(objection(row).empty(), is_right)
          << name_of(entry.collective) << " " << schedule::name_of(entry.algorithm) << " "
          << node_ranks << ": " << objection(row);
    }
  }
}

}  // namespace
}  // namespace shoal::tune
