// The public API with ranks as threads: right results, named errors, nothing left hanging.
#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <numeric>
#include <random>

#include "comm/job.h"

namespace shoal {
namespace {

using Values = std::vector<std::int64_t>;

ConstBuffer in(const Values& v) { return {v.data(), {static_cast<std::int64_t>(v.size() * 8)}}; }
Buffer out(Values& v) { return {v.data(), {static_cast<std::int64_t>(v.size() * 8)}}; }

/// Element i of rank r's input to operation `id`.
std::int64_t element(int id, int r, std::int64_t i) { return id * 1000 + r * 100'000 + i % 97; }

Values make_input(int id, int rank, std::int64_t size) {
  Values values(size);
  for (std::int64_t i = 0; i < size; ++i) values[i] = element(id, rank, i);
  return values;
}

/// One operation of a random program: the same on all ranks but for where its memory lies.
struct Operation {
  Collective collective;
  std::int64_t count;
  Rank root;
};

Operation make_operation(std::mt19937& random, int ranks) {
  constexpr std::int64_t kCounts[] = {0, 1, 3, 64, 777, 5000, 40'000};
  return {static_cast<Collective>(random() % kCollectives), kCounts[random() % 7],
          static_cast<Rank>(random() % ranks)};
}

enum class Where : std::uint8_t { kPool, kPrivate, kEither };

/// Memory of an input or output: in one piece, or as a list of blocks.
class Side {
 public:
  Side() = default;
  Side(Communicator& comm, std::int64_t blocks, std::int64_t count, bool is_list, Where where)
      : count_(is_list ? count : blocks * count), is_list_(is_list) {
    for (std::int64_t k = 0; k < (is_list ? blocks : 1); ++k) {
      const bool is_pool = where == Where::kPool || (where == Where::kEither && k % 2 == 0);
      if (is_pool) {
        pool_.push_back(comm.allocate({count_ * 8 + 64}));  // no two of them adjacent
        pieces_.push_back(static_cast<std::int64_t*>(pool_.back().data()));
      } else {
        values_.emplace_back(count_);
        pieces_.push_back(values_.back().data());
      }
      inputs_.push_back({pieces_.back(), {count_ * 8}});
      outputs_.push_back({pieces_.back(), {count_ * 8}});
    }
  }
  [[nodiscard]] std::int64_t& at(std::int64_t i) { return pieces_[i / count_][i % count_]; }
  [[nodiscard]] ConstBuffer in() const { return inputs_[0]; }
  [[nodiscard]] Buffer out() const { return outputs_[0]; }
  [[nodiscard]] ConstBlocks blocks_in() const {
    return is_list_ ? ConstBlocks(inputs_) : ConstBlocks(in());
  }
  [[nodiscard]] Blocks blocks_out() const { return is_list_ ? Blocks(outputs_) : Blocks(out()); }

 private:
  std::int64_t count_ = 0;  ///< of a piece
  bool is_list_ = false;
  std::vector<PoolBlock> pool_;
  std::deque<Values> values_;
  std::vector<std::int64_t*> pieces_;
  std::vector<ConstBuffer> inputs_;
  std::vector<Buffer> outputs_;
};

class Attempt {
 public:
  Attempt(Communicator& comm, const Operation& operation, int id, bool is_list, Where where)
      : comm_(comm), operation_(operation), id_(id) {
    const std::int64_t n = operation.count;
    const int ranks = comm.size();
    const Collective c = operation.collective;
    const bool wide_in =
        c == Collective::kReduceScatter || c == Collective::kAllToAll || c == Collective::kScatter;
    const bool wide_out =
        c == Collective::kAllGather || c == Collective::kAllToAll || c == Collective::kGather;
    const Values input = make_input(id, comm.rank(), wide_in ? n * ranks : n);
    size_ = wide_out ? n * ranks : n;
    input_ = Side(comm, wide_in ? ranks : 1, n, wide_in && is_list, where);
    output_ = Side(comm, wide_out ? ranks : 1, n, wide_out && is_list, where);
    for (std::size_t i = 0; i < input.size(); ++i) {
      input_.at(static_cast<std::int64_t>(i)) = input[i];
    }
  }

  void start() {
    const Count n{operation_.count};
    const Rank root = operation_.root;
    constexpr DataType kType = DataType::kInt64;
    constexpr ReduceOp kSum = ReduceOp::kSum;
    switch (operation_.collective) {
      case Collective::kBarrier:
        work_ = comm_.barrier();
        break;
      case Collective::kBroadcast:
        work_ = comm_.broadcast(input_.in(), output_.out(), n, kType, root);
        break;
      case Collective::kReduce:
        work_ = comm_.reduce(input_.in(), output_.out(), n, kType, kSum, root);
        break;
      case Collective::kAllReduce:
        work_ = comm_.all_reduce(input_.in(), output_.out(), n, kType, kSum);
        break;
      case Collective::kAllGather:
        work_ = comm_.all_gather(input_.in(), output_.blocks_out(), n, kType);
        break;
      case Collective::kReduceScatter:
        work_ = comm_.reduce_scatter(input_.blocks_in(), output_.out(), n, kType, kSum);
        break;
      case Collective::kAllToAll:
        work_ = comm_.all_to_all(input_.blocks_in(), output_.blocks_out(), n, kType);
        break;
      case Collective::kGather:
        work_ = comm_.gather(input_.in(), output_.blocks_out(), n, kType, root);
        break;
      case Collective::kScatter:
        work_ = comm_.scatter(input_.blocks_in(), output_.out(), n, kType, root);
        break;
    }
  }

  void finish() {
    work_.wait();
    const Collective c = operation_.collective;
    const bool at_root_only = c == Collective::kReduce || c == Collective::kGather;
    if (c == Collective::kBarrier || (at_root_only && comm_.rank() != operation_.root)) return;
    for (std::int64_t i = 0; i < size_; ++i) {
      ASSERT_EQ(output_.at(i), expected(i))
          << "operation " << id_ << " " << name_of(c) << " count " << operation_.count
          << " element " << i << " rank " << comm_.rank() << " of " << comm_.size();
    }
  }

 private:
  [[nodiscard]] std::int64_t expected(std::int64_t i) const {
    const std::int64_t n = operation_.count;
    const std::int64_t mine = comm_.rank() * n;
    const auto sum = [&](std::int64_t at) {
      std::int64_t total = 0;
      for (int r = 0; r < comm_.size(); ++r) total += element(id_, r, at);
      return total;
    };
    switch (operation_.collective) {
      case Collective::kBroadcast:
        return element(id_, operation_.root, i);
      case Collective::kScatter:
        return element(id_, operation_.root, mine + i);
      case Collective::kReduceScatter:
        return sum(mine + i);
      case Collective::kAllGather:
      case Collective::kGather:
        return element(id_, static_cast<int>(i / n), i % n);
      case Collective::kAllToAll:
        return element(id_, static_cast<int>(i / n), mine + i % n);
      default:
        return sum(i);
    }
  }

  Communicator& comm_;
  Operation operation_;
  int id_;
  std::int64_t size_ = 0;
  Side input_, output_;
  Work work_;  // last: ends before its buffers do
};

void run_program(Communicator& comm, int operations, unsigned seed) {
  std::mt19937 shared(seed);                  // the same on all ranks
  std::mt19937 own(seed * 31 + comm.rank());  // differs: offsets, kinds of memory, delays
  Communicator other = comm.split(0, -comm.rank());
  std::deque<std::unique_ptr<Attempt>> pending;
  std::vector<PoolBlock> padding;  // other offsets on each rank
  for (int id = 0; id < operations; ++id) {
    Communicator& on = shared() % 3 == 0 ? other : comm;
    const Operation operation = make_operation(shared, comm.size());
    if (own() % 4 == 0) padding.push_back(comm.allocate({static_cast<std::int64_t>(own() % 9000)}));
    if (padding.size() > 20) padding.erase(padding.begin());
    constexpr Where kWhere[] = {Where::kPool, Where::kPool, Where::kPrivate, Where::kEither};
    const bool is_list = own() % 2 == 0;
    pending.push_back(std::make_unique<Attempt>(on, operation, id, is_list, kWhere[own() % 4]));
    pending.back()->start();
    if (own() % 50 == 0) std::this_thread::sleep_for(std::chrono::microseconds(own() % 3000));
    while (pending.size() > 8) {
      pending.front()->finish();
      pending.pop_front();
    }
  }
  for (auto& attempt : pending) attempt->finish();
}

TEST(Communicator, RandomProgramsAgreeWithTheReference) {
  for (const int ranks : {1, 2, 3, 4, 5, 8}) {
    run_ranks(ranks, [&](Communicator& comm) { run_program(comm, 120, 11u + ranks); });
  }
}

// Between nodes: tests/python, where there are two hosts.
TEST(Communicator, ExplainEndsWithHowTheRanksAreReached) {
  for (const int ranks : {1, 3}) {
    run_ranks(ranks, [&](Communicator& comm) {
      const std::string said = comm.explain(Collective::kAllReduce, {100}, DataType::kFloat32);
      EXPECT_TRUE(said.ends_with(ranks == 1 ? "; 1 rank on 1 node"
                                            : "; 3 ranks on 1 node; within a node: shared memory"))
          << said;
    });
  }
}

TEST(Communicator, InPlaceForms) {
  run_ranks(3, [](Communicator& comm) {
    const int ranks = comm.size(), rank = comm.rank();
    for (const std::int64_t n : {2, 3000}) {
      Values x(n * ranks, rank + 1);
      comm.all_reduce(in(x), out(x), {n * ranks}, DataType::kInt64, ReduceOp::kMax).wait();
      EXPECT_EQ(x, Values(n * ranks, ranks));
      for (std::int64_t i = 0; i < n; ++i) x[rank * n + i] = rank;
      comm.all_gather({x.data() + rank * n, {n * 8}}, out(x), {n}, DataType::kInt64).wait();
      for (int r = 0; r < ranks; ++r) EXPECT_EQ(x[r * n + n - 1], r);
      comm.reduce_scatter(in(x), {x.data() + rank * n, {n * 8}}, {n}, DataType::kInt64,
                          ReduceOp::kSum)
          .wait();
      EXPECT_EQ(x[rank * n], rank * ranks);
    }
  });
}

// All blocks of all lists in the pool: they are worked on where they lie.
TEST(Communicator, ListsOfPoolMemoryAreNotCopiedTogether) {
  for (const std::int64_t n : {5000, 40'000}) {
    run_ranks(4, [&](Communicator& comm) {
      for (const Collective collective :
           {Collective::kAllGather, Collective::kReduceScatter, Collective::kAllToAll,
            Collective::kGather, Collective::kScatter}) {
        Attempt attempt(comm, {collective, n, 1}, 7, true, Where::kPool);
        attempt.start();
        attempt.finish();
      }
      EXPECT_EQ(comm.statistics().staged, 0);
    });
  }
}

TEST(Communicator, InPlaceFormsOfLists) {
  run_ranks(3, [](Communicator& comm) {
    const int ranks = comm.size(), rank = comm.rank();
    for (const Where where : {Where::kPool, Where::kPrivate, Where::kEither})
      for (const std::int64_t n : {2, 3000}) {
        Side x(comm, ranks, n, true, where);
        const auto mine = [&] { return &x.at(rank * n); };
        for (std::int64_t i = 0; i < n; ++i) mine()[i] = rank;
        comm.all_gather({mine(), {n * 8}}, x.blocks_out(), {n}, DataType::kInt64).wait();
        for (int r = 0; r < ranks; ++r) EXPECT_EQ(x.at(r * n + n - 1), r);
        comm.reduce_scatter(x.blocks_in(), {mine(), {n * 8}}, {n}, DataType::kInt64, ReduceOp::kSum)
            .wait();
        EXPECT_EQ(*mine(), rank * ranks);
        comm.gather({mine(), {n * 8}}, x.blocks_out(), {n}, DataType::kInt64, 2).wait();
        comm.scatter(x.blocks_in(), {mine(), {n * 8}}, {n}, DataType::kInt64, 2).wait();
        EXPECT_EQ(*mine(), rank * ranks);
      }
  });
}

TEST(Communicator, DifferentCallsAreAMismatchOnAllRanksAndNothingIsWritten) {
  run_ranks(3, [](Communicator& comm) {
    Values x(100, 5);
    const auto expect_mismatch = [&](const std::function<Work()>& odd,
                                     const std::function<Work()>& even, const char* word) {
      std::string text;
      EXPECT_EQ(outcome([&] { (comm.rank() == 1 ? odd : even)().wait(); }, &text),
                ErrorCode::kMismatch);
      EXPECT_NE(text.find("rank 0 called"), std::string::npos) << text;
      EXPECT_NE(text.find("rank 1 called"), std::string::npos) << text;
      EXPECT_NE(text.find(word), std::string::npos) << text;
      EXPECT_EQ(x, Values(100, 5));
    };
    const auto reduce = [&](std::int64_t n, DataType type, ReduceOp op) {
      return comm.all_reduce({x.data(), {n * size_of(type)}}, {x.data(), {n * size_of(type)}}, {n},
                             type, op);
    };
    const auto normal = [&] { return reduce(100, DataType::kInt64, ReduceOp::kSum); };
    expect_mismatch([&] { return comm.barrier(); }, normal, "barrier");
    expect_mismatch([&] { return reduce(99, DataType::kInt64, ReduceOp::kSum); }, normal, "99");
    expect_mismatch([&] { return reduce(100, DataType::kFloat64, ReduceOp::kSum); }, normal,
                    "float64");
    expect_mismatch([&] { return reduce(100, DataType::kInt64, ReduceOp::kMin); }, normal, "min");
    normal().wait();  // in one node the communicator lives on
    EXPECT_EQ(x, Values(100, 15));
  });
}

// The root of a small broadcast waits for nobody, so it may hear of a mismatch at a later call
// only; then the communicator has ended.
TEST(Communicator, AMismatchInABroadcastIsRaisedAtALaterCallAtTheLatest) {
  const auto broadcast = [](Communicator& comm, std::int64_t n, Rank root) {
    Values x(n, comm.rank());
    comm.broadcast(in(x), out(x), {n}, DataType::kInt64, root).wait();
  };
  const std::function<void(Communicator&)> cases[] = {
      [&](Communicator& comm) { broadcast(comm, 100, comm.rank() == 1 ? 1 : 2); },
      [&](Communicator& comm) { broadcast(comm, comm.rank() == 2 ? 2 : 3, 0); },
      [&](Communicator& comm) { broadcast(comm, comm.rank() == 2 ? 20 : 10'000, 2); },
      [&](Communicator& comm) { comm.rank() == 0 ? broadcast(comm, 1, 0) : comm.barrier().wait(); },
  };
  for (const auto& call : cases) {
    run_ranks(3, [&](Communicator& comm) {
      std::string text;
      const auto calls = [&] {
        call(comm);
        for (int i = 0; i < 20; ++i) comm.barrier().wait();
      };
      EXPECT_EQ(outcome(calls, &text), ErrorCode::kMismatch);
      EXPECT_NE(text.find("broadcast("), std::string::npos) << text;
    });
  }
}

// A root is not stopped by ranks that are late, up to a window of operations.
TEST(Communicator, TheRootOfASmallBroadcastNeedNotWait) {
  run_ranks(2, [](Communicator& comm) {
    Values x(10);
    for (int round = 0; round < 50; ++round) {
      // The other receives only after the root has returned.
      int token = 0;
      Message message;
      message.peer = 1 - comm.rank();
      message.sends = comm.rank() == 0;
      message.source = {&token, {sizeof token}};
      message.target = {&token, {sizeof token}};
      const auto pass_token = [&] { comm.batch({&message, 1})[0].wait(); };
      if (comm.rank() == 1) pass_token();
      for (int i = 0; i < 5; ++i) {
        x.assign(10, comm.rank() == 0 ? round * 5 + i : -1);
        comm.broadcast(in(x), out(x), {10}, DataType::kInt64, 0).wait();
        EXPECT_EQ(x, Values(10, round * 5 + i));
      }
      if (comm.rank() == 0) pass_token();
    }
  });
}

// Far more than the window, with ranks at their own pace.
TEST(Communicator, RunsOfSmallBroadcastsFromChangingRootsArriveWhole) {
  run_ranks(4, [](Communicator& comm) {
    for (int i = 0; i < 3000; ++i) {
      const Rank root = i / 40 % comm.size();
      const std::int64_t n = i % 3 == 0 ? 1 : 120;  // lines and slots
      Values x(n, comm.rank() == root ? i : -1);
      if (i % 97 == comm.rank()) std::this_thread::yield();
      comm.broadcast(in(x), out(x), {n}, DataType::kInt64, root).wait();
      ASSERT_EQ(x, Values(n, i)) << "rank " << comm.rank() << ", broadcast " << i;
    }
  });
}

TEST(Communicator, ALateRankIsNamedWhenTheDeadlinePasses) {
  run_ranks(3, [](Communicator& comm) {
    Values x(1000, 1);
    if (comm.rank() == 2) std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    std::string text;
    CallOptions options;
    options.timeout_ms = 500;
    EXPECT_EQ(outcome(
                  [&] {
                    comm.all_reduce(in(x), out(x), {1000}, DataType::kInt64, ReduceOp::kSum,
                                    options)
                        .wait();
                  },
                  &text),
              ErrorCode::kTimeout);
    EXPECT_NE(text.find("rank 2"), std::string::npos) << text;
    EXPECT_NE(text.find("has not called it yet"), std::string::npos) << text;
    // After a time-out the communicator has ended, and says why.
    EXPECT_EQ(outcome([&] { comm.barrier().wait(); }), ErrorCode::kTimeout);
  });
}

TEST(Communicator, AbortEndsEverybodysWait) {
  run_ranks(4, [](Communicator& comm) {
    std::string text;
    if (comm.rank() == 3) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      comm.abort("the loss is not a number");
    } else {
      EXPECT_EQ(outcome([&] { comm.barrier().wait(); }, &text), ErrorCode::kAborted);
      EXPECT_NE(text.find("the loss is not a number"), std::string::npos) << text;
    }
  });
}

TEST(Communicator, SplitOrdersByKeyAndLeavesOutNegativeColours) {
  run_ranks(5, [](Communicator& comm) {
    const int rank = comm.rank();
    Communicator part = comm.split(rank == 4 ? -1 : rank % 2, -rank);
    if (rank == 4) {
      EXPECT_FALSE(part);
      return;
    }
    EXPECT_EQ(part.size(), 2);
    EXPECT_EQ(part.rank(), rank < 2 ? 1 : 0);
    Values x(10, rank);
    part.all_reduce(in(x), out(x), {10}, DataType::kInt64, ReduceOp::kSum).wait();
    EXPECT_EQ(x, Values(10, rank % 2 == 0 ? 2 : 4));
  });
}

TEST(Communicator, MessagesOfOneTagArriveInOrderAndExchangesDoNotDeadlock) {
  run_ranks(4, [](Communicator& comm) {
    const int next = (comm.rank() + 1) % comm.size();
    const int previous = (comm.rank() + comm.size() - 1) % comm.size();
    std::vector<Values> sent, received(6, Values(20'000));
    std::vector<Message> batch;
    for (int i = 0; i < 6; ++i) sent.emplace_back(20'000, comm.rank() * 10 + i);
    for (int i = 0; i < 6; ++i) {
      Message send, receive;
      send.peer = next, send.tag = i % 2, send.source = in(sent[i]), send.dtype = DataType::kInt64;
      receive.peer = previous, receive.tag = i % 2, receive.target = out(received[i]);
      receive.dtype = DataType::kInt64, receive.sends = false;
      batch.push_back(send);
      batch.push_back(receive);
    }
    for (Work& work : comm.batch(batch)) work.wait();
    for (int i = 0; i < 6; ++i) EXPECT_EQ(received[i], Values(20'000, previous * 10 + i));
  });
}

Message send_to(Rank peer, const Values& values, std::int64_t tag = 0) {
  Message message;
  message.peer = peer, message.tag = tag, message.source = in(values);
  message.dtype = DataType::kInt64;
  return message;
}

Message receive_from(Rank peer, Values& values, std::int64_t tag = 0) {
  Message message;
  message.peer = peer, message.tag = tag, message.target = out(values);
  message.dtype = DataType::kInt64, message.sends = false;
  return message;
}

Work start(Communicator& comm, const Message& message, const CallOptions& options = {}) {
  return std::move(comm.batch({&message, 1}, options)[0]);
}

// Short and long messages of three ranks, at their own pace, to receives of both ways of calling:
// all come, each once, those of one rank in order, and each receive knows whose it is.
TEST(Communicator, ReceivesFromAnySourceGetEveryMessageAndTellWhoseItIs) {
  constexpr int kMessages = 60, kAtOnce = 5;
  for (const std::int64_t n : {1, 700, 40'000}) {
    run_ranks(4, [&](Communicator& comm) {
      if (comm.rank() != 0) {
        for (int i = 0; i < kMessages; ++i) {
          if (i % 20 == comm.rank()) std::this_thread::yield();
          start(comm, send_to(0, Values(n, comm.rank() * 1000 + i))).wait();
        }
        return;
      }
      std::vector<int> next(comm.size());
      for (int i = 0; i < 3 * kMessages; i += kAtOnce) {
        std::vector<Values> got(kAtOnce, Values(n));
        std::vector<Message> messages;
        for (Values& values : got) messages.push_back(receive_from(kAnySource, values));
        std::vector<Work> works = comm.batch(messages);
        for (int k = 0; k < kAtOnce; ++k) {
          works[k].wait();
          const Rank source = works[k].peer();
          ASSERT_TRUE(source >= 1 && source <= 3) << source;
          ASSERT_EQ(got[k], Values(n, source * 1000 + next[source]++));
        }
      }
    });
  }
}

// By the order of posting, whichever kind of receive it is.
TEST(Communicator, AReceiveFromAnySourceTakesItsPlaceAmongTheOthersOfItsTag) {
  run_ranks(3, [](Communicator& comm) {
    constexpr std::int64_t kGo = 9;
    Values first(1), any(1), last(1), go(1);
    if (comm.rank() != 0) {
      start(comm, receive_from(0, go, kGo)).wait();
      for (int i = 0; i < (comm.rank() == 1 ? 3 : 0); ++i) start(comm, send_to(0, {i})).wait();
      comm.barrier().wait();
      return;
    }
    const Message receives[] = {receive_from(1, first), receive_from(kAnySource, any),
                                receive_from(1, last)};
    std::vector<Work> works = comm.batch(receives);
    EXPECT_FALSE(works[1].test());
    EXPECT_EQ(works[1].peer(), kAnySource);
    for (const Rank r : {1, 2}) start(comm, send_to(r, go, kGo)).wait();
    for (Work& work : works) work.wait();
    EXPECT_EQ(first[0], 0);
    EXPECT_EQ(any[0], 1);
    EXPECT_EQ(last[0], 2);
    for (const Work& work : works) EXPECT_EQ(work.peer(), 1);
    Work barrier = comm.barrier();
    barrier.wait();
    EXPECT_EQ(barrier.peer(), kAnySource);
  });
}

// A rank of a communicator gets nothing of another one, and its peers have that one's numbers.
TEST(Communicator, AReceiveFromAnySourceKeepsToItsCommunicator) {
  run_ranks(4, [](Communicator& comm) {
    Communicator part = comm.split(comm.rank() % 2, -comm.rank());  // {2, 0} and {3, 1}
    Values in_part(1), in_all(1);
    if (comm.rank() == 2) {
      Work all = start(comm, receive_from(kAnySource, in_all));
      Work own = start(part, receive_from(kAnySource, in_part));
      comm.barrier().wait();
      own.wait();
      EXPECT_EQ(in_part[0], 7);
      EXPECT_EQ(own.peer(), 1);
      all.wait();
      EXPECT_EQ(in_all[0], 8);
      EXPECT_EQ(all.peer(), 3);
      return;
    }
    comm.barrier().wait();
    if (comm.rank() == 0) start(part, send_to(0, {7})).wait();
    if (comm.rank() == 3) start(comm, send_to(2, {8})).wait();
  });
}

TEST(Communicator, AReceiveFromAnySourceEndsWithItsCommunicatorAndSaysWhatItWas) {
  run_ranks(3, [](Communicator& comm) {
    std::string text;
    Values any(1), later(1);
    CallOptions options;
    options.timeout_ms = comm.rank() == 0 ? 200 : 20'000;
    const Message receives[] = {receive_from(kAnySource, any, 5), receive_from(1, later, 5)};
    std::vector<Work> works = comm.batch(receives, options);
    for (Work& work : works) {
      EXPECT_EQ(outcome([&] { work.wait(); }, &text), ErrorCode::kTimeout);
      EXPECT_NE(text.find("recv from any source, tag 5"), std::string::npos) << text;
      EXPECT_EQ(work.peer(), kAnySource);
    }
    EXPECT_EQ(any, Values(1));
  });
}

TEST(Communicator, AReceiveOfAnotherSizeOrTypeNamesBoth) {
  run_ranks(2, [](Communicator& comm) {
    Values x(10, 1);
    Message message;
    message.peer = 1 - comm.rank();
    message.dtype = comm.rank() == 0 ? DataType::kInt64 : DataType::kFloat64;
    message.sends = comm.rank() == 0;
    message.source = in(x);
    message.target = out(x);
    std::string text;
    const ErrorCode code = outcome([&] { comm.batch({&message, 1})[0].wait(); }, &text);
    EXPECT_EQ(code, comm.rank() == 0 ? ErrorCode::kOk : ErrorCode::kMismatch);
    if (comm.rank() == 1) {
      EXPECT_NE(text.find("int64"), std::string::npos) << text;
      EXPECT_NE(text.find("float64"), std::string::npos) << text;
    }
  });
}

TEST(Communicator, WrongArgumentsPostNothing) {
  run_ranks(2, [](Communicator& comm) {
    Values x(10, 1), y(10, 1);
    const auto refused = [&](const std::function<Work()>& call, const char* word) {
      std::string text;
      EXPECT_EQ(outcome([&] { call().wait(); }, &text), ErrorCode::kInvalidArgument);
      EXPECT_NE(text.find(word), std::string::npos) << text;
    };
    refused([&] { return comm.all_reduce(in(x), out(y), {11}, DataType::kInt64, ReduceOp::kSum); },
            "needs 88");
    refused([&] { return comm.all_reduce(in(x), out(y), {10}, DataType::kInt64, ReduceOp::kAvg); },
            "avg of int64");
    refused([&] { return comm.broadcast(in(x), out(y), {10}, DataType::kInt64, 2); }, "root 2");
    refused(
        [&] {
          return comm.all_reduce({x.data(), {64}}, {x.data() + 1, {64}}, {8}, DataType::kInt64,
                                 ReduceOp::kSum);
        },
        "overlap");
    refused([&] { return start(comm, send_to(kAnySource, x)); }, "send: rank -1");
    refused([&] { return start(comm, receive_from(-2, x)); }, "recv: rank -2");
    refused([&] { return start(comm, receive_from(kAnySource, x, -1)); }, "tag -1");
    refused([&] { return comm.all_to_all(in(x), out(x), {5}, DataType::kInt64); }, "in-place");
    // Lists.
    const std::vector<ConstBuffer> one{in(x)}, different{{x.data(), {40}}, {x.data() + 5, {32}}},
        halves{{x.data(), {40}}, {x.data() + 5, {40}}};
    const auto scatter = [&](const std::vector<ConstBuffer>& list, Buffer output) {
      return comm.scatter(ConstBlocks(list), output, {5}, DataType::kInt64, comm.rank());
    };
    const Buffer output{y.data(), {40}};
    refused([&] { return scatter(one, output); }, "input has 1 buffers, needs one for each of 2");
    refused([&] { return scatter(different, output); }, "input[1] has 32 bytes, needs 40");
    refused([&] { return scatter(halves, {x.data() + 4, {40}}); }, "overlap");
    refused([&] { return scatter(halves, {x.data() + 5 * (1 - comm.rank()), {40}}); }, "overlap");
    CallOptions on_stream;
    on_stream.on_stream = true;
    refused(
        [&] {
          return comm.scatter(ConstBlocks(halves), output, {5}, DataType::kInt64, comm.rank(),
                              on_stream);
        },
        "host's memory");
    comm.barrier().wait();
  });
}

TEST(Communicator, RefusesWhatIsNotDefinedOfAType) {
  run_ranks(2, [](Communicator& comm) {
    Values x(10, 1), y(10, 1);
    for (int d = 0; d < kDataTypes; ++d)
      for (int o = 0; o < kReduceOps; ++o) {
        const auto dtype = static_cast<DataType>(d);
        const auto op = static_cast<ReduceOp>(o);
        const Bytes bytes{10 * size_of(dtype)};
        std::string text;
        const ErrorCode code = outcome(
            [&] { comm.all_reduce({x.data(), bytes}, {y.data(), bytes}, {10}, dtype, op).wait(); },
            &text);
        if (supports(op, dtype)) {
          EXPECT_EQ(code, ErrorCode::kOk) << text;
          continue;
        }
        EXPECT_EQ(code, ErrorCode::kInvalidArgument);
        const std::string pair = std::string(name_of(op)) + " of " + std::string(name_of(dtype));
        EXPECT_NE(text.find(pair + " is not defined; use"), std::string::npos) << text;
      }
    EXPECT_TRUE(supports(ReduceOp::kAvg, DataType::kBfloat16));
    EXPECT_TRUE(supports(ReduceOp::kAvg, DataType::kFloat8E5m2));
    EXPECT_FALSE(supports(ReduceOp::kBxor, DataType::kFloat16));
    EXPECT_FALSE(supports(ReduceOp::kAvg, DataType::kUint64));
  });
}

// An entry line holds a payload or places: what an earlier payload has left in it is no place.
TEST(Communicator, OneRankTakesNoPayloadForPlaces) {
  run_ranks(1, [](Communicator& comm) {
    Values small(6, -1), large(125);  // 48 bytes, all ones; too many for a line
    for (int round = 0; round < 3; ++round) {
      for (int i = 0; i < 100; ++i) {
        comm.all_reduce(in(small), out(small), {6}, DataType::kInt64, ReduceOp::kSum).wait();
      }
      for (int i = 0; i < 100; ++i) {
        std::iota(large.begin(), large.end(), i);
        const Values wanted = large;
        comm.all_reduce(in(large), out(large), {125}, DataType::kInt64, ReduceOp::kSum).wait();
        ASSERT_EQ(large, wanted) << i;
      }
    }
  });
}

// Slots and control memory go back to the pool when all ranks have let a communicator go.
TEST(Communicator, GroupsThatAreGoneLeaveNoMemoryBehind) {
  run_ranks(3, [](Communicator& comm) {
    std::vector<std::int32_t> in(64, comm.rank()), out(64);
    const Bytes bytes{64 * 4};
    std::int64_t most = 0;  // of the first ones
    for (int i = 0; i < 40; ++i) {
      {
        Communicator part = comm.split(0, comm.rank());
        part.all_reduce({in.data(), bytes}, {out.data(), bytes}, {64}, DataType::kInt32,
                        ReduceOp::kSum)
            .wait();
        EXPECT_EQ(out[39], 3);
      }
      comm.barrier().wait();  // all have let it go
      if (i < 10) most = std::max(most, comm.pool().blocks);
    }
    EXPECT_LE(comm.pool().blocks, most + 2) << "rank " << comm.rank();
  });
}

}  // namespace
}  // namespace shoal
