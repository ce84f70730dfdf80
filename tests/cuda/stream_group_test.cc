// Ranks of one process over the stand-in driver. Nothing that the host calls waits, so one thread
// plays all ranks, and decides who comes when.
#include "cuda/stream_group.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "core/fd.h"
#include "cuda/fake.h"
#include "cuda/reference.h"

extern "C" const FakeKernel* shoal_fake_kernel(const char* name);
extern "C" int shoal_fake_launches();

namespace shoal::cuda {
namespace {

using testing::Array;
using testing::expected;
using testing::noise;

const Driver& driver() {
  static const Driver& found = []() -> const Driver& {
    const Driver& fake = testing::fake_driver();
    testing::fake_function<decltype(fake_cuda_set_kernels)>("fake_cuda_set_kernels")(
        shoal_fake_kernel);
    return fake;
  }();
  return found;
}

template <class Condition>
bool within_ms(int ms, Condition&& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return true;
}

/// The ranks of one communicator. All addresses are one process's, so every slice begins at 0.
class Node {
 public:
  /// `before`: the operation that is thought to have come before the first.
  explicit Node(int ranks, bool spins = false, std::uint32_t before = 0)
      : context_(driver(), 0),
        guard_(context_),
        kernels_(context_, "image"),
        bases_(static_cast<std::size_t>(ranks)),
        spins_(spins) {
    const auto bytes = static_cast<std::size_t>(ControlLayout(ranks).bytes());
    const Fd file(::memfd_create("control", MFD_CLOEXEC));
    SHOAL_ASSERT(::ftruncate(file.get(), static_cast<off_t>(bytes)) == 0);
    for (int r = 0; r < ranks; ++r) {
      blocks_.emplace_back(file.get(), bytes);
      start_after(before, r);
    }
    for (int r = 0; r < ranks; ++r) {
      workspaces_.emplace_back(static_cast<std::size_t>(WorkspaceLayout(ranks).bytes()) + 16);
      groups_.push_back(std::make_unique<StreamGroup>(
          context_, kernels_, Members{r, ranks, spins, 2, workspace(r)},
          std::make_shared<const MappedMemory>(context_, blocks_[r].get(),
                                               static_cast<std::int64_t>(bytes)),
          bases_.data()));
      streams_.push_back(make_stream(driver(), CU_STREAM_NON_BLOCKING));
      others_.push_back(make_stream(driver(), CU_STREAM_NON_BLOCKING));
    }
  }
  ~Node() {
    for (auto& group : groups_) group->abort();
    for (auto& stream : streams_) (void)driver().stream_synchronize(stream.get());
    for (auto& stream : others_) (void)driver().stream_synchronize(stream.get());
    if (!spins_) return;
    for (auto& group : groups_) EXPECT_TRUE(within_ms(2000, [&] { return group->leave(); }));
  }

  [[nodiscard]] int ranks() const { return static_cast<int>(groups_.size()); }
  StreamGroup& operator[](int rank) { return *groups_[rank]; }
  CUstream stream(int rank) { return streams_[rank].get(); }
  CUstream other_stream(int rank) { return others_[rank].get(); }
  [[nodiscard]] const PrimaryContext& context() const { return context_; }
  [[nodiscard]] std::uintptr_t workspace(int rank) const {
    return (reinterpret_cast<std::uintptr_t>(workspaces_[rank].data()) + 15) & ~std::uintptr_t{15};
  }
  [[nodiscard]] const Array& workspace_content(int rank) const { return workspaces_[rank]; }

  StreamCall call(int rank, Collective collective, DataType dtype, std::int64_t count,
                  const void* input, void* output, std::uint64_t sequence) {
    StreamCall call;
    call.collective = collective;
    call.dtype = dtype;
    call.count = count;
    call.sequence = sequence;
    call.fingerprint = 0xf00 + static_cast<std::uint64_t>(count);
    call.input = {0, static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(input))};
    call.output = {0, static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(output))};
    call.input_address = reinterpret_cast<std::uintptr_t>(input);
    call.output_address = reinterpret_cast<std::uintptr_t>(output);
    call.stream = stream(rank);
    return call;
  }
  StreamCall sum(int rank, std::vector<std::int32_t>& x, std::uint64_t sequence) {
    return call(rank, Collective::kAllReduce, DataType::kInt32, std::ssize(x), x.data(), x.data(),
                sequence);
  }
  void synchronize(int rank) {
    ASSERT_EQ(driver().stream_synchronize(stream(rank)), CUDA_SUCCESS);
    ASSERT_EQ(driver().stream_synchronize(other_stream(rank)), CUDA_SUCCESS);
  }
  void synchronize() {
    for (int r = 0; r < ranks(); ++r) synchronize(r);
  }
  bool drains_within_ms(int ms) {
    return within_ms(ms, [&] {
      bool drained = true;
      for (int r = 0; r < ranks(); ++r) {
        groups_[r]->abort();
        drained = drained && groups_[0]->is_drained(r);
      }
      return drained;
    });
  }

 private:
  void start_after(std::uint32_t number, int rank) {
    const ControlBlock control(blocks_[rank].get(), static_cast<int>(bases_.size()));
    for (int f = 0; f < ControlLayout::kPresent; ++f) {
      control.store(control.layout().flag(static_cast<ControlLayout::Flag>(f), rank), number);
    }
  }
  /// A rank's mapping of the control block: each registers its own.
  class Mapping {
   public:
    Mapping(int fd, std::size_t bytes)
        : memory_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)),
          bytes_(bytes) {
      SHOAL_ASSERT(memory_ != MAP_FAILED);
    }
    ~Mapping() { ::munmap(memory_, bytes_); }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    [[nodiscard]] std::byte* get() const { return static_cast<std::byte*>(memory_); }

   private:
    void* memory_;
    std::size_t bytes_;
  };
  PrimaryContext context_;
  ContextGuard guard_;
  Kernels kernels_;
  std::vector<std::uint64_t> bases_;
  std::deque<Mapping> blocks_;
  bool spins_;
  std::deque<Array> workspaces_;
  std::vector<std::unique_ptr<StreamGroup>> groups_;
  std::vector<Stream> streams_, others_;
};

/// Makes what comes next on the stream late.
void delay(CUstream stream, std::int64_t ms) {
  (void)driver().launch_host_func(
      stream,
      [](void* data) {
        std::this_thread::sleep_for(
            std::chrono::milliseconds(reinterpret_cast<std::intptr_t>(data)));
      },
      reinterpret_cast<void*>(ms));
}

/// Whether streams wait or kernels do.
class BothWays : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Waiting, BothWays, ::testing::Bool(), [](const auto& way) {
  return way.param ? std::string("InTheKernel") : std::string("OnTheStream");
});

TEST_P(BothWays, EveryCollectiveLeavesWhatTheHostDoes) {
  for (const int ranks : {1, 2, 3, 5}) {
    Node node(ranks, GetParam());
    std::uint64_t sequence = 0;
    for (int c = 0; c < kCollectives; ++c) {
      const auto collective = static_cast<Collective>(c);
      for (const std::int64_t count : {0, 1, 33, 5000, 20000}) {
        if (collective == Collective::kBarrier) continue;
        const DataType dtype = count == 33 ? DataType::kBfloat16 : DataType::kInt16;
        const int root = ranks - 1;
        const auto bytes = static_cast<std::size_t>(ranks * count * size_of(dtype));
        std::vector<Array> inputs, outputs;
        for (int r = 0; r < ranks; ++r) {
          Array input = noise(bytes + 1, static_cast<unsigned>(r) + 3);
          for (std::size_t i = 1; i < bytes; i += 2) input[i] = (input[i] & 0x81) | 0x3e;  // tame
          inputs.push_back(input);
          outputs.push_back(noise(bytes + 1, 77));
        }
        const auto wanted = expected(collective, dtype, count, root, inputs, outputs);
        const int launched = shoal_fake_launches();
        ++sequence;
        for (int r = 0; r < ranks; ++r) {
          StreamCall call =
              node.call(r, collective, dtype, count, inputs[r].data(), outputs[r].data(), sequence);
          call.root = root;
          ASSERT_TRUE(node[r].enqueue(call).ok());
        }
        node.synchronize();
        EXPECT_EQ(shoal_fake_launches() - launched, ranks) << "one a rank";
        ASSERT_EQ(outputs, wanted)
            << name_of(collective) << ", " << ranks << " ranks, count " << count;
        for (int r = 0; r < ranks; ++r) EXPECT_TRUE(node[r].is_over(node[r].issued()));
      }
    }
  }
}

TEST_P(BothWays, NobodyPassesABarrierBeforeAllHaveCome) {
  Node node(3, GetParam());
  const auto barrier = [&](int rank) {
    return node[rank].enqueue(
        node.call(rank, Collective::kBarrier, DataType::kUint8, 0, nullptr, nullptr, 1));
  };
  ASSERT_TRUE(barrier(0).ok());
  ASSERT_TRUE(barrier(2).ok());
  EXPECT_TRUE(within_ms(2000, [&] { return node[0].is_reached(1); }));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(node[0].is_over(1) || node[2].is_over(1));
  EXPECT_EQ(node[0].awaited(1), 1);
  ASSERT_TRUE(barrier(1).ok());
  node.synchronize();
  for (int r = 0; r < 3; ++r) EXPECT_TRUE(node[r].is_over(1));
}

// What comes before a call on its stream is its input, what comes after sees its result.
TEST_P(BothWays, ACallTakesItsPlaceOnTheStream) {
#if defined(__SANITIZE_THREAD__)
  // It tells by addresses what is ordered, and each rank sees the flags at addresses of its own.
  GTEST_SKIP() << "thread sanitizer does not know that two mappings are the same memory";
#endif
  Node node(2, GetParam());
  std::vector<std::int32_t> x(1000, 0), y(1000, 2), result(1000, 0);
  const std::vector<std::int32_t> source(1000, 5);
  delay(node.stream(0), 30);
  const auto address = [](const auto& v) { return reinterpret_cast<CUdeviceptr>(v.data()); };
  ASSERT_EQ(driver().memcpy_dtod_async(address(x), address(source), 4000, node.stream(0)),
            CUDA_SUCCESS);
  ASSERT_TRUE(node[0].enqueue(node.sum(0, x, 1)).ok());
  ASSERT_EQ(driver().memcpy_dtod_async(address(result), address(x), 4000, node.stream(0)),
            CUDA_SUCCESS);
  ASSERT_TRUE(node[1].enqueue(node.sum(1, y, 1)).ok());
  node.synchronize();
  EXPECT_EQ(result, std::vector<std::int32_t>(1000, 7));
  EXPECT_EQ(y, result);
}

// Two streams a rank in turn, and every one late at times: the calls' order is kept.
TEST_P(BothWays, CallsOnDifferentStreamsKeepTheirOrder) {
  constexpr int kCalls = 40;
  Node node(3, GetParam());
  std::vector<std::vector<std::int32_t>> x(3, std::vector<std::int32_t>(50, 1));
  for (int i = 1; i <= kCalls; ++i) {
    for (int r = 0; r < 3; ++r) {
      StreamCall call = node.sum(r, x[r], static_cast<std::uint64_t>(i));
      if ((i * 7 + r) % 3 != 0) call.stream = node.other_stream(r);
      if ((i + r) % 5 == 0) delay(call.stream, 2);
      ASSERT_TRUE(node[r].enqueue(call).ok());
    }
  }
  node.synchronize();
  std::uint32_t wanted = 1;
  for (int i = 0; i < kCalls; ++i) wanted *= 3;
  for (int r = 0; r < 3; ++r) {
    EXPECT_EQ(x[r], std::vector<std::int32_t>(50, static_cast<std::int32_t>(wanted)));
  }
}

// A host that is far ahead is told so before it overwrites what kernels have yet to read.
TEST_P(BothWays, TheRingIsUsedAgainOnlyWhenItIsFree) {
  Node node(2, GetParam());
  std::vector<std::int32_t> x(4, 1), y(4, 1);
  std::uint64_t ahead = 0;
  while (node[0].has_room()) ASSERT_TRUE(node[0].enqueue(node.sum(0, x, ++ahead)).ok());
  EXPECT_EQ(ahead, kRecords);
  const std::uint64_t calls = 3 * kRecords;
  for (std::uint64_t s = 1; s <= calls; ++s) {
    ASSERT_TRUE(within_ms(5000, [&] { return node[1].has_room(); }));
    ASSERT_TRUE(node[1].enqueue(node.sum(1, y, s)).ok());
    if (s + ahead > calls) continue;
    ASSERT_TRUE(within_ms(5000, [&] { return node[0].has_room(); }));
    ASSERT_TRUE(node[0].enqueue(node.sum(0, x, s + ahead)).ok());
  }
  node.synchronize();
  EXPECT_EQ(x, y);
  EXPECT_EQ(x[0], 0) << "2 to the " << calls;
  EXPECT_EQ(node[0].complained_of(), -1);
}

TEST_P(BothWays, AMismatchWritesNothingAndIsNamed) {
  Node node(2, GetParam());
  std::vector<std::int32_t> x(100, 1), y(100, 2);
  StreamCall different = node.sum(1, y, 1);
  different.fingerprint += 1;
  ASSERT_TRUE(node[0].enqueue(node.sum(0, x, 1)).ok());
  ASSERT_TRUE(node[1].enqueue(different).ok());
  node.synchronize();
  EXPECT_EQ(x, std::vector<std::int32_t>(100, 1));
  EXPECT_EQ(y, std::vector<std::int32_t>(100, 2));
  EXPECT_EQ(node[0].complained_of(), 1);
  EXPECT_EQ(node[1].complained_of(), 0);
}

// A rank that never comes, with several operations queued behind, on two streams: abort() lets all
// of them go, and none writes.
TEST_P(BothWays, AnAbortEndsEveryWaitWithin100Ms) {
  Node node(3, GetParam());
  std::vector<std::int32_t> x(100, 1), y(100, 2);
  for (std::uint64_t s = 1; s <= 20; ++s) {
    StreamCall call = node.sum(0, x, s);
    if (s % 3 == 0) call.stream = node.other_stream(0);
    ASSERT_TRUE(node[0].enqueue(call).ok());
    if (s <= 4) {
      ASSERT_TRUE(node[1].enqueue(node.sum(1, y, s)).ok());
    }
  }
  ASSERT_TRUE(within_ms(2000, [&] { return node[0].is_reached(1) && node[1].is_reached(1); }));
  EXPECT_EQ(node[0].awaited(1), 2);
  EXPECT_EQ(node[0].awaited(2), -1) << "this rank's stream has not come to it";
  EXPECT_TRUE(node.drains_within_ms(100));
  node.synchronize();
  EXPECT_EQ(x, std::vector<std::int32_t>(100, 1));
  EXPECT_EQ(y, std::vector<std::int32_t>(100, 2));
}

// What is enqueued after the end does nothing either.
TEST_P(BothWays, NothingIsWrittenAfterAnAbort) {
  Node node(2, GetParam());
  std::vector<std::int32_t> x(10, 1), y(10, 2);
  node[1].abort();
  ASSERT_TRUE(node[0].enqueue(node.sum(0, x, 1)).ok());
  ASSERT_TRUE(node[1].enqueue(node.sum(1, y, 1)).ok());
  EXPECT_TRUE(node.drains_within_ms(100));
  EXPECT_EQ(x, std::vector<std::int32_t>(10, 1));
}

// The result is copied out of staging before the operation is over.
TEST_P(BothWays, AnOperationCanEndLater) {
  Node node(2, GetParam());
  std::vector<std::int32_t> x(10, 1), y(10, 2), out(10, 0);
  StreamCall call = node.sum(0, x, 1);
  call.ends_later = true;
  ASSERT_TRUE(node[0].enqueue(call).ok());
  ASSERT_TRUE(node[1].enqueue(node.sum(1, y, 1)).ok());
  node.synchronize();
  EXPECT_TRUE(node[1].is_over(1));
  EXPECT_FALSE(node[0].is_over(1));
  ASSERT_EQ(driver().memcpy_dtod_async(reinterpret_cast<CUdeviceptr>(out.data()),
                                       reinterpret_cast<CUdeviceptr>(x.data()), 40, call.stream),
            CUDA_SUCCESS);
  ASSERT_TRUE(node[0].finish(call.stream).ok());
  node.synchronize();
  EXPECT_TRUE(node[0].is_over(1));
  EXPECT_EQ(out, std::vector<std::int32_t>(10, 3));
}

// --- kernels that wait for one another; small operations go one-shot

constexpr std::int64_t limit_of(int ranks) { return WorkspaceLayout(ranks).message_limit(); }

std::string describe(DataType dtype, ReduceOp op, int ranks, std::int64_t count) {
  return std::string(name_of(op)) + " of " + std::string(name_of(dtype)) + ", " +
         std::to_string(ranks) + " ranks, count " + std::to_string(count);
}

/// NaNs are not compared: which one a NaN is, is not specified.
void make_finite(Array& data) {
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = (data[i] & 0x87) | 0x30;
}

/// One all_reduce of all ranks, in place or beside; what csrc/reduce makes of the inputs is wanted,
/// in rank order, which is that of schedule/direct.h.
void check_bits(Node& node, DataType dtype, ReduceOp op, std::int64_t count, std::size_t shift,
                bool in_place) {
  static std::uint64_t sequence = 0;
  ++sequence;
  const int ranks = node.ranks();
  const auto bytes = static_cast<std::size_t>(count * size_of(dtype));
  std::vector<Array> inputs, outputs;
  std::vector<const void*> sources;
  for (int r = 0; r < ranks; ++r) {
    inputs.push_back(noise(bytes + 32, static_cast<unsigned>(sequence * 8) + unsigned(r)));
    make_finite(inputs.back());
    outputs.push_back(Array(bytes + 32, 0x55));
  }
  for (const Array& input : inputs) sources.push_back(input.data() + shift);
  Array wanted(bytes + 1);
  reduce::fold(dtype, op, wanted.data(), sources, count, op == ReduceOp::kAvg ? 1.0 / ranks : 1.0);
  wanted.pop_back();
  std::vector<Array>& results = in_place ? inputs : outputs;
  const std::vector<Array> before = results;
  for (int r = 0; r < ranks; ++r) {
    StreamCall call = node.call(r, Collective::kAllReduce, dtype, count, inputs[r].data() + shift,
                                results[r].data() + shift, sequence);
    call.op = op;
    ASSERT_TRUE(node[r].enqueue(call).ok());
  }
  node.synchronize();
  for (int r = 0; r < ranks; ++r) {
    Array all = before[r];
    std::ranges::copy(wanted, all.begin() + std::ptrdiff_t(shift));
    ASSERT_EQ(results[r], all) << describe(dtype, op, ranks, count) << ", shift " << shift;
  }
}

TEST(OneShot, HasTheBitsOfTheHost) {
  for (const int ranks : {1, 2, 3, 6}) {
    Node node(ranks, true);
    for (int t = 0; t < kDataTypes; ++t) {
      const auto dtype = static_cast<DataType>(t);
      const std::int64_t most = limit_of(ranks) / size_of(dtype);
      for (int o = 0; o < kReduceOps; ++o) {
        const auto op = static_cast<ReduceOp>(o);
        if (!supports(op, dtype)) continue;
        for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, std::int64_t{7}, most}) {
          check_bits(node, dtype, op, count, 0, count % 2 == 1);
        }
      }
      // Around a packet, and where one-shot operations end; none need be aligned to its elements.
      for (std::int64_t count = 0; count < 20; ++count) {
        check_bits(node, dtype, ReduceOp::kMax, count, static_cast<std::size_t>(count) % 9, true);
      }
      for (const std::int64_t count : {most - 1, most + 1}) {
        check_bits(node, dtype, ReduceOp::kMin, count, 3, false);
      }
    }
  }
}

TEST(OneShot, IsWhatTheLimitSays) {
  Node node(3, true);
  EXPECT_TRUE(node[0].is_one_shot(Collective::kAllReduce, limit_of(3)));
  EXPECT_FALSE(node[0].is_one_shot(Collective::kAllReduce, limit_of(3) + 1));
  EXPECT_TRUE(node[0].is_one_shot(Collective::kBarrier, 0));
  EXPECT_FALSE(Node(3)[0].is_one_shot(Collective::kAllReduce, 8)) << "whose streams wait";
  EXPECT_LE(WorkspaceLayout(kMaxKernelRanks).bytes(), 512 << 10);
}

/// Each rank's host in a thread of its own, as far ahead as it may be; sizes on both sides of the
/// limit in turn, so that either way follows the other.
void run_far_ahead(std::uint32_t before) {
  constexpr int kCalls = 700, kRanks = 3;
  Node node(kRanks, true, before);
  const std::size_t large = static_cast<std::size_t>(limit_of(kRanks)) / 4 + 9;
  std::vector<std::vector<std::int32_t>> small(kRanks, std::vector<std::int32_t>(5, 1));
  std::vector<std::vector<std::int32_t>> big(kRanks, std::vector<std::int32_t>(large, 1));
  std::uint32_t small_wanted = 1, big_wanted = 1;
  for (int i = 0; i < kCalls; ++i) (i % 7 == 3 || i % 7 == 4 ? big_wanted : small_wanted) *= 3;
  std::vector<std::thread> hosts;
  for (int r = 0; r < kRanks; ++r) {
    hosts.emplace_back([&, r] {
      const ContextGuard guard(node.context());
      for (int i = 0; i < kCalls; ++i) {
        if ((i + 5 * r) % 97 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        ASSERT_TRUE(within_ms(20'000, [&] { return node[r].has_room(); }));
        StreamCall call = node.sum(r, i % 7 == 3 || i % 7 == 4 ? big[r] : small[r],
                                   static_cast<std::uint64_t>(i) + 1);
        if (i % 50 > 40) call.stream = node.other_stream(r);
        ASSERT_TRUE(node[r].enqueue(call).ok());
      }
    });
  }
  for (std::thread& host : hosts) host.join();
  node.synchronize();
  for (int r = 0; r < kRanks; ++r) {
    EXPECT_EQ(small[r], std::vector<std::int32_t>(5, static_cast<std::int32_t>(small_wanted)));
    EXPECT_EQ(big[r], std::vector<std::int32_t>(large, static_cast<std::int32_t>(big_wanted)));
    EXPECT_EQ(node[r].complained_of(), -1);
    EXPECT_TRUE(node[r].is_over(before + kCalls));
  }
}

TEST(OneShot, FollowsOthersAndIsFollowed) { run_far_ahead(0); }
TEST(OneShot, NumbersGoRound) { run_far_ahead(0xffffffff - 300); }
TEST(OneShot, FlagsGoRound) { run_far_ahead(0x7fffffff - 300); }
TEST(OneShot, WorkspacesAreSwept) { run_far_ahead(3 * kSweep - 300); }

// Flags that were left there when they went round the last time.
TEST(OneShot, WhatIsOldIsNotTakenForNew) {
  constexpr std::uint32_t kBefore = kSweep - 3;
  Node node(2, true, kBefore);
  std::vector<std::int32_t> x(100, 1), y(100, 2);
  const auto sum = [&](int rank, std::uint32_t number) {
    ASSERT_TRUE(node[rank].enqueue(node.sum(rank, rank == 0 ? x : y, number)).ok());
  };
  for (std::uint32_t number = kBefore + 1; number < kSweep; ++number)
    sum(0, number), sum(1, number);
  node.synchronize();
  for (const std::uint32_t number : {kSweep + 1, kSweep + 2}) {
    const auto base =
        node.workspace(0) + static_cast<std::uintptr_t>(WorkspaceLayout(2).area(number, 1));
    for (std::int64_t at = 0; at < WorkspaceLayout::packet(50); at += 8) {
      *reinterpret_cast<std::uint64_t*>(base + static_cast<std::uintptr_t>(at)) =
          std::uint64_t{flag_of(number)} << 32 | 0xbad;
    }
  }
  for (std::uint32_t number = kSweep; number <= kSweep + 2; ++number) {
    sum(0, number);
    if (number > kSweep) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    sum(1, number);
    node.synchronize();
  }
  EXPECT_EQ(node[0].complained_of(), -1);
  EXPECT_EQ(x, std::vector<std::int32_t>(100, 3 << 4));
  EXPECT_EQ(y, x);
}

/// The ranks have met: from now on kernels find one another by themselves.
void meet(Node& node, std::vector<std::vector<std::int32_t>>& x) {
  for (int r = 0; r < node.ranks(); ++r) ASSERT_TRUE(node[r].enqueue(node.sum(r, x[r], 1)).ok());
  node.synchronize();
}

// One rank's operation is small, the other's is not: each sees it, and both leave.
TEST(OneShot, AMismatchWithALargeOneIsNamedByBoth) {
  for (const bool have_met : {false, true}) {
    Node node(3, true);
    std::vector<std::vector<std::int32_t>> x(3, std::vector<std::int32_t>(10, 1));
    if (have_met) meet(node, x);
    const std::vector<std::vector<std::int32_t>> before = x;
    std::vector<std::int32_t> large(50'000, 7);
    ASSERT_TRUE(node[0].enqueue(node.sum(0, x[0], 2)).ok());
    ASSERT_TRUE(node[1].enqueue(node.sum(1, large, 2)).ok());
    ASSERT_TRUE(node[2].enqueue(node.sum(2, x[2], 2)).ok());
    const auto complained = [&] {
      return node[0].complained_of() == 1 && node[2].complained_of() == 1 &&
             node[1].complained_of() >= 0;
    };
    EXPECT_TRUE(within_ms(5000, complained));
    EXPECT_TRUE(node.drains_within_ms(100));
    node.synchronize();
    EXPECT_NE(node[1].complained_of(), 1);
    EXPECT_EQ(x, before);
    EXPECT_EQ(large, std::vector<std::int32_t>(50'000, 7));
  }
}

// Another sequence with the same fingerprint is another call, too.
TEST(OneShot, AnotherSequenceIsAMismatch) {
  Node node(2, true);
  std::vector<std::vector<std::int32_t>> x(2, std::vector<std::int32_t>(10, 1));
  meet(node, x);
  ASSERT_TRUE(node[0].enqueue(node.sum(0, x[0], 2)).ok());
  ASSERT_TRUE(node[1].enqueue(node.sum(1, x[1], 3)).ok());
  node.synchronize();
  EXPECT_EQ(node[0].complained_of(), 1);
  EXPECT_EQ(node[1].complained_of(), 0);
  EXPECT_EQ(x[0], std::vector<std::int32_t>(10, 2));
}

TEST(OneShot, AnAbortInTheMidstWritesNothing) {
  Node node(3, true);
  std::vector<std::vector<std::int32_t>> x(3, std::vector<std::int32_t>(10, 1));
  meet(node, x);
  for (std::uint64_t s = 2; s <= 8; ++s) {
    for (int r = 0; r < 2; ++r) ASSERT_TRUE(node[r].enqueue(node.sum(r, x[r], s)).ok());
  }
  ASSERT_TRUE(within_ms(2000, [&] { return node[0].is_reached(2) && node[1].is_reached(2); }));
  EXPECT_EQ(node[0].awaited(2), 2);
  EXPECT_TRUE(node.drains_within_ms(100));
  node.synchronize();
  for (int r = 0; r < 3; ++r) EXPECT_EQ(x[r], std::vector<std::int32_t>(10, 3));
}

// All it needs has come long ago when its stream gets there, but the communicator has ended.
TEST(OneShot, AStreamThatIsLateWritesNothingAfterAnAbort) {
  Node node(3, true);
  std::vector<std::vector<std::int32_t>> x(3, std::vector<std::int32_t>(10, 1));
  meet(node, x);
  delay(node.stream(0), 100);
  for (int r = 0; r < 3; ++r) ASSERT_TRUE(node[r].enqueue(node.sum(r, x[r], 2)).ok());
  ASSERT_TRUE(within_ms(2000, [&] { return node[1].is_reached(2) && node[2].is_reached(2); }));
  for (int r = 0; r < 3; ++r) node[r].abort();
  node.synchronize();
  EXPECT_TRUE(node.drains_within_ms(100));
  EXPECT_EQ(x[0], std::vector<std::int32_t>(10, 3));
}

// Its workspace may be somebody else's memory by then.
TEST(OneShot, NothingIsSentToARankThatHasLeft) {
  Node node(2, true);
  std::vector<std::vector<std::int32_t>> x(2, std::vector<std::int32_t>(10, 1));
  meet(node, x);
  EXPECT_TRUE(node[1].leave());
  const Array before = node.workspace_content(1);
  ASSERT_TRUE(node[0].enqueue(node.sum(0, x[0], 2)).ok());
  ASSERT_TRUE(within_ms(2000, [&] { return node[0].is_reached(2); }));
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(node[0].awaited(2), 1);
  EXPECT_EQ(node.workspace_content(1), before);
  EXPECT_TRUE(node.drains_within_ms(100));
  EXPECT_EQ(x[0], std::vector<std::int32_t>(10, 2));
}

// A call that counts on this rank is under way: what it sends may yet come.
TEST(OneShot, ARankThatLeavesTooEarlyIsTold) {
  Node node(2, true);
  std::vector<std::vector<std::int32_t>> x(2, std::vector<std::int32_t>(10, 1));
  meet(node, x);
  ASSERT_TRUE(node[0].enqueue(node.sum(0, x[0], 2)).ok());
  EXPECT_FALSE(node[1].leave());
  EXPECT_TRUE(node.drains_within_ms(100));
  EXPECT_TRUE(within_ms(2000, [&] { return node[1].leave(); }));
}

TEST(StreamGroup, AFailingDriverIsReported) {
  for (const char* call : {"cuStreamBatchMemOp", "cuLaunchKernel"}) {
    Node node(2);
    std::vector<std::int32_t> x(10, 1);
    Outcome outcome;
    {
      const testing::Failing failing((std::string(call) + ":1:1").c_str());
      outcome = node[0].enqueue(node.sum(0, x, 1));
    }
    EXPECT_EQ(outcome.result, CUDA_ERROR_INVALID_VALUE);
    EXPECT_STREQ(outcome.call, call);
  }
}

// --- graphs

struct Graph {
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  ~Graph() {
    if (exec != nullptr) (void)driver().graph_exec_destroy(exec);
    if (graph != nullptr) (void)driver().graph_destroy(graph);
  }
};

bool is_captured(CUstream stream) {
  bool captured = false;
  EXPECT_TRUE(ask_captured(driver(), stream, captured).ok());
  return captured;
}

void begin_capture(CUstream stream) {
  ASSERT_EQ(driver().stream_begin_capture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
}

void end_capture(CUstream stream, Graph& graph) {
  ASSERT_EQ(driver().stream_end_capture(stream, &graph.graph), CUDA_SUCCESS);
  ASSERT_EQ(driver().graph_instantiate(&graph.exec, graph.graph, 0), CUDA_SUCCESS);
}

// A graph of two operations, a hundred times, the ranks late in turn; beside it operations that no
// graph knows. The hosts do nothing but launch the graphs.
TEST(StreamGroupGraphs, RunAgainAndAgainWithoutTheHost) {
  constexpr int kRanks = 3;
  Node node(kRanks);
  std::vector<std::vector<std::int32_t>> x(kRanks, std::vector<std::int32_t>(100, 1));
  std::vector<std::vector<std::int32_t>> z(kRanks, std::vector<std::int32_t>(100, 1));
  Graph graphs[kRanks];
  for (int r = 0; r < kRanks; ++r) {
    begin_capture(node.stream(r));
    EXPECT_TRUE(is_captured(node.stream(r)));
    ASSERT_TRUE(node[r].capture(node.sum(r, x[r], 1)).ok());
    ASSERT_TRUE(node[r].capture(node.sum(r, x[r], 2)).ok());
    end_capture(node.stream(r), graphs[r]);
    EXPECT_FALSE(is_captured(node.stream(r)));
    EXPECT_EQ(node[r].issued(), 0u);
  }
  const int launched = shoal_fake_launches();
  std::uint32_t wanted = 1;
  for (int i = 0; i < 100; ++i) {
    for (int r = 0; r < kRanks; ++r) {
      if (i % 20 == r) delay(node.stream(r), 3);
      ASSERT_EQ(driver().graph_launch(graphs[r].exec, node.stream(r)), CUDA_SUCCESS);
    }
    wanted *= 9;
  }
  EXPECT_EQ(node[0].issued(), 0u);
  for (int r = 0; r < kRanks; ++r) {
    StreamCall call = node.sum(r, z[r], 3);
    call.stream = node.other_stream(r);
    ASSERT_TRUE(node[r].enqueue(call).ok());
  }
  node.synchronize();
  EXPECT_EQ(shoal_fake_launches() - launched, kRanks * 201);
  for (int r = 0; r < kRanks; ++r) {
    EXPECT_EQ(x[r], std::vector<std::int32_t>(100, static_cast<std::int32_t>(wanted)));
    EXPECT_EQ(z[r], std::vector<std::int32_t>(100, 3));
    EXPECT_EQ(node[r].stuck_capture(now_ns()).awaited, -1);
  }
}

TEST(StreamGroupGraphs, AReplayThatNobodyJoinsIsSeenAndLetGo) {
  Node node(2);
  std::vector<std::int32_t> x(100, 1), y(100, 2);
  Graph graphs[2];
  for (int r = 0; r < 2; ++r) {
    begin_capture(node.stream(r));
    ASSERT_TRUE(node[r].capture(node.sum(r, r == 0 ? x : y, 1)).ok());
    end_capture(node.stream(r), graphs[r]);
  }
  EXPECT_EQ(node[0].stuck_capture(1).awaited, -1);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(driver().graph_launch(graphs[0].exec, node.stream(0)), CUDA_SUCCESS);
  }
  ASSERT_TRUE(within_ms(2000, [&] { return node[0].stuck_capture(now_ns()).awaited == 1; }));
  const std::int64_t since = node[0].stuck_capture(now_ns()).since_ns;
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(node[0].stuck_capture(now_ns()).since_ns, since);
  EXPECT_EQ(node[1].stuck_capture(now_ns()).awaited, -1);
  EXPECT_TRUE(within_ms(100, [&] {
    node[0].abort();
    return driver().stream_query(node.stream(0)) == CUDA_SUCCESS;
  }));
  EXPECT_EQ(x, std::vector<std::int32_t>(100, 1));
  EXPECT_EQ(y, std::vector<std::int32_t>(100, 2));
}

TEST(StreamGroupGraphs, HaveABound) {
  Node node(2);
  std::vector<std::int32_t> x(4, 1);
  Graph graph;
  begin_capture(node.stream(0));
  while (node[0].captures_left() > 0) ASSERT_TRUE(node[0].capture(node.sum(0, x, 1)).ok());
  end_capture(node.stream(0), graph);
  EXPECT_GE(ControlLayout(2).captures(), 16);
  EXPECT_LE(ControlLayout(kMaxKernelRanks).bytes(), 4 << 20);
}

}  // namespace
}  // namespace shoal::cuda
