// Collectives on CUDA memory through the public API: ranks are threads of this process, the driver
// is the stand-in.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "comm/job.h"
#include "core/clock.h"
#include "cuda/rank_device.h"

namespace shoal {
namespace {

using cuda::testing::Array;
using cuda::testing::fake_driver;
using cuda::testing::noise;

TEST(DeviceCalls, HaveTheBitsOfTheHost) {
  run_ranks(3, [](Communicator& comm) {
    const Device device;
    constexpr std::int64_t kCount = 3001;
    const Array input = noise(kCount * 2, static_cast<unsigned>(comm.rank()) + 1);
    PoolBlock on_host = comm.allocate({kCount * 2});
    std::memcpy(on_host.data(), input.data(), input.size());
    CudaBlock x = make(comm, input);
    for (const ReduceOp op : {ReduceOp::kAvg, ReduceOp::kMax, ReduceOp::kProd}) {
      comm.all_reduce({on_host.data(), {kCount * 2}}, {on_host.data(), {kCount * 2}}, Count{kCount},
                      DataType::kFloat16, op)
          .wait();
      comm.all_reduce({x.data(), {kCount * 2}}, {x.data(), {kCount * 2}}, Count{kCount},
                      DataType::kFloat16, op, on(device.stream()))
          .wait();
      const Array result = content_of(x);
      for (std::size_t i = 0; i < kCount; ++i) {
        std::uint16_t a = 0, b = 0;
        std::memcpy(&a, result.data() + 2 * i, 2);
        std::memcpy(&b, static_cast<char*>(on_host.data()) + 2 * i, 2);
        const bool both_nan = (a & 0x7fff) > 0x7c00 && (b & 0x7fff) > 0x7c00;
        ASSERT_TRUE(a == b || both_nan) << name_of(op) << " element " << i;
      }
      x.copy_from_host(on_host.data());
    }
  });
}

// Works are thrown away, streams change, a rank is late: the streams see to it.
TEST(DeviceCalls, NeedNobodyWhoWaits) {
  run_ranks(3, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(1000, 1));
    constexpr int kCalls = 150;
    std::uint32_t wanted = 1;
    for (int i = 0; i < kCalls; ++i) {
      if (i == 40 && comm.rank() == 1) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
      (void)sum_ints(comm, x, i % 3 == 0 ? device.other() : device.stream());
      wanted *= 3;
    }
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(1000, static_cast<std::int32_t>(wanted)));
    EXPECT_EQ(comm.error(), ErrorCode::kOk);
    (void)sum_ints(comm, x, device.stream());  // under way when the communicator goes
  });
}

// The others wait for leave to enter, time and again, and may be given it while they fall asleep.
TEST(DeviceCalls, ARankThatIsFarAheadEntersEachCallOnce) {
  run_ranks(3, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(4, 1));
    constexpr int kCalls = 600;
    std::uint32_t wanted = 1;
    for (int i = 0; i < kCalls; ++i) {
      if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::microseconds(i % 7 * 20));
      (void)sum_ints(comm, x, device.stream());
      wanted *= 3;
    }
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(4, static_cast<std::int32_t>(wanted)));
    EXPECT_EQ(comm.error(), ErrorCode::kOk);
  });
}

// Also the first call of a communicator, and memory, need the driver while another rank's kernel
// waits for this one.
TEST(DeviceCalls, WhatARankNeedsOfTheDriverDoesNotWaitForAKernel) {
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(1000, 1));
    for (int i = 0; i < 3; ++i) {
      if (comm.rank() == 1) {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        const CudaBlock y = make(comm, ints(std::size_t{10} << 20, 7));
        EXPECT_EQ(content_of(y)[0], 7);
      }
      (void)sum_ints(comm, x, device.stream());
      Communicator next = comm.split(0, comm.rank());
      (void)sum_ints(next, x, device.stream());
      device.synchronize();
    }
    EXPECT_EQ(content_of(x), ints(1000, 64));
  });
}

// Who reads or frees memory need not know of the operations that use it.
TEST(DeviceCalls, MemoryWaitsForItsOperations) {
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(1000, 1));
    sum_ints(comm, x, device.stream()).wait();
    comm.barrier().wait();
    if (comm.rank() == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      (void)sum_ints(comm, x, device.stream());
      EXPECT_EQ(content_of(x), ints(1000, 4));
      comm.barrier().wait();
      return;
    }
    const void* const place = x.data();
    (void)sum_ints(comm, x, device.stream());
    x = comm.allocate_cuda({4000});
    EXPECT_NE(x.data(), place) << "rank 1 has yet to write there";
    device.synchronize();
    comm.barrier().wait();
  });
}

// Nor where it is the output only, at the place of an input that this rank does not give.
TEST(DeviceCalls, MemoryWaitsForABroadcastInPlace) {
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    for (const std::size_t count : {std::size_t{10}, std::size_t{100'000}}) {
      CudaBlock x = make(comm, ints(count, comm.rank()));
      comm.barrier().wait();
      if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(30));
      (void)comm.broadcast({x.data(), x.bytes()}, {x.data(), x.bytes()},
                           Count{static_cast<std::int64_t>(count)}, DataType::kInt32, 1,
                           on(device.stream()));
      EXPECT_EQ(content_of(x), ints(count, 1));
    }
  });
}

// The driver is what a call takes its time for: two looks at the context, one at whether the stream
// is being captured, and the launch.
TEST(DeviceCalls, TakeFourCallsOfTheDriver) {
  if (cuda::testing::on_gpu()) GTEST_SKIP() << "the stand-in counts";
  auto* const calls = cuda::testing::fake_function<decltype(fake_cuda_calls)>("fake_cuda_calls");
  run_ranks(1, [&](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(1000, 1));
    sum_ints(comm, x, device.stream()).wait();
    constexpr std::uint64_t kCalls = 100;
    const std::uint64_t before = calls();
    for (std::uint64_t i = 0; i < kCalls; ++i) (void)sum_ints(comm, x, device.stream());
    EXPECT_EQ(calls() - before, 4 * kCalls);
    device.synchronize();
  });
}

// What goes in one round of packets, and what does not.
TEST(DeviceCalls, SmallOnesAndLargeOnesInTurn) {
  run_ranks(3, [](Communicator& comm) {
    const Device device;
    CudaBlock small = make(comm, ints(3, 1)), large = make(comm, ints(100'000, 1));
    std::uint32_t wanted = 1;
    for (int i = 0; i < 60; ++i) {
      if (i % 20 == 6 * comm.rank()) std::this_thread::sleep_for(std::chrono::milliseconds(3));
      CUstream stream = i % 7 == 0 ? device.other() : device.stream();
      (void)sum_ints(comm, small, stream);
      if (i % 3 != 0) (void)sum_ints(comm, small, stream);
      (void)sum_ints(comm, large, stream);
      wanted *= 3;
    }
    device.synchronize();
    EXPECT_EQ(content_of(large), ints(100'000, static_cast<std::int32_t>(wanted)));
    std::uint32_t twice = wanted;
    for (int i = 0; i < 40; ++i) twice *= 3;
    EXPECT_EQ(content_of(small), ints(3, static_cast<std::int32_t>(twice)));
    EXPECT_EQ(comm.error(), ErrorCode::kOk);
  });
}

TEST(DeviceCalls, ASmallOneAndALargeOneAreAMismatchOnAll) {
  run_ranks(3, [](Communicator& comm) {
    const Device device;
    const std::size_t count = comm.rank() == 1 ? 100'000 : 10;
    CudaBlock x = make(comm, ints(count, 1));
    CudaBlock warm = make(comm, ints(1, 1));
    sum_ints(comm, warm, device.stream()).wait();
    std::string text;
    EXPECT_EQ(outcome([&] { sum_ints(comm, x, device.stream()).wait(); }, &text),
              ErrorCode::kMismatch);
    EXPECT_NE(text.find("rank 1 called all_reduce(count 100000, int32, sum, CUDA)"),
              std::string::npos)
        << text;
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(count, 1));
  });
}

TEST(DeviceCalls, MemoryOfOthersIsStaged) {
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    CUdeviceptr own = 0, out = 0;
    constexpr std::size_t kBytes = 4000;
    ASSERT_EQ(fake_driver().mem_alloc(&own, kBytes), CUDA_SUCCESS);
    ASSERT_EQ(fake_driver().mem_alloc(&out, 2 * kBytes), CUDA_SUCCESS);
    const Array input = ints(1000, comm.rank() + 1);
    for (int round = 0; round < 20; ++round) {
      ASSERT_EQ(fake_driver().memcpy_htod_async(own, input.data(), kBytes, device.stream()),
                CUDA_SUCCESS);
      auto* const data = reinterpret_cast<void*>(own);
      (void)comm.all_reduce({data, {kBytes}}, {data, {kBytes}}, Count{1000}, DataType::kInt32,
                            ReduceOp::kSum, on(device.stream()));
      comm.all_gather({data, {kBytes}}, {reinterpret_cast<void*>(out), {2 * kBytes}}, Count{1000},
                      DataType::kInt32, on(device.stream()))
          .wait();
    }
    Array result(2 * kBytes);
    ASSERT_EQ(fake_driver().memcpy_dtoh_async(result.data(), out, result.size(), device.stream()),
              CUDA_SUCCESS);
    device.synchronize();
    EXPECT_EQ(result, ints(2000, 3));
    (void)fake_driver().mem_free(own);
    (void)fake_driver().mem_free(out);
  });
}

TEST(DeviceCalls, HostMemoryIsRefused) {
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    Array x = ints(10, 1);
    std::string text;
    const auto call = [&] {
      (void)comm.all_reduce({x.data(), {40}}, {x.data(), {40}}, Count{10}, DataType::kInt32,
                            ReduceOp::kSum, on(device.stream()));
    };
    EXPECT_EQ(outcome(call, &text), ErrorCode::kInvalidArgument);
    EXPECT_NE(text.find("is not CUDA memory"), std::string::npos) << text;
    CudaBlock y = make(comm, ints(10, 2));
    sum_ints(comm, y, device.stream()).wait();  // nothing had been posted
    EXPECT_EQ(content_of(y), ints(10, 4));
  });
}

TEST(DeviceCalls, HostAndCudaInOneCallAreAMismatchOnBoth) {
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(100, 1));
    PoolBlock y = comm.allocate({400});
    std::string text;
    const auto call = [&] {
      if (comm.rank() == 0) {
        sum_ints(comm, x, device.stream()).wait();
      } else {
        comm.all_reduce({y.data(), {400}}, {y.data(), {400}}, Count{100}, DataType::kInt32,
                        ReduceOp::kSum)
            .wait();
      }
    };
    EXPECT_EQ(outcome(call, &text), ErrorCode::kMismatch) << text;
    EXPECT_NE(text.find("rank 0 called all_reduce(count 100, int32, sum, CUDA), rank 1 called "
                        "all_reduce(count 100, int32, sum)"),
              std::string::npos)
        << text;
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(100, 1));
  });
}

TEST(DeviceCalls, DifferentCallsAreAMismatchOnAll) {
  run_ranks(3, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(comm.rank() == 2 ? 99 : 100, 1));
    std::string text;
    EXPECT_EQ(outcome([&] { sum_ints(comm, x, device.stream()).wait(); }, &text),
              ErrorCode::kMismatch);
    EXPECT_NE(text.find("rank 2 called all_reduce(count 99, int32, sum, CUDA)"), std::string::npos)
        << text;
    EXPECT_EQ(content_of(x)[0], 1);
  });
}

TEST(DeviceCalls, ARankThatNeverComesIsNamedAtTheDeadline) {
  run_ranks(2, name_a_rank_that_never_comes);
}

TEST(DeviceCalls, AnAbortEndsAllWaitsWithin100Ms) {
  run_ranks(3, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(100, 1));
    comm.barrier().wait();
    if (comm.rank() == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      comm.abort("enough");
      return;
    }
    std::string text;
    Work work = sum_ints(comm, x, device.stream());
    std::int64_t aborted_ns = 0;
    std::thread clock([&] {
      while (comm.error() == ErrorCode::kOk) std::this_thread::yield();
      aborted_ns = now_ns();
    });
    EXPECT_EQ(outcome([&] { work.wait(); }, &text), ErrorCode::kAborted);
    device.synchronize();
    clock.join();
    EXPECT_LT(now_ns() - aborted_ns, 100 * kNsPerMs);
    EXPECT_NE(text.find("rank 2 called abort: enough"), std::string::npos) << text;
    EXPECT_EQ(content_of(x), ints(100, 1));
  });
}

TEST(DeviceCalls, GroupsOfGroupsHaveTheirOwn) {
  run_ranks(4, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(50, 1 << (4 * comm.rank())));
    Communicator half = comm.split(comm.rank() % 2, -comm.rank());
    sum_ints(half, x, device.stream()).wait();
    EXPECT_EQ(content_of(x), ints(50, comm.rank() % 2 == 0 ? 0x0101 : 0x1010));
    sum_ints(comm, x, device.stream()).wait();
    EXPECT_EQ(content_of(x), ints(50, 0x2222));
  });
}

TEST(DeviceCalls, AGraphRunsAHundredTimes) {
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    const cuda::Driver& driver = fake_driver();
    CudaBlock x = make(comm, ints(100, 1));
    sum_ints(comm, x, device.stream()).wait();  // sets up what a captured call may not
    CUgraph graph = nullptr;
    CUgraphExec exec = nullptr;
    ASSERT_EQ(driver.stream_begin_capture(device.stream(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
              CUDA_SUCCESS);
    Work work = sum_ints(comm, x, device.stream());
    EXPECT_TRUE(work.done());
    ASSERT_EQ(driver.stream_end_capture(device.stream(), &graph), CUDA_SUCCESS);
    ASSERT_EQ(driver.graph_instantiate(&exec, graph, 0), CUDA_SUCCESS);
    std::uint32_t wanted = 2;
    for (int i = 0; i < 100; ++i) {
      ASSERT_EQ(driver.graph_launch(exec, device.stream()), CUDA_SUCCESS);
      wanted *= 2;
    }
    device.synchronize();
    EXPECT_EQ(content_of(x), ints(100, static_cast<std::int32_t>(wanted)));
    comm.barrier().wait();
    (void)driver.graph_exec_destroy(exec);
    (void)driver.graph_destroy(graph);
  });
}

TEST(DeviceCalls, AFailingLaunchEndsTheCommunicatorOnAllRanks) {
  if (cuda::testing::on_gpu()) GTEST_SKIP() << "a GPU fails when it will";
  run_ranks(2, [](Communicator& comm) {
    const Device device;
    CudaBlock x = make(comm, ints(100, 1));
    sum_ints(comm, x, device.stream()).wait();
    std::string text;
    if (comm.rank() == 0) {
      // Until rank 1 has seen that its first call is over.
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      const cuda::testing::Failing failing("cuLaunchKernel:1:1");
      EXPECT_NE(outcome([&] { sum_ints(comm, x, device.stream()).wait(); }, &text), ErrorCode::kOk);
      comm.abort("so that rank 1 has come before the failure is taken back");
    } else {
      while (comm.error() == ErrorCode::kOk) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      EXPECT_NE(outcome([&] { sum_ints(comm, x, device.stream()).wait(); }, &text), ErrorCode::kOk);
    }
    EXPECT_NE(text.find("cuLaunchKernel"), std::string::npos) << text;
  });
}

}  // namespace
}  // namespace shoal
