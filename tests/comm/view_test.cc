// Views with ranks as threads: what the others see, and how long the owner may not touch it.
#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <optional>

#include "comm/job.h"

namespace shoal {
namespace {

constexpr Count kCount{5000};
constexpr Bytes kBytes{5000 * 8};

std::int64_t* values(const PoolBlock& block) { return static_cast<std::int64_t*>(block.data()); }

PoolBlock filled(Communicator& comm, std::int64_t value) {
  PoolBlock block = comm.allocate(kBytes);
  std::fill_n(values(block), kCount.value, value);
  return block;
}

bool all_are(const View& view, std::int64_t value) {
  const auto* data = static_cast<const std::int64_t*>(view.data());
  return view.bytes() == kBytes &&
         std::all_of(data, data + kCount.value, [&](std::int64_t x) { return x == value; });
}

Work sum_in_place(Communicator& comm, const PoolBlock& block) {
  return comm.all_reduce({block.data(), kBytes}, {block.data(), kBytes}, kCount, DataType::kInt64,
                         ReduceOp::kSum);
}

std::vector<View> show(Communicator& comm, const PoolBlock& block) {
  return comm.all_gather_view({block.data(), kBytes}, kCount, DataType::kInt64);
}

TEST(View, EveryRankSeesEveryRanksMemoryAndNothingIsCopied) {
  for (const int ranks : {1, 2, 3, 8}) {
    run_ranks(ranks, [](Communicator& comm) {
      const PoolBlock block = filled(comm, comm.rank());
      comm.barrier().wait();
      const std::int64_t before = comm.pool().used.value;
      const std::vector<View> views = show(comm, block);
      ASSERT_EQ(std::ssize(views), comm.size());
      for (int r = 0; r < comm.size(); ++r) EXPECT_TRUE(all_are(views[r], r)) << r;
      EXPECT_EQ(views[comm.rank()].data(), block.data());
      EXPECT_LE(comm.pool().used.value - before, 4096) << "an account of leases, no data";
      comm.barrier().wait();
    });
  }
}

TEST(View, WhileItLivesTheOwnersMemoryIsInUseAndTheHolderIsNamed) {
  run_ranks(3, [](Communicator& comm) {
    PoolBlock block = filled(comm, 7);
    std::optional<View> view =
        comm.broadcast_view({block.data(), kBytes}, kCount, DataType::kInt64, 1);
    comm.barrier().wait();
    if (comm.rank() == 0) view.reset();
    comm.barrier().wait();
    if (comm.rank() == 1) {
      EXPECT_EQ(comm.holders(block.data(), kBytes), std::vector<Rank>{2});
      EXPECT_EQ(comm.holders(values(block) + 100, {8}), std::vector<Rank>{2});
      std::string text;
      EXPECT_EQ(outcome([&] { sum_in_place(comm, block).wait(); }, &text), ErrorCode::kBufferInUse);
      EXPECT_NE(text.find("all_reduce: output is in use: rank 2 ("), std::string::npos) << text;
      Message message;
      message.target = {block.data(), kBytes};
      message.dtype = DataType::kInt64;
      message.sends = false;
      EXPECT_EQ(outcome([&] { comm.batch({&message, 1}); }), ErrorCode::kBufferInUse);
    } else {
      EXPECT_TRUE(comm.holders(block.data(), kBytes).empty());
    }
    // Its owner may read it, and send it: nothing of it is written.
    comm.broadcast({block.data(), kBytes}, {block.data(), kBytes}, kCount, DataType::kInt64, 1)
        .wait();
    if (comm.rank() == 2) {
      EXPECT_TRUE(all_are(*view, 7));
      view.reset();
    }
    comm.barrier().wait();
    EXPECT_TRUE(comm.holders(block.data(), kBytes).empty());
    sum_in_place(comm, block).wait();
    EXPECT_EQ(values(block)[kCount.value - 1], 21);
  });
}

TEST(View, ABlockIsFreedWhenTheLastViewOfItHasGone) {
  run_ranks(2, [](Communicator& comm) {
    std::optional<PoolBlock> block = filled(comm, 3);
    std::vector<View> first = show(comm, *block);
    std::vector<View> second = show(comm, *block);
    comm.barrier().wait();
    const std::int64_t lent = comm.pool().used.value;
    const void* place = block->data();
    block.reset();
    EXPECT_EQ(comm.pool().used.value, lent) << "freed under the eyes of a holder";
    EXPECT_NE(filled(comm, 9).data(), place);
    comm.barrier().wait();
    first.clear();
    EXPECT_TRUE(all_are(second[1 - comm.rank()], 3));
    comm.barrier().wait();
    EXPECT_EQ(comm.pool().used.value, lent);
    comm.barrier().wait();
    second.clear();
    comm.barrier().wait();
    EXPECT_LE(comm.pool().used.value, lent - kBytes.value);
  });
}

// Rows of the account and blocks are used again: a loop that shows its memory does not grow.
TEST(View, AThousandRoundsTakeNoMoreMemoryThanTen) {
  run_ranks(3, [](Communicator& comm) {
    std::int64_t most = 0;
    for (int i = 0; i < 1000; ++i) {
      const PoolBlock block = filled(comm, i);
      const std::vector<View> views = show(comm, block);
      ASSERT_TRUE(all_are(views[(comm.rank() + 1) % 3], i)) << i;
      if (i < 10) most = std::max(most, comm.pool().used.value);
    }
    comm.barrier().wait();
    EXPECT_LE(comm.pool().used.value, most + 2 * kBytes.value);
  });
}

TEST(View, IsAnInputLikePrivateMemoryAndNeverAnOutput) {
  run_ranks(2, [](Communicator& comm) {
    const PoolBlock block = filled(comm, comm.rank() + 1);
    const std::vector<View> views = show(comm, block);
    const View& other = views[1 - comm.rank()];
    EXPECT_FALSE(comm.in_pool(other.data(), kBytes));
    const PoolBlock sum = comm.allocate(kBytes);
    comm.all_reduce({other.data(), kBytes}, {sum.data(), kBytes}, kCount, DataType::kInt64,
                    ReduceOp::kSum)
        .wait();
    EXPECT_EQ(values(sum)[0], 3);
    EXPECT_EQ(values(sum)[kCount.value - 1], 3);
    void* target = const_cast<void*>(other.data());
    std::string text;
    EXPECT_EQ(outcome(
                  [&] {
                    comm.broadcast({target, kBytes}, {target, kBytes}, kCount, DataType::kInt64,
                                   1 - comm.rank());
                  },
                  &text),
              ErrorCode::kInvalidArgument);
    EXPECT_NE(text.find("is a view"), std::string::npos) << text;
    EXPECT_EQ(
        outcome([&] { (void)comm.all_gather_view({target, kBytes}, kCount, DataType::kInt64); },
                &text),
        ErrorCode::kInvalidArgument);
    EXPECT_NE(text.find("itself a view"), std::string::npos) << text;
    comm.barrier().wait();
  });
}

TEST(View, PrivateMemoryIsRefusedBeforeAnythingIsPosted) {
  run_ranks(2, [](Communicator& comm) {
    const std::vector<std::int64_t> mine(kCount.value, 1);
    std::string text;
    EXPECT_EQ(
        outcome(
            [&] { (void)comm.all_gather_view({mine.data(), kBytes}, kCount, DataType::kInt64); },
            &text),
        ErrorCode::kInvalidArgument);
    EXPECT_NE(text.find("comm.empty()"), std::string::npos) << text;
    comm.barrier().wait();
  });
}

// Also beside an all_gather that a user has called with as many bytes as an announcement has.
TEST(View, OtherCallsElsewhereAreAMismatchAndLeaveNoLease) {
  run_ranks(3, [](Communicator& comm) {
    const PoolBlock block = filled(comm, 5);
    const std::vector<std::int64_t> mine(5, 1);
    std::vector<std::int64_t> gathered(3 * 5, 0);
    const auto expect = [&](const std::function<void()>& odd, const std::function<void()>& even,
                            const char* word) {
      std::string text;
      EXPECT_EQ(outcome(comm.rank() == 1 ? odd : even, &text), ErrorCode::kMismatch);
      EXPECT_NE(text.find(word), std::string::npos) << text;
      EXPECT_TRUE(comm.holders(block.data(), kBytes).empty());
    };
    const auto views = [&] { show(comm, block); };
    expect([&] { (void)comm.all_gather_view({block.data(), {8}}, {1}, DataType::kInt64); }, views,
           "count 1, int64");
    expect([&] { (void)comm.broadcast_view({block.data(), kBytes}, kCount, DataType::kInt64, 1); },
           views, "root 1");
    expect(
        [&] {
          comm.all_gather({mine.data(), {40}}, {gathered.data(), {120}}, {40}, DataType::kUint8)
              .wait();
        },
        views, "view=True");
    EXPECT_EQ(gathered, std::vector<std::int64_t>(15, 0));
    sum_in_place(comm, block).wait();
    EXPECT_EQ(values(block)[0], 15);
  });
}

TEST(View, NothingIsShownWhereThereIsNothing) {
  run_ranks(2, [](Communicator& comm) {
    const std::vector<View> views = comm.all_gather_view({}, {0}, DataType::kInt64);
    EXPECT_EQ(views[0].bytes(), Bytes{0});
    EXPECT_EQ(views[1].bytes(), Bytes{0});
  });
}

// finalize() gives back what is held; the memory stays readable.
TEST(View, WhoLeavesHoldsNothing) {
  std::barrier<> step(2);
  run_ranks(2, [&](Communicator& comm) {
    const PoolBlock block = filled(comm, 4);
    const View view = comm.broadcast_view({block.data(), kBytes}, kCount, DataType::kInt64, 0);
    comm.barrier().wait();
    EXPECT_EQ(comm.holders(block.data(), kBytes).size(), comm.rank() == 0 ? 1u : 0u);
    step.arrive_and_wait();
    if (comm.rank() == 1) comm.finalize();
    step.arrive_and_wait();
    EXPECT_TRUE(comm.holders(block.data(), kBytes).empty());
    EXPECT_TRUE(all_are(view, 4));
    step.arrive_and_wait();
  });
}

TEST(View, OutlivesItsOwnersCommunicator) {
  std::barrier<> step(2);
  run_ranks(2, [&](Communicator& comm) {
    View view;
    {
      Communicator last = std::move(comm);
      const PoolBlock block = filled(last, 6);
      view = last.broadcast_view({block.data(), kBytes}, kCount, DataType::kInt64, 1);
      last.barrier().wait();
      if (last.rank() == 1) view = View();
    }
    step.arrive_and_wait();
    EXPECT_TRUE(view.data() == nullptr || all_are(view, 6));
    step.arrive_and_wait();
  });
}

}  // namespace
}  // namespace shoal
