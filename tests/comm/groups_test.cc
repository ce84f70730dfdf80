// What frameworks need beside the calls themselves: groups made by their members, threads that
// complete operations, counters.
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <numeric>

#include "comm/job.h"

namespace shoal {
namespace {

/// Where ranks that are threads leave each other texts.
class Board {
 public:
  Exchange exchange(const std::string& name, int place, int size) {
    return [this, name, place, size](const std::string& mine) {
      std::unique_lock lock(mutex_);
      texts_[name][place] = mine;
      changed_.notify_all();
      const bool complete = changed_.wait_for(lock, std::chrono::seconds(20), [&] {
        return texts_[name].size() == static_cast<std::size_t>(size);
      });
      if (!complete) throw std::runtime_error("not all have come to " + name);
      std::vector<std::string> all;
      for (const auto& [rank, text] : texts_[name]) all.push_back(text);
      return all;
    };
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::map<int, std::string>> texts_;
};

std::int64_t sum_of(Communicator& comm, std::int64_t mine) {
  std::int64_t sum = 0;
  comm.all_reduce({&mine, {8}}, {&sum, {8}}, Count{1}, DataType::kInt64, ReduceOp::kSum).wait();
  return sum;
}

Communicator make_group(Communicator& comm, Board& board, const std::string& name,
                        const std::vector<Rank>& ranks) {
  const auto place = std::ranges::find(ranks, comm.rank()) - ranks.begin();
  return comm.group(ranks,
                    board.exchange(name, static_cast<int>(place), static_cast<int>(ranks.size())));
}

// Overlapping groups are made one after the other on each rank, in no common order of all of them,
// while the ranks outside do something else.
TEST(Groups, AreMadeByTheirMembersAlone) {
  Board board;
  run_ranks(5, [&](Communicator& comm) {
    const std::vector<std::vector<Rank>> lists = {{0, 1}, {1, 2, 3}, {3, 0}, {4, 2, 1, 0}, {2}};
    std::vector<std::uint32_t> ids{comm.id()};
    for (std::size_t g = 0; g < lists.size(); ++g) {
      const std::vector<Rank>& ranks = lists[g];
      const auto place = std::ranges::find(ranks, comm.rank());
      if (place == ranks.end()) continue;
      Communicator group = make_group(comm, board, std::to_string(g), ranks);
      EXPECT_EQ(group.rank(), place - ranks.begin());
      EXPECT_EQ(group.size(), static_cast<Rank>(ranks.size()));
      const std::int64_t expected = std::accumulate(ranks.begin(), ranks.end(), std::int64_t{0});
      EXPECT_EQ(sum_of(group, comm.rank()), expected);
      EXPECT_EQ(std::ranges::count(ids, group.id()), 0) << "two groups of a rank share a number";
      ids.push_back(group.id());
    }
    EXPECT_EQ(sum_of(comm, 1), 5);
  });
}

TEST(Groups, OfWrongRanksAreRefusedBeforeAnythingIsExchanged) {
  run_ranks(2, [](Communicator& comm) {
    const Exchange never = [](const std::string&) -> std::vector<std::string> {
      ADD_FAILURE() << "exchanged";
      return {};
    };
    const std::vector<std::vector<Rank>> wrong = {{}, {0, 0, 1}, {0, 1, 2}, {-1, 0, 1}};
    for (const auto& ranks : wrong) {
      EXPECT_EQ(outcome([&] { (void)comm.group(ranks, never); }), ErrorCode::kInvalidArgument);
    }
    const std::vector<Rank> other = {1 - comm.rank()};
    EXPECT_EQ(outcome([&] { (void)comm.group(other, never); }), ErrorCode::kInvalidArgument);
  });
}

TEST(Groups, WhoseExchangeFailsLeaveNoMemoryBehind) {
  run_ranks(2, [](Communicator& comm) {
    const std::vector<Rank> ranks = {0, 1};
    const std::int64_t before = comm.pool().used.value;
    const Exchange lost = [](const std::string&) -> std::vector<std::string> {
      throw std::runtime_error("the store is gone");
    };
    EXPECT_THROW((void)comm.group(ranks, lost), std::runtime_error);
    const Exchange foreign = [](const std::string& mine) { return std::vector<std::string>{mine}; };
    EXPECT_EQ(outcome([&] { (void)comm.group(ranks, foreign); }), ErrorCode::kInvalidArgument);
    EXPECT_EQ(comm.pool().used.value, before);
  });
}

// The thread that drives completes an operation that nobody waits for, and ends when it is told to.
TEST(Drive, CompletesOperationsThatNobodyWaitsFor) {
  run_ranks(2, [](Communicator& comm) {
    std::atomic<bool> stop{false};
    std::thread driver([&] { comm.drive([&] { return stop.load(); }); });
    std::vector<double> x(200'000, comm.rank() + 1.0);
    const Bytes bytes{static_cast<std::int64_t>(x.size() * sizeof(double))};
    Work work = comm.all_reduce({x.data(), bytes}, {x.data(), bytes}, Count{200'000},
                                DataType::kFloat64, ReduceOp::kSum);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!work.done() && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_TRUE(work.done());
    EXPECT_EQ(x.back(), 3.0);
    stop = true;
    comm.wake();
    driver.join();
  });
}

TEST(Work, IsWaitedForNoLongerThanAsked) {
  run_ranks(2, [](Communicator& comm) {
    std::int64_t mine = 1, sum = 0;
    if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
    Work work =
        comm.all_reduce({&mine, {8}}, {&sum, {8}}, Count{1}, DataType::kInt64, ReduceOp::kSum);
    if (comm.rank() == 0) {
      EXPECT_FALSE(work.wait_for(20));
    }
    EXPECT_TRUE(work.wait_for(20'000));
    EXPECT_EQ(work.code(), ErrorCode::kOk);
    EXPECT_EQ(sum, 2);
  });
}

TEST(Statistics, CountWhatIsStagedAndNothingElse) {
  run_ranks(2, [](Communicator& comm) {
    constexpr std::int64_t kBytes = 1 << 20;
    const PoolBlock block = comm.allocate({kBytes});
    std::vector<std::byte> own(kBytes);
    const auto sum = [&](void* data) {
      comm.all_reduce({data, {kBytes}}, {data, {kBytes}}, Count{kBytes}, DataType::kUint8,
                      ReduceOp::kSum)
          .wait();
    };
    const Statistics before = comm.statistics();
    sum(block.data());
    EXPECT_EQ(comm.statistics().staged, before.staged);
    EXPECT_EQ(comm.statistics().operations, before.operations + 1);
    sum(own.data());
    EXPECT_EQ(comm.statistics().staged, before.staged + 1);
    EXPECT_EQ(comm.statistics().staged_bytes.value, before.staged_bytes.value + 2 * kBytes);
  });
}

// Rank 0 takes any free port and says which, over a channel of the program's own.
TEST(Init, ServesTheStoreAtAnyPort) {
  std::promise<std::string> told;
  const std::shared_future<std::string> store = told.get_future().share();
  std::vector<std::thread> ranks;
  for (Rank rank = 0; rank < 2; ++rank) {
    ranks.emplace_back([&, rank] {
      Options options;
      options.rank = rank;
      options.size = 2;
      options.secret = "only for this test";
      options.job = "any-port";
      options.init_timeout_ms = 20'000;
      if (rank == 0) {
        options.store = "127.0.0.1:0";
        options.on_store = [&](const std::string& at) { told.set_value(at); };
      } else {
        options.store = store.get();
      }
      Communicator comm = Communicator::init(options);
      EXPECT_EQ(comm.job(), "any-port");
      EXPECT_EQ(sum_of(comm, 1), 2);
    });
  }
  for (std::thread& thread : ranks) thread.join();
}

}  // namespace
}  // namespace shoal
