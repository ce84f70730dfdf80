// What the executor relies on and the proofs do not say.

#include <gtest/gtest.h>

#include <set>
#include <type_traits>

#include "../verify/sweep.h"
#include "schedule/catalog.h"
#include "schedule/dump.h"

namespace shoal::schedule {
namespace {

// No pointer into itself, no allocation: a schedule is copied by its bytes and takes this many.
static_assert(std::is_trivially_copyable_v<Schedule>);
static_assert(std::is_trivially_destructible_v<Schedule>);
static_assert(sizeof(Schedule) <= 256 + 32 + kBatch * sizeof(Step));
static_assert(sizeof(Step) <= 80);

constexpr int kMaxSteps = 100'000;

std::vector<Step> steps_of(Algorithm algorithm, const Shape& shape) {
  std::vector<Step> steps;
  Schedule schedule(algorithm, shape);
  for (int n = 0; n < kMaxSteps; ++n) {
    steps.push_back(schedule.next());
    if (steps.back().kind == StepKind::kEnd) return steps;
  }
  ADD_FAILURE() << "no end after " << kMaxSteps << " steps";
  return steps;
}

/// Calls each(entry, shape) for shapes of every algorithm, at every rank.
template <class Each>
void for_each_shape(Each&& each) {
  for (const Entry& entry : catalog()) {
    for (const Rank ranks : {1, 2, 3, 4, 5, 7, 8, 12, 17, 33, 64}) {
      for (const Rank node_ranks : sweep::node_ranks_of(entry, ranks)) {
        for (const std::int64_t count : sweep::counts_of(entry, ranks)) {
          Shape shape{entry.collective,
                      0,
                      ranks,
                      ranks / 2,
                      node_ranks,
                      count,
                      sweep::tile_of(entry.collective, ranks, count)};
          if (!has_root(entry.collective)) shape.root = 0;
          for (shape.rank = 0; shape.rank < ranks; ++shape.rank) each(entry, shape);
        }
      }
    }
  }
}

TEST(Catalog, RowsAreUniqueInOrderAndFound) {
  std::set<std::pair<Collective, Algorithm>> seen;
  Collective last = Collective::kBarrier;
  for (const Entry& entry : catalog()) {
    EXPECT_TRUE(seen.insert({entry.collective, entry.algorithm}).second) << sweep::name_of(entry);
    EXPECT_LE(last, entry.collective);
    last = entry.collective;
    EXPECT_EQ(find(entry.collective, entry.algorithm), &entry);
    EXPECT_FALSE(entry.cost.empty());
    EXPECT_FALSE(entry.source.empty());
  }
  EXPECT_EQ(find(Collective::kBarrier, Algorithm::kRing), nullptr);
}

// Whatever the shape, there is an algorithm that needs nothing of the node and one that is
// deterministic.
TEST(Catalog, EveryCollectiveHasAnAlgorithmForEveryShape) {
  for (int c = 0; c < kCollectives; ++c) {
    const auto collective = static_cast<Collective>(c);
    bool by_messages = false, deterministic = false;
    for (const Entry& entry : catalog()) {
      if (entry.collective != collective || entry.node_memory) continue;
      by_messages = by_messages || supports(entry, {collective, 0, 5, 0, 1, 3});
      deterministic = deterministic || entry.deterministic;
    }
    EXPECT_TRUE(by_messages && deterministic) << shoal::name_of(collective);
  }
}

TEST(Catalog, NodeAlgorithmsAskForTheirLayout) {
  const Entry& direct = *find(Collective::kAllReduce, Algorithm::kDirect);
  const Entry& hierarchical = *find(Collective::kAllReduce, Algorithm::kHierarchical);
  for (const auto& [node_ranks, is_direct, is_hierarchical] :
       {std::tuple{1, false, false}, {4, false, true}, {8, true, false}}) {
    const Shape shape{Collective::kAllReduce, 0, 8, 0, node_ranks, 100};
    EXPECT_EQ(supports(direct, shape), is_direct) << node_ranks;
    EXPECT_EQ(supports(hierarchical, shape), is_hierarchical) << node_ranks;
  }
}

TEST(Schedule, EndStaysTheEnd) {
  for_each_shape([](const Entry& entry, const Shape& shape) {
    Schedule schedule(entry.algorithm, shape);
    int steps = 0;
    while (schedule.next().kind != StepKind::kEnd && steps < kMaxSteps) ++steps;
    ASSERT_LT(steps, kMaxSteps) << sweep::text_of(entry, shape);
    for (int n = 0; n < 3; ++n) ASSERT_EQ(schedule.next().kind, StepKind::kEnd);
  });
}

TEST(Schedule, DefaultIsEnded) { EXPECT_EQ(Schedule().next().kind, StepKind::kEnd); }

TEST(Schedule, CopyGoesOnFromTheSameStep) {
  Schedule schedule(Algorithm::kRing, {Collective::kAllReduce, 1, 5, 0, 1, 100});
  for (int n = 0; n < 7; ++n) schedule.next();
  Schedule copy = schedule;
  for (int n = 0; n < 50; ++n) ASSERT_EQ(describe(copy.next()), describe(schedule.next()));
}

// The executor runs direct schedules tile by tile over sub-ranges of a block.
TEST(Direct, NoReferenceCrossesTheBorderOfABlock) {
  for_each_shape([](const Entry& entry, const Shape& shape) {
    if (entry.algorithm != Algorithm::kDirect || shape.count == 0) return;
    for (const Step& step : steps_of(entry.algorithm, shape)) {
      for (const Ref& ref : {step.dst, step.src}) {
        if (ref.count == 0) continue;
        ASSERT_EQ(ref.offset / shape.count, (ref.offset + ref.count - 1) / shape.count)
            << sweep::text_of(entry, shape) << ": " << describe(step);
      }
    }
  });
}

// The executor makes of the first post and await the exchange of addresses and fingerprints. Before
// it a rank may prepare its scratch, and nothing else: a mismatch must leave all buffers alone.
TEST(Direct, AndHierarchicalBeginWithTheEntry) {
  for_each_shape([](const Entry& entry, const Shape& shape) {
    if (!entry.node_memory || shape.ranks == 1) return;
    const std::vector<Step> steps = steps_of(entry.algorithm, shape);
    std::size_t first = 0;
    while (first < steps.size() && steps[first].kind != StepKind::kPost) {
      const Step& step = steps[first++];
      ASSERT_EQ(entry.algorithm, Algorithm::kStaged);
      ASSERT_EQ(step.kind, StepKind::kCopy) << describe(step);
      ASSERT_TRUE(step.dst.space == Space::kScratch && step.dst.rank == kSelf) << describe(step);
      ASSERT_TRUE(step.src.space == Space::kInput && step.src.rank == kSelf) << describe(step);
    }
    ASSERT_GE(steps.size(), first + 3) << sweep::text_of(entry, shape);
    EXPECT_EQ(steps[first + 1].kind, StepKind::kAwait);
    EXPECT_EQ(steps[first + 1].peer, kEvery);
  });
}

// What is not listed as node_memory must run between any two machines.
TEST(Schedule, MessageAlgorithmsTouchOwnBuffersOnly) {
  for_each_shape([](const Entry& entry, const Shape& shape) {
    if (entry.node_memory) return;
    for (const Step& step : steps_of(entry.algorithm, shape)) {
      ASSERT_TRUE(step.kind != StepKind::kPost && step.kind != StepKind::kAwait);
      ASSERT_EQ(step.src.rank, kSelf) << describe(step);
      if (step.kind == StepKind::kPut) {
        ASSERT_EQ(step.dst.rank, step.peer) << describe(step);
        ASSERT_EQ(step.dst.space, Space::kScratch) << describe(step);
      } else if (step.kind != StepKind::kWait && step.kind != StepKind::kWaitAll &&
                 step.kind != StepKind::kEnd && step.kind != StepKind::kSend) {
        ASSERT_EQ(step.dst.rank, kSelf) << describe(step);
      }
    }
  });
}

TEST(Schedule, NothingEmptyIsMovedAndNothingIdleAwaited) {
  for_each_shape([](const Entry& entry, const Shape& shape) {
    std::uint32_t busy = 0;
    for (const Step& step : steps_of(entry.algorithm, shape)) {
      const std::string where = sweep::text_of(entry, shape) + ": " + describe(step);
      const bool is_send = step.kind == StepKind::kSend || step.kind == StepKind::kPut;
      const bool is_recv = step.kind == StepKind::kRecv || step.kind == StepKind::kLand;
      const bool is_offer = step.kind == StepKind::kOffer || step.kind == StepKind::kAccept;
      if (is_offer) {
        busy |= 1U << step.slot;
      } else if (is_send || is_recv) {
        if (entry.collective != Collective::kBarrier) {
          ASSERT_GT(is_send ? step.src.count : step.dst.count, 0) << where;
        }
        busy |= 1U << step.slot;
      } else if (step.kind == StepKind::kWait) {
        ASSERT_TRUE(busy & 1U << step.slot) << where;
        busy &= ~(1U << step.slot);
      } else if (step.kind == StepKind::kWaitAll) {
        ASSERT_NE(busy, 0U) << where;
        busy = 0;
      } else if (step.kind == StepKind::kCopy) {
        ASSERT_TRUE(step.dst.count > 0 && step.dst != step.src) << where;
      }
    }
  });
}

// scratch_count() is what the executor allocates: all of it is used (the proofs show that it is
// enough).
TEST(Schedule, ScratchIsNotAskedForInVain) {
  for_each_shape([](const Entry& entry, const Shape& shape) {
    std::int64_t used = 0;
    for (const Step& step : steps_of(entry.algorithm, shape)) {
      const std::int64_t further = step.kind == StepKind::kFold && step.src.rank == kSelf
                                       ? (step.blocks - 1) * step.stride
                                       : 0;
      if (step.dst.space == Space::kScratch) {
        used = std::max(used, step.dst.offset + step.dst.count);
      }
      if (step.src.space == Space::kScratch && step.src.rank < 0 && !step.own_input) {
        used = std::max(used, step.src.offset + step.src.count + further);
      }
    }
    const std::int64_t asked = scratch_count(entry.algorithm, shape);
    // One slice may be smaller than the largest, for which there is room; so may the last tile.
    const std::int64_t tile =
        is_staged(entry.algorithm) ? std::max<std::int64_t>(shape.tile, shape.node_ranks) : 0;
    const std::int64_t largest = std::max(Partition{shape.count, shape.ranks}.largest(), tile);
    EXPECT_GE(asked, used) << sweep::text_of(entry, shape) << " rank " << shape.rank;
    // A part without elements has a place that others may put to all the same.
    if (is_one_sided(entry.algorithm) && shape.count < shape.ranks) return;
    EXPECT_LE(asked,
              used + 2 * std::max(largest, Partition{shape.count, shape.node_ranks}.largest()))
        << sweep::text_of(entry, shape) << " rank " << shape.rank;
  });
}

TEST(Dump, SaysWhoWhatAndWhere) {
  const Shape shape{Collective::kAllReduce, 1, 4, 0, 1, 64};
  const std::string text = dump(Algorithm::kRing, shape);
  EXPECT_TRUE(text.starts_with("all_reduce ring: 4 ranks, count 64\nrank 1  (scratch 32)\n"))
      << text;
  EXPECT_EQ(describe(Step::send(2, input(128, 128), 0)),
            "send    -> 2    input[128..256)                               slot 0");
  EXPECT_EQ(describe(Step::post()), "post");
}

}  // namespace
}  // namespace shoal::schedule
