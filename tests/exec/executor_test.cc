// Every algorithm of the catalog, run by the executor over every transport, gives what the
// reference gives: pool and foreign memory, several counts and roots.
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <sstream>
#include <string>

#include "exec/harness.h"
#include "exec/networks.h"
#include "exec/reference.h"

namespace shoal::exec {
namespace {

using schedule::Algorithm;
using schedule::Entry;
using schedule::Shape;

constexpr int kRanks[] = {2, 3, 4, 5, 8};

/// One collective on all ranks, checked.
class Trial {
 public:
  Trial(Harness& harness, const Entry& entry, Shape shape, bool one_node)
      : harness_(harness), entry_(entry), shape_(shape) {
    PlanKey key;
    key.collective = entry.collective;
    key.dtype = DataType::kInt64;
    key.root = static_cast<std::uint16_t>(shape.root);
    key.count = shape.count;
    for (int r = 0; r < harness.ranks(); ++r) {
      shape.rank = r;
      plans_.push_back(make_plan(key, entry.algorithm, shape, {one_node, false}));
    }
  }

  void run(bool pool_memory) {
    const int ranks = harness_.ranks();
    std::vector<std::vector<std::int64_t>> inputs(ranks), outputs(ranks);
    std::vector<memory::Offset> blocks;
    std::vector<Task*> tasks;
    std::vector<std::int64_t*> results;
    for (int r = 0; r < ranks; ++r) {
      inputs[r] = make_input(plans_[r].shape);
      outputs[r].assign(plans_[r].output_bytes / 8, -1);
      std::int64_t* input = inputs[r].data();
      std::int64_t* output = outputs[r].data();
      if (pool_memory && r % 3 != 2) {  // memory of both kinds in one operation
        const auto in = harness_.pool(r).allocate(plans_[r].input_bytes + 8).value();
        const auto out = harness_.pool(r).allocate(plans_[r].output_bytes + 8).value();
        input = reinterpret_cast<std::int64_t*>(harness_.arena(r).at(in));
        output = reinterpret_cast<std::int64_t*>(harness_.arena(r).at(out));
        std::copy(inputs[r].begin(), inputs[r].end(), input);
        blocks.push_back(in);
        blocks.push_back(out);
      } else {
        blocks.push_back(memory::kNoOffset);
        blocks.push_back(memory::kNoOffset);
      }
      results.push_back(output);
      const Call call{&plans_[r], input, output, 15'000 * kNsPerMs};
      tasks.push_back(harness_.engine(r).start(harness_.group(r), call));
    }
    ASSERT_TRUE(harness_.drive(tasks)) << "hangs: " << what();
    for (int r = 0; r < ranks; ++r) {
      ASSERT_TRUE(tasks[r] == nullptr || tasks[r]->status().ok())
          << what() << ": " << tasks[r]->text();
      const std::vector<std::int64_t> expected = expected_output(plans_[r].shape);
      const std::vector<std::int64_t> got(results[r], results[r] + expected.size());
      ASSERT_EQ(got, expected) << what() << " at rank " << r;
      if (tasks[r] != nullptr) harness_.engine(r).release(*tasks[r]);
      for (int i = 0; i < 2; ++i) {
        if (blocks[2 * r + i] != memory::kNoOffset) harness_.pool(r).free(blocks[2 * r + i]);
      }
    }
  }

 private:
  [[nodiscard]] std::string what() const {
    return std::string(name_of(entry_.collective)) + " " +
           std::string(schedule::name_of(entry_.algorithm)) + ", P " +
           std::to_string(shape_.ranks) + ", node_ranks " + std::to_string(shape_.node_ranks) +
           ", root " + std::to_string(shape_.root) + ", count " + std::to_string(shape_.count);
  }
  Harness& harness_;
  const Entry& entry_;
  Shape shape_;
  std::vector<Plan> plans_;
};

/// Runs what the layout supports; returns the algorithms it has run.
std::set<Algorithm> run_catalog(int ranks, int node_ranks, const NetworkFactory& network) {
  Harness harness(ranks, node_ranks, network);
  std::set<Algorithm> seen;
  const bool one_node = node_ranks == ranks;
  for (const Entry& entry : schedule::catalog()) {
    for (const std::int64_t count : {0, 1, 3, 37, 5000}) {
      Shape shape;
      shape.collective = entry.collective;
      shape.ranks = ranks;
      shape.node_ranks = node_ranks;
      shape.count = entry.collective == Collective::kBarrier ? 0 : count;
      shape.root = has_root(entry.collective) ? static_cast<Rank>(count % ranks) : 0;
      if (!schedule::supports(entry, shape)) continue;
      for (const bool pool_memory : {true, false}) {
        Trial(harness, entry, shape, one_node).run(pool_memory);
        if (testing::Test::HasFatalFailure()) return seen;
      }
      seen.insert(entry.algorithm);
    }
  }
  return seen;
}

TEST(Executor, EveryFlatAlgorithmOverSimulatedNetwork) {
  for (const int ranks : kRanks) {
    EXPECT_GE(run_catalog(ranks, 1, sim_network).size(), 7u) << ranks;
  }
}

TEST(Executor, EveryAlgorithmOverSharedMemory) {
  for (const int ranks : kRanks) {
    EXPECT_GE(run_catalog(ranks, ranks, {}).size(), 8u) << ranks;
  }
}

TEST(Executor, StagedForReadersThatShareNoCache) {
  for (const int ranks : {2, 4}) {
    Harness harness(ranks, ranks, {});
    for (int r = 0; r < ranks; ++r) harness.group(r).distance().assume(reduce::Stores::kStreaming);
    for (const Entry& entry : schedule::catalog()) {
      if (entry.algorithm != Algorithm::kDirect || entry.collective == Collective::kBarrier) {
        continue;
      }
      for (const std::int64_t count : {600, 5000, 50'001}) {  // up to several tiles
        Shape shape;
        shape.collective = entry.collective;
        shape.ranks = shape.node_ranks = ranks;
        shape.count = count;
        Trial(harness, entry, shape, true).run(false);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

// Large enough to be staged tile by tile where a rank of the node has private memory.
TEST(Executor, HierarchicalOfLargePrivateBuffers) {
  Harness harness(6, 3, sim_network);
  for (const Entry& entry : schedule::catalog()) {
    if (entry.algorithm != Algorithm::kHierarchical || entry.collective == Collective::kBarrier) {
      continue;
    }
    Shape shape;
    shape.collective = entry.collective;
    shape.ranks = 6;
    shape.node_ranks = 3;
    shape.count = 70'001;
    shape.root = has_root(entry.collective) ? 4 : 0;
    for (const bool pool_memory : {true, false}) {
      Trial(harness, entry, shape, false).run(pool_memory);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(Executor, HierarchicalOverSharedMemoryAndSimulatedNetwork) {
  for (const auto& [ranks, node_ranks] : {std::pair{4, 2}, {6, 2}, {6, 3}, {8, 2}, {8, 4}}) {
    EXPECT_TRUE(run_catalog(ranks, node_ranks, sim_network).contains(Algorithm::kHierarchical));
  }
}

TEST(Executor, EveryFlatAlgorithmOverTcp) {
  for (const int ranks : kRanks) {
    EXPECT_GE(run_catalog(ranks, 1, tcp_network).size(), 7u) << ranks;
  }
}

TEST(Executor, HierarchicalOverSharedMemoryAndTcp) {
  for (const auto& [ranks, node_ranks] : {std::pair{4, 2}, {6, 3}, {8, 4}}) {
    EXPECT_TRUE(run_catalog(ranks, node_ranks, tcp_network).contains(Algorithm::kHierarchical));
  }
}

/// An all_reduce of puts on two ranks that is cut off after some turns, and what then becomes of
/// their memory: the outputs, and all that the pools hand out from then on.
class CutOff {
 public:
  CutOff(std::int64_t count, const NetworkFactory& network) : harness_(2, 1, network) {
    PlanKey key;
    key.collective = Collective::kAllReduce;
    key.dtype = DataType::kInt64;
    key.count = count;
    for (Rank r = 0; r < 2; ++r) {
      plans_.push_back(make_plan(key, Algorithm::kRingPut, {key.collective, r, 2}, {false, false}));
      buffers_.emplace_back(static_cast<std::size_t>(count), r + 1);
    }
  }

  /// False: it was over before.
  bool cut_after(int turns) {
    std::vector<Task*> tasks;
    for (int r = 0; r < 2; ++r) {
      const Call call{&plans_[r], buffers_[r].data(), buffers_[r].data(), 0};
      tasks.push_back(harness_.engine(r).start(harness_.group(r), call));
    }
    bool is_over = false;
    for (int n = 0; n < turns && !is_over; ++n) {
      is_over = true;
      for (int r = 0; r < 2; ++r) {
        is_over = (tasks[r] == nullptr || harness_.engine(r).test(*tasks[r])) && is_over;
      }
    }
    for (int r = 0; r < 2; ++r) {
      harness_.engine(r).synchronised(
          [&] { harness_.group(r).fail({ErrorCode::kTimeout, -1, 0}, nullptr, "cut off", false); });
    }
    EXPECT_TRUE(harness_.drive(tasks));
    for (int r = 0; r < 2; ++r) {
      if (tasks[r] != nullptr) harness_.engine(r).release(*tasks[r]);
    }
    return !is_over;
  }

  void expect_untouched_for(int ticks) {
    const std::int64_t bytes = plans_[0].program.scratch_bytes;
    const auto before = buffers_;
    std::vector<std::byte*> blocks;
    for (int r = 0; r < 2; ++r) {
      for (int n = 0; n < 8; ++n) {
        blocks.push_back(harness_.arena(r).at(harness_.pool(r).allocate(bytes).value()));
        std::memset(blocks.back(), 0x5a, static_cast<std::size_t>(bytes));
      }
    }
    for (int n = 0; n < ticks; ++n) {
      for (int r = 0; r < 2; ++r) harness_.network(r).progress();
    }
    EXPECT_EQ(buffers_, before) << "a user's buffer was written after the error";
    for (const std::byte* block : blocks) {
      EXPECT_TRUE(std::all_of(block, block + bytes, [](std::byte b) {
        return b == std::byte{0x5a};
      })) << "memory that was handed out again was written after the error";
    }
  }

  Harness& harness() { return harness_; }

 private:
  Harness harness_;
  std::vector<Plan> plans_;
  std::vector<std::vector<std::int64_t>> buffers_;
};

TEST(Executor, APutThatAnErrorHasOvertakenFindsNobodysMemory) {
  const auto slow = [](const Pools& pools) {
    return sim_network_of({.seed = 3, .min_delay = 20, .max_delay = 200}, pools);
  };
  int overtaken = 0;
  for (int turns = 10; turns < 2000; turns += 15) {
    CutOff trial(1000, slow);
    if (!trial.cut_after(turns)) break;
    const auto& fabric = *dynamic_cast<SimMember&>(trial.harness().network(0)).fabric;
    overtaken += fabric.puts() > 0 ? 1 : 0;
    trial.expect_untouched_for(300);
    EXPECT_EQ(fabric.puts(), 0) << "they have all been written";
    if (HasFailure()) FAIL() << "cut off after " << turns << " turns";
  }
  EXPECT_GE(overtaken, 5);
}

class OverUcx : public testing::Test {
 protected:
  void SetUp() override {
#if !SHOAL_TEST_UCX
    GTEST_SKIP() << "built without the UCX module";
#endif
    const auto& found = transport::ucx::find_ucx();
    if (found.path.empty()) GTEST_SKIP() << found.reason;
  }
};

/// SHOAL_TEST_RANKS="2,4": no others, where each takes long (tests/vm). Unset: all.
bool is_wanted(int ranks) {
  const char* wanted = std::getenv("SHOAL_TEST_RANKS");
  if (wanted == nullptr) return true;
  std::istringstream list(wanted);
  for (std::string number; std::getline(list, number, ',');) {
    if (number == std::to_string(ranks)) return true;
  }
  return false;
}

TEST_F(OverUcx, EveryFlatAlgorithm) {
  for (const int ranks : kRanks) {
    if (!is_wanted(ranks)) continue;
    EXPECT_GE(run_catalog(ranks, 1, ucx_network).size(), 7u) << ranks;
  }
}

TEST_F(OverUcx, APutThatAnErrorHasOvertakenFindsNobodysMemory) {
  for (const int turns : {1, 50, 200, 500, 1000, 2000, 4000, 8000}) {
    CutOff trial(200'000, ucx_network);
    if (!trial.cut_after(turns)) return;
    trial.expect_untouched_for(2000);
    if (HasFailure()) FAIL() << "cut off after " << turns << " turns";
  }
}

TEST_F(OverUcx, Hierarchical) {
  for (const auto& [ranks, node_ranks] : {std::pair{4, 2}, {6, 3}, {8, 4}}) {
    if (!is_wanted(ranks)) continue;
    EXPECT_TRUE(run_catalog(ranks, node_ranks, ucx_network).contains(Algorithm::kHierarchical));
  }
}

}  // namespace
}  // namespace shoal::exec
