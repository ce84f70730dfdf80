// CUDA memory between nodes, and messages, through the public API: ranks are threads of this
// process, in two network namespaces where there are to be two nodes; the driver is the stand-in.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "comm/two_nodes.h"
#include "core/clock.h"
#include "cuda/kernel_parameters.h"
#include "cuda/rank_device.h"

namespace shoal {
namespace {

using cuda::testing::Array;
using cuda::testing::fake_driver;
using cuda::testing::noise;

void pause_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

class HostCalls : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!nodes().works()) GTEST_SKIP() << "needs root and iproute2 to make network namespaces";
  }
  static const TwoNodes& nodes() {
    static const TwoNodes nodes;
    return nodes;
  }
};

/// A word of the host that holds a stream up until it is opened.
class Barrier {
 public:
  explicit Barrier(CUstream stream) {
    EXPECT_EQ(fake_driver().launch_host_func(stream, &wait, &open_), CUDA_SUCCESS);
  }
  ~Barrier() { open(); }
  void open() { open_.store(true); }

 private:
  static void CUDA_CB wait(void* open) {
    while (!static_cast<std::atomic<bool>*>(open)->load()) std::this_thread::yield();
  }
  std::atomic<bool> open_{false};
};

// ---- collectives between nodes

/// Input and output of one collective, in host memory of the pool and in CUDA memory.
struct Case {
  Collective collective;
  DataType dtype;
  std::int64_t count;
  Rank root;
  bool in_place;
  bool deterministic;
};

std::int64_t blocks_of(const Case& c, const Communicator& comm, bool output) {
  const bool is_root = comm.rank() == c.root;
  switch (c.collective) {
    case Collective::kAllToAll:
      return comm.size();
    case Collective::kAllGather:
      return output ? comm.size() : 1;
    case Collective::kReduceScatter:
      return output ? 1 : comm.size();
    case Collective::kGather:
      return output ? (is_root ? comm.size() : 0) : 1;
    case Collective::kScatter:
      return output ? 1 : (is_root ? comm.size() : 0);
    default:
      return 1;
  }
}

Work start(Communicator& comm, const Case& c, ConstBuffer in, Buffer out,
           const CallOptions& options) {
  const Count n{c.count};
  switch (c.collective) {
    case Collective::kBroadcast:
      return comm.broadcast(in, out, n, c.dtype, c.root, options);
    case Collective::kReduce:
      return comm.reduce(in, out, n, c.dtype, ReduceOp::kSum, c.root, options);
    case Collective::kAllReduce:
      return comm.all_reduce(in, out, n, c.dtype,
                             is_integer(c.dtype) ? ReduceOp::kMin : ReduceOp::kAvg, options);
    case Collective::kAllGather:
      return comm.all_gather(in, out, n, c.dtype, options);
    case Collective::kReduceScatter:
      return comm.reduce_scatter(in, out, n, c.dtype, ReduceOp::kProd, options);
    case Collective::kAllToAll:
      return comm.all_to_all(in, out, n, c.dtype, options);
    case Collective::kGather:
      return comm.gather(in, out, n, c.dtype, c.root, options);
    case Collective::kScatter:
      return comm.scatter(in, out, n, c.dtype, c.root, options);
    case Collective::kBarrier:
      break;
  }
  return comm.barrier(options);
}

void compare(Communicator& comm, const Device& device, const Case& c) {
  const std::int64_t block = c.count * size_of(c.dtype);
  const std::int64_t in_bytes = blocks_of(c, comm, false) * block;
  const std::int64_t out_bytes = blocks_of(c, comm, true) * block;
  const Array input = noise(static_cast<std::size_t>(in_bytes), unsigned(comm.rank()) + 1);
  const Array before = c.in_place ? input : noise(static_cast<std::size_t>(out_bytes), 99);
  PoolBlock host_in = comm.allocate({in_bytes}), host_out = comm.allocate({out_bytes});
  std::ranges::copy(input, static_cast<unsigned char*>(host_in.data()));
  std::ranges::copy(before, static_cast<unsigned char*>(host_out.data()));
  CudaBlock cuda_in = make(comm, input), cuda_out = make(comm, before);
  CallOptions on_host, on_stream = on(device.stream());
  on_host.deterministic = on_stream.deterministic = c.deterministic;
  const auto in_of = [&](void* in, void* out) {
    return ConstBuffer{c.in_place ? out : in, {in_bytes}};
  };
  start(comm, c, in_of(host_in.data(), host_out.data()), {host_out.data(), {out_bytes}}, on_host)
      .wait();
  (void)start(comm, c, in_of(cuda_in.data(), cuda_out.data()), {cuda_out.data(), {out_bytes}},
              on_stream);
  device.synchronize();
  const Array result = content_of(cuda_out);
  const Array wanted(static_cast<unsigned char*>(host_out.data()),
                     static_cast<unsigned char*>(host_out.data()) + out_bytes);
  // Without an output at this rank, what lies there is left alone.
  const bool writes = c.collective != Collective::kReduce || comm.rank() == c.root;
  EXPECT_EQ(Array(result.begin(), result.begin() + out_bytes), writes ? wanted : before)
      << name_of(c.collective) << " of " << c.count << " " << name_of(c.dtype) << ", in place "
      << c.in_place << ", rank " << comm.rank();
  if (!c.in_place) {
    EXPECT_EQ(content_of(cuda_in), input);
  }
}

TEST_F(HostCalls, EveryCollectiveHasTheBitsOfTheHost) {
  nodes().run(2, [](Communicator& comm) {
    const Device device;
    for (const DataType dtype : {DataType::kFloat32, DataType::kBfloat16, DataType::kInt8}) {
      for (const std::int64_t count : {1, 13, 5000, 100'000}) {
        for (int i = 0; i < kCollectives; ++i) {
          const auto collective = static_cast<Collective>(i);
          if (collective == Collective::kBarrier) continue;
          const bool same = collective == Collective::kAllReduce ||
                            collective == Collective::kReduce ||
                            collective == Collective::kBroadcast;
          compare(comm, device, {collective, dtype, count, 2, false, false});
          if (same) compare(comm, device, {collective, dtype, count, 1, true, false});
          if (reduces(collective))
            compare(comm, device, {collective, dtype, count, 0, false, true});
        }
      }
    }
    comm.barrier(on(device.stream())).wait();
  });
}

// Works are thrown away, streams change, a rank is late, host calls come between: the streams see
// to it.
TEST_F(HostCalls, NeedNobodyWhoWaits) {
  nodes().run(2, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(1000, 1));
    std::uint32_t wanted = 1;
    for (int i = 0; i < 60; ++i) {
      if (i == 20 && comm.rank() == 1) pause_ms(50);
      (void)sum_ints(comm, x, i % 3 == 0 ? device.other() : device.stream());
      if (i % 10 == 0) comm.barrier().wait();
      wanted *= 4;
    }
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(1000, static_cast<std::int32_t>(wanted)));
    EXPECT_EQ(comm.error(), ErrorCode::kOk);
    (void)sum_ints(comm, x, device.stream());  // under way when the communicator goes
  });
}

TEST_F(HostCalls, TheCallReturnsBeforeItsStreamHasComeToIt) {
  nodes().run(1, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(10, 1));
    Barrier barrier(device.stream());
    Work work = sum_ints(comm, x, device.stream(), 300);
    EXPECT_FALSE(work.wait_for(400));  // longer than it may take: time has not begun to count
    EXPECT_EQ(comm.error(), ErrorCode::kOk);
    // Of the input, what the stream has left there when it comes.
    const Array late = ints(10, 5);
    ASSERT_EQ(fake_driver().memcpy_htod_async(reinterpret_cast<CUdeviceptr>(x.data()), late.data(),
                                              late.size(), device.other()),
              CUDA_SUCCESS);
    (void)fake_driver().stream_synchronize(device.other());
    barrier.open();
    work.wait();
    EXPECT_EQ(content_of(x), ints(10, 10));
  });
}

// Rank 0 has called the collective first, rank 1 the message, which is too large to go ahead.
TEST_F(HostCalls, CollectivesDoNotHoldUpMessages) {
  nodes().run(1, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(10, 1)), large = make(comm, ints(1 << 20, comm.rank()));
    Message message;
    message.peer = 1 - comm.rank();
    message.sends = comm.rank() == 1;
    message.source = {large.data(), large.bytes()};
    message.target = {large.data(), large.bytes()};
    if (comm.rank() == 0) {
      (void)sum_ints(comm, x, device.stream());
      (void)comm.batch({&message, 1}, on(device.other()));
    } else {
      comm.batch({&message, 1}, on(device.other()))[0].wait();
      (void)sum_ints(comm, x, device.stream());
    }
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(10, 2));
    EXPECT_EQ(content_of(large), ints(1 << 20, 1));
  });
}

// Larger and larger, so that blocks are changed while operations are under way; then more than the
// pool has.
TEST_F(HostCalls, MemoryToStageInGrowsUpToThePool) {
  nodes().run(
      1,
      [](Communicator& comm) {
        const Device device;
        CudaBlock x = make(comm, ints(1 << 20, 1));
        Barrier barrier(device.stream());
        for (std::int64_t count = 1024; count <= 1 << 20; count *= 4) {
          (void)comm.all_reduce({x.data(), {count * 4}}, {x.data(), {count * 4}}, Count{count},
                                DataType::kInt32, ReduceOp::kMax, on(device.stream()));
        }
        barrier.open();
        device.synchronize();
        EXPECT_EQ(content_of(x), ints(1 << 20, 1));
        CudaBlock large = comm.allocate_cuda({24 << 20});
        std::string text;
        EXPECT_EQ(outcome([&] { sum_ints(comm, large, device.stream()).wait(); }, &text),
                  ErrorCode::kOutOfMemory);
        EXPECT_NE(text.find("all_reduce: no pinned memory of the host to stage in: pool: asked "
                            "24.0 MiB, "),
                  std::string::npos)
            << text;
        EXPECT_NE(text.find("limit of 16.0 MiB"), std::string::npos) << text;
        sum_ints(comm, x, device.stream()).wait();  // nothing had been posted
        EXPECT_EQ(content_of(x), ints(1 << 20, 2));
      },
      [](Options& options) { options.pool_bytes = 16 << 20; });
}

TEST_F(HostCalls, ACapturedStreamIsRefused) {
  nodes().run(1, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(10, 1));
    CUgraph graph = nullptr;
    ASSERT_EQ(
        fake_driver().stream_begin_capture(device.stream(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
        CUDA_SUCCESS);
    std::string text;
    EXPECT_EQ(outcome([&] { (void)sum_ints(comm, x, device.stream()); }, &text),
              ErrorCode::kInvalidArgument);
    EXPECT_NE(text.find("all_reduce: the stream is being captured"), std::string::npos) << text;
    ASSERT_EQ(fake_driver().stream_end_capture(device.stream(), &graph), CUDA_SUCCESS);
    (void)fake_driver().graph_destroy(graph);
    sum_ints(comm, x, device.stream()).wait();
    EXPECT_EQ(content_of(x), ints(10, 2));
  });
}

TEST_F(HostCalls, HostAndCudaInOneCallAreAMismatchOnAll) {
  nodes().run(2, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(100, 1));
    PoolBlock y = comm.allocate({400});
    std::string text;
    const auto call = [&] {
      if (comm.rank() != 3) {
        sum_ints(comm, x, device.stream()).wait();
      } else {
        comm.all_reduce({y.data(), {400}}, {y.data(), {400}}, Count{100}, DataType::kInt32,
                        ReduceOp::kSum)
            .wait();
      }
    };
    EXPECT_EQ(outcome(call, &text), ErrorCode::kMismatch) << text;
    EXPECT_NE(text.find("rank 3 called all_reduce(count 100, int32, sum)"), std::string::npos)
        << text;
    EXPECT_NE(text.find("called all_reduce(count 100, int32, sum, CUDA)"), std::string::npos)
        << text;
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(100, 1));
  });
}

TEST_F(HostCalls, ARankThatNeverComesIsNamedAtTheDeadline) {
  nodes().run(1, name_a_rank_that_never_comes);
}

// One stream waits for rank 3, which does not come; the other has not come to its operation, and
// does so after the error has been raised: neither writes.
TEST_F(HostCalls, AnAbortEndsAllWaitsWithin100MsAndNothingIsWritten) {
  nodes().run(2, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(100, 1)), y = make(comm, ints(100, 1));
    sum_ints(comm, y, device.stream()).wait();  // something stale is there to be copied
    comm.barrier().wait();
    if (comm.rank() == 3) {
      pause_ms(30);
      comm.abort("enough");
      return;
    }
    std::string text;
    Work work = sum_ints(comm, x, device.stream());
    Barrier barrier(device.other());
    Work later = sum_ints(comm, x, device.other());
    std::int64_t aborted_ns = 0;
    std::thread clock([&] {
      while (comm.error() == ErrorCode::kOk) std::this_thread::yield();
      aborted_ns = now_ns();
    });
    (void)fake_driver().stream_synchronize(device.stream());
    const std::int64_t passed_ns = now_ns();
    clock.join();
    EXPECT_LT(passed_ns - aborted_ns, 100 * kNsPerMs);
    EXPECT_EQ(outcome([&] { work.wait(); }, &text), ErrorCode::kAborted);
    EXPECT_NE(text.find("rank 3 called abort: enough"), std::string::npos) << text;
    EXPECT_EQ(outcome([&] { later.wait(); }), ErrorCode::kAborted);
    EXPECT_EQ(outcome([&] { (void)sum_ints(comm, x, device.stream()); }), ErrorCode::kAborted);
    barrier.open();
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(100, 1));
  });
}

// Whatever of an operation it fails at: the rest of the stream is let go, nothing is written.
TEST_F(HostCalls, AFailingDriverEndsTheCommunicatorOnAllRanks) {
  if (cuda::testing::on_gpu()) GTEST_SKIP() << "a GPU fails when it will";
  for (const std::string call :
       {"cuMemcpyDtoHAsync", "cuLaunchHostFunc", "cuStreamBatchMemOp", "cuLaunchKernel"}) {
    nodes().run(1, [&](Communicator& comm) {
      const Device device;
      CudaBlock x = make(comm, ints(100, 1));
      sum_ints(comm, x, device.stream()).wait();
      comm.barrier().wait();
      std::string text;
      if (comm.rank() == 0) {
        pause_ms(100);  // until rank 1 has seen that the barrier is over
        const cuda::testing::Failing failing((call + ":1:1").c_str());
        EXPECT_EQ(outcome([&] { sum_ints(comm, x, device.stream()).wait(); }, &text),
                  ErrorCode::kDevice);
      } else {
        while (comm.error() == ErrorCode::kOk) pause_ms(1);
        EXPECT_EQ(outcome([&] { sum_ints(comm, x, device.stream()).wait(); }, &text),
                  ErrorCode::kDevice);
      }
      EXPECT_NE(text.find("all_reduce(count 100, int32, sum, CUDA): " + call), std::string::npos)
          << text;
      device.synchronize();
      EXPECT_EQ(content_of(x), ints(100, 2));
    });
  }
}

// Where views of other libraries begin, and where they end.
TEST_F(HostCalls, MemoryOfOthersAtAnyAddress) {
  nodes().run(1, [](Communicator& comm) {
    const Device device;
    constexpr std::size_t kBytes = 40'000;
    CUdeviceptr memory = 0;
    ASSERT_EQ(fake_driver().mem_alloc(&memory, kBytes), CUDA_SUCCESS);
    const Array input = ints(kBytes / 4, comm.rank() + 1);
    for (const std::int64_t skip : {0, 1, 3, 17}) {
      ASSERT_EQ(fake_driver().memcpy_htod_async(memory, input.data(), kBytes, device.stream()),
                CUDA_SUCCESS);
      const std::int64_t count = std::int64_t{kBytes} / 4 - 2 * skip;
      auto* const data = reinterpret_cast<void*>(memory + static_cast<CUdeviceptr>(skip) * 4);
      (void)comm.all_reduce({data, {count * 4}}, {data, {count * 4}}, Count{count},
                            DataType::kInt32, ReduceOp::kSum, on(device.stream()));
      Array result(kBytes), wanted = input;
      ASSERT_EQ(fake_driver().memcpy_dtoh_async(result.data(), memory, kBytes, device.stream()),
                CUDA_SUCCESS);
      device.synchronize();
      const Array sums = ints(static_cast<std::size_t>(count), 3);
      std::memcpy(wanted.data() + skip * 4, sums.data(), sums.size());
      EXPECT_EQ(result, wanted) << skip;
    }
    (void)fake_driver().mem_free(memory);
    Array host = ints(10, 1);
    std::string text;
    const auto call = [&] {
      (void)comm.all_reduce({host.data(), {40}}, {host.data(), {40}}, Count{10}, DataType::kInt32,
                            ReduceOp::kSum, on(device.stream()));
    };
    EXPECT_EQ(outcome(call, &text), ErrorCode::kInvalidArgument);
    EXPECT_NE(text.find("all_reduce: input is not CUDA memory"), std::string::npos) << text;
  });
}

// One node, and more of them than a kernel combines.
TEST(HostCallsInOneNode, MoreRanksThanKernelsTake) {
  if (cuda::testing::on_gpu()) GTEST_SKIP() << "a GPU has 32 queues at most for streams that wait";
  run_ranks(cuda::kMaxKernelRanks + 1, [](Communicator& comm) {
    const Device device;
    CUdeviceptr memory = 0;  // no pool: there is not that much of the stand-in's
    const Array input = ints(1000, 1);
    ASSERT_EQ(fake_driver().mem_alloc(&memory, input.size()), CUDA_SUCCESS);
    ASSERT_EQ(fake_driver().memcpy_htod_async(memory, input.data(), input.size(), device.stream()),
              CUDA_SUCCESS);
    auto* const data = reinterpret_cast<void*>(memory);
    (void)comm.all_reduce({data, {4000}}, {data, {4000}}, Count{1000}, DataType::kInt32,
                          ReduceOp::kSum, on(device.stream()));
    Array result(input.size());
    ASSERT_EQ(
        fake_driver().memcpy_dtoh_async(result.data(), memory, result.size(), device.stream()),
        CUDA_SUCCESS);
    device.synchronize();
    EXPECT_EQ(result, ints(1000, cuda::kMaxKernelRanks + 1));
    (void)fake_driver().mem_free(memory);
  });
}

// ---- messages

Message sending(Rank to, const CudaBlock& x, std::int64_t tag = 0) {
  Message message;
  message.peer = to;
  message.tag = tag;
  message.source = {x.data(), x.bytes()};
  message.dtype = DataType::kInt32;
  return message;
}

Message receiving(Rank from, const CudaBlock& x, std::int64_t tag = 0) {
  Message message = sending(from, x, tag);
  message.source = {};
  message.target = {x.data(), x.bytes()};
  message.sends = false;
  return message;
}

Work one(Communicator& comm, const Message& message, CUstream stream) {
  return std::move(comm.batch({&message, 1}, on(stream))[0]);
}

/// Everybody to everybody, nobody waits; then the same stream reads what has come.
void exchange(Communicator& comm) {
  const Device device;
  constexpr std::size_t kCount = 50'000;  // past what goes eagerly
  for (int round = 0; round < 5; ++round) {
    CudaBlock mine = make(comm, ints(kCount, 100 * round + comm.rank()));
    std::vector<CudaBlock> theirs;
    std::vector<Message> messages;
    for (Rank r = 0; r < comm.size(); ++r) theirs.push_back(make(comm, ints(kCount, -1)));
    for (Rank r = 0; r < comm.size(); ++r) {
      messages.push_back(sending(r, mine));
      messages.push_back(receiving(r, theirs[static_cast<std::size_t>(r)]));
    }
    (void)comm.batch(messages, on(round % 2 == 0 ? device.stream() : device.other()));
    device.synchronize();
    for (Rank r = 0; r < comm.size(); ++r) {
      EXPECT_EQ(content_of(theirs[static_cast<std::size_t>(r)]), ints(kCount, 100 * round + r));
    }
  }
}

TEST_F(HostCalls, MessagesBetweenNodes) { nodes().run(2, exchange); }

TEST(HostMessages, InOneNode) { run_ranks(3, exchange); }

TEST(HostMessages, BetweenHostAndCuda) {
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(3000, comm.rank() + 1));
    PoolBlock y = comm.allocate({12'000});
    if (comm.rank() == 0) {
      (void)one(comm, sending(1, x), device.stream());
      one(comm, receiving(kAnySource, x), device.stream()).wait();
      EXPECT_EQ(content_of(x), ints(3000, 2));
      return;
    }
    Message message = receiving(0, x);
    message.target = {y.data(), {12'000}};
    comm.batch({&message, 1})[0].wait();
    const Array one_each = ints(3000, 1), two_each = ints(3000, 2);
    EXPECT_EQ(std::memcmp(y.data(), one_each.data(), one_each.size()), 0);
    std::memcpy(y.data(), two_each.data(), two_each.size());
    message = sending(0, x);
    message.source = {y.data(), {12'000}};
    comm.batch({&message, 1})[0].wait();
  });
}

TEST(HostMessages, SayWhoSent) {
  run_ranks(3, [](Communicator& comm) {
    const Device device;
    if (comm.rank() == 2) {
      CudaBlock x = make(comm, ints(10, -1));
      bool seen[2] = {};
      for (int i = 0; i < 2; ++i) {
        Work work = one(comm, receiving(kAnySource, x, 7), device.stream());
        work.wait();
        ASSERT_TRUE(work.peer() == 0 || work.peer() == 1);
        EXPECT_EQ(content_of(x), ints(10, work.peer()));
        seen[work.peer()] = true;
      }
      EXPECT_TRUE(seen[0] && seen[1]);
    } else {
      CudaBlock x = make(comm, ints(10, comm.rank()));
      one(comm, sending(2, x, 7), device.stream()).wait();
    }
  });
}

// What the stream has queued behind it was meant for the message.
TEST(HostMessages, OfAnotherSizeEndTheCommunicator) {
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(comm.rank() == 0 ? 10 : 11, comm.rank()));
    std::string text;
    if (comm.rank() == 0) {
      (void)one(comm, sending(1, x), device.stream());
      while (comm.error() == ErrorCode::kOk) pause_ms(1);
      EXPECT_EQ(outcome([&] { (void)one(comm, sending(1, x), device.stream()); }),
                ErrorCode::kMismatch);
      return;
    }
    EXPECT_EQ(outcome([&] { one(comm, receiving(0, x), device.stream()).wait(); }, &text),
              ErrorCode::kMismatch);
    EXPECT_NE(text.find("recv: rank 0 sent 40 bytes of int32"), std::string::npos) << text;
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(11, 1));
  });
}

TEST(HostMessages, ANobodyIsNamedAtTheDeadline) {
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(10, 1));
    if (comm.rank() == 1) {
      while (comm.error() == ErrorCode::kOk) pause_ms(1);
      return;
    }
    const Message message = receiving(1, x);
    std::string text;
    const auto call = [&] {
      std::vector<Work> works = comm.batch({&message, 1}, on(device.stream(), 200));
      works[0].wait();
    };
    EXPECT_EQ(outcome(call, &text), ErrorCode::kTimeout);
    EXPECT_NE(text.find("recv from rank 1, tag 0: the deadline passed"), std::string::npos) << text;
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(10, 1));
  });
}

// More than the GPU may be behind: the call waits, and goes on.
TEST(HostMessages, AHostThatIsFarAheadWaits) {
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(10, comm.rank()));
    constexpr int kMessages = 600;
    for (int i = 0; i < kMessages; ++i) {
      if (comm.rank() == 0) {
        (void)one(comm, sending(1, x), device.stream());
      } else {
        (void)one(comm, receiving(0, x), device.stream());
      }
    }
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(10, 0));
    EXPECT_EQ(comm.error(), ErrorCode::kOk);
  });
}

}  // namespace
}  // namespace shoal
