// A measured row comes before the rules, but never where the rules are a promise.

#include "comm/selector.h"

#include <gtest/gtest.h>

#include "comm/job.h"

namespace shoal::comm {
namespace {

using schedule::Algorithm;

exec::PlanKey key_of(Collective collective, std::int64_t count, bool deterministic = false) {
  exec::PlanKey key;
  key.collective = collective;
  key.dtype = DataType::kFloat32;
  key.count = count;
  key.deterministic = deterministic;
  return key;
}

schedule::Shape shape_of(Rank ranks, Rank node_ranks) {
  schedule::Shape shape;
  shape.ranks = ranks;
  shape.node_ranks = node_ranks;
  return shape;
}

/// Slower than what the rules choose, so that it shows who has chosen.
const tune::Table& table() {
  const auto row = [](Collective collective, Rank node_ranks, std::int64_t bytes, Algorithm best) {
    tune::Row made;
    made.collective = collective;
    made.ranks = 4;
    made.node_ranks = node_ranks;
    made.up_to_bytes = bytes;
    made.algorithm = best;
    made.us = 12.3;
    return made;
  };
  static const tune::Table kTable{{{"2026-03-01", "a, b", "TCP"}},
                                  {row(Collective::kAllReduce, 1, 4096, Algorithm::kRing),
                                   row(Collective::kAllReduce, 2, 4096, Algorithm::kRing),
                                   row(Collective::kReduceScatter, 1, 4096, Algorithm::kRingPut),
                                   row(Collective::kReduce, 1, 4096, Algorithm::kOrdered),
                                   row(Collective::kAllToAll, 1, 4096, Algorithm::kBruck)}};
  return kTable;  // a choice points into it
}

TEST(Selector, AMeasuredRowComesBeforeTheRulesAndSaysSo) {
  for (const Rank node_ranks : {1, 2}) {
    const schedule::Shape shape = shape_of(4, node_ranks);
    const Choice choice = choose(key_of(Collective::kAllReduce, 1024), shape, false, table());
    EXPECT_EQ(choice.algorithm, Algorithm::kRing);
    EXPECT_TRUE(
        reason(choice, shape, table()).starts_with("measured by `shoal tune` on 2026-03-01"))
        << reason(choice, shape, table());
  }
}

// A table of another network, or rails where there was one device.
TEST(Selector, AOneSidedRowAnswersWhereTheNetworkHasPuts) {
  const schedule::Shape shape = shape_of(4, 1);
  const exec::PlanKey key = key_of(Collective::kReduceScatter, 16);
  EXPECT_EQ(choose(key, shape, false, table(), true).algorithm, Algorithm::kRingPut);
  EXPECT_EQ(choose(key, shape, false, table(), false).algorithm, Algorithm::kPairwise);
  for (const std::int64_t count : {1, 16, 1 << 12, 1 << 20, 1 << 24}) {
    for (const Collective collective :
         {Collective::kAllReduce, Collective::kAllGather, Collective::kReduceScatter}) {
      const Choice choice = choose(key_of(collective, count), shape, false, tune::Table(), true);
      EXPECT_FALSE(schedule::is_one_sided(choice.algorithm)) << "the rules have not measured";
    }
  }
}

TEST(Selector, WhereNothingWasMeasuredTheRulesAnswer) {
  const schedule::Shape shape = shape_of(4, 1);
  for (const std::int64_t count : {std::int64_t{16}, std::int64_t{1025}}) {
    const exec::PlanKey key = key_of(Collective::kAllReduce, count);
    const Choice by_rule = choose(key, shape, false, tune::Table());
    EXPECT_EQ(by_rule.algorithm, Algorithm::kRecursiveDoubling);
    EXPECT_EQ(reason(by_rule, shape, tune::Table()), "small: fewest rounds");
    EXPECT_EQ(choose(key, shape, false, table()).measured != nullptr, count == 16);
  }
}

// Bytes are those of the largest buffer: of an all_to_all all blocks.
TEST(Selector, SizesAreOfTheLargestBuffer) {
  const schedule::Shape shape = shape_of(4, 1);
  const auto chosen = [&](std::int64_t count) {
    return choose(key_of(Collective::kAllToAll, count), shape, false, table()).algorithm;
  };
  EXPECT_EQ(chosen(256), Algorithm::kBruck);
  EXPECT_EQ(chosen(257), Algorithm::kPairwise);
}

// Direct in the node, then between nodes, unless that costs more than it saves.
TEST(Selector, SeveralRanksANodeMeetThereWhereItPays) {
  const auto chosen = [&](Collective collective, std::int64_t count, schedule::Shape shape) {
    return choose(key_of(collective, count), shape, false, tune::Table()).algorithm;
  };
  const schedule::Shape two_by_two = shape_of(4, 2), many_nodes = shape_of(64, 2);
  for (const std::int64_t count : {1, 1 << 20}) {
    EXPECT_EQ(chosen(Collective::kAllGather, count, two_by_two), Algorithm::kHierarchical);
    EXPECT_EQ(chosen(Collective::kReduceScatter, count, two_by_two), Algorithm::kHierarchical);
  }
  EXPECT_EQ(chosen(Collective::kBroadcast, 64, two_by_two), Algorithm::kBinomial);
  EXPECT_EQ(chosen(Collective::kBroadcast, 65, two_by_two), Algorithm::kHierarchical);
  EXPECT_EQ(chosen(Collective::kAllToAll, 8 << 10, two_by_two), Algorithm::kHierarchical);
  EXPECT_EQ(chosen(Collective::kAllToAll, (8 << 10) + 1, two_by_two), Algorithm::kPairwise);
  EXPECT_EQ(chosen(Collective::kAllGather, 1, many_nodes), Algorithm::kBruck);
  EXPECT_EQ(chosen(Collective::kAllGather, 1 << 20, many_nodes), Algorithm::kHierarchical);
}

TEST(Selector, DeterministicCallsAndCallsInOneNodeAreNotMeasured) {
  for (const Collective collective : {Collective::kAllReduce, Collective::kReduce}) {
    const Choice choice = choose(key_of(collective, 16, true), shape_of(4, 1), false, table());
    EXPECT_EQ(choice.algorithm, Algorithm::kOrdered);
    EXPECT_EQ(choice.measured, nullptr);
  }
  const Choice choice = choose(key_of(Collective::kAllReduce, 16), shape_of(4, 4), true, table());
  EXPECT_EQ(choice.algorithm, Algorithm::kDirect);
}

TEST(Selector, InOneNodeNoOtherAlgorithmCanBeForced) {
  run_ranks(2, [](Communicator& comm) {
    EXPECT_EQ(comm.algorithms(Collective::kAllReduce), std::vector<std::string>{"direct"});
    std::string text;
    EXPECT_EQ(outcome([&] { comm.use_algorithm(Collective::kAllReduce, "ring"); }, &text),
              ErrorCode::kInvalidArgument);
    EXPECT_NE(text.find("cannot run on these ranks; can: direct"), std::string::npos) << text;
    comm.use_algorithm(Collective::kAllReduce, "direct");
    float x = 1;
    comm.all_reduce({&x, {4}}, {&x, {4}}, Count{1}, DataType::kFloat32, ReduceOp::kSum).wait();
    EXPECT_EQ(x, 2);
    comm.use_algorithm(Collective::kAllReduce, "");
    comm.all_reduce({&x, {4}}, {&x, {4}}, Count{1}, DataType::kFloat32, ReduceOp::kSum).wait();
    EXPECT_EQ(x, 4);
  });
}

TEST(Selector, BlocksOfALargestBuffer) {
  run_ranks(3, [](Communicator& comm) {
    const auto count = [&](Collective collective, std::int64_t bytes) {
      return comm.block_count(collective, {bytes}, DataType::kFloat32).value;
    };
    EXPECT_EQ(count(Collective::kAllReduce, 1000), 250);
    EXPECT_EQ(count(Collective::kAllGather, 1000), 83);  // rounded down: 996 bytes
    EXPECT_EQ(count(Collective::kScatter, 1), 1);
    EXPECT_EQ(count(Collective::kAllToAll, 0), 0);
    EXPECT_EQ(count(Collective::kBarrier, 8), 0);
  });
}

}  // namespace
}  // namespace shoal::comm
