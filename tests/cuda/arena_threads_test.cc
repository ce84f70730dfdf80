// A node's pools of device memory, its ranks being threads of one process: growth, exhaustion, what
// a stream still uses, injected errors, a lost context.
#include <gtest/gtest.h>

#include <condition_variable>
#include <set>
#include <thread>

#include "cuda/node.h"

namespace shoal::cuda {
namespace {

using testing::Failing;
using testing::fake_driver;
using testing::options_of;
using testing::outcome;
using testing::Shared;

constexpr std::int64_t kMiB = 1 << 20;

std::unique_ptr<DeviceArena> make_arena(const MemoryOptions& options) {
  return std::make_unique<DeviceArena>(fake_driver(), options);
}

/// A stream whose work stands still until open().
class Gate {
 public:
  explicit Gate(const DeviceArena& arena) : arena_(arena), guard_(arena.context()) {
    const Driver& d = fake_driver();
    stream_ = make_stream(d, CU_STREAM_NON_BLOCKING);
    CUstreamBatchMemOpParams wait{};
    wait.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    wait.waitValue.address = reinterpret_cast<CUdeviceptr>(&word_);
    wait.waitValue.value = 1;
    wait.waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
    EXPECT_EQ(d.stream_batch_mem_op(stream_.get(), 1, &wait, 0), CUDA_SUCCESS);
  }
  ~Gate() { open(); }
  void open() {
    std::atomic_ref(word_).store(1);
    (void)fake_driver().stream_synchronize(stream_.get());
  }
  [[nodiscard]] CUstream stream() const { return stream_.get(); }

 private:
  const DeviceArena& arena_;
  ContextGuard guard_;
  std::uint32_t word_ = 0;
  Stream stream_;
};

TEST(DeviceArena, BlocksAreAlignedDisjointAndGivenBack) {
  Shared shared;
  const auto arena = make_arena(options_of(shared, 1, 0));
  std::vector<std::uint64_t> blocks;
  for (const std::int64_t bytes : {0L, 1L, 511L, 513L, 5 * kMiB, 3L}) {
    blocks.push_back(arena->allocate(bytes));
    EXPECT_EQ(blocks.back() % kBlockAlignment, 0U);
    std::memset(reinterpret_cast<void*>(blocks.back()), 1, static_cast<std::size_t>(bytes));
  }
  EXPECT_EQ(std::set(blocks.begin(), blocks.end()).size(), blocks.size());
  EXPECT_EQ(arena->use().blocks, 6);
  EXPECT_EQ(arena->use().held_bytes, kMinChunkBytes);
  for (const std::uint64_t block : blocks) arena->free(block);
  EXPECT_EQ(arena->use().used_bytes, 0);
  EXPECT_EQ(arena->use().blocks, 0);
  const std::uint64_t whole = arena->allocate(kMinChunkBytes);  // all have joined again
  EXPECT_EQ(whole, arena->base(0));
  arena->free(whole);
}

TEST(DeviceArena, GivesAllMemoryBackToTheDevice) {
  const std::uint64_t before = testing::used_bytes();
  {
    Shared shared;
    const auto arena = make_arena(options_of(shared, 1, 0));
    (void)arena->allocate(40 * kMiB);
    (void)arena->allocate(40 * kMiB);
    EXPECT_EQ(testing::used_bytes() - before, 80U * kMiB);
  }
  EXPECT_EQ(testing::used_bytes(), before);
}

TEST(DeviceArena, TheLimitIsAnErrorThatSaysAskedFreeAndLimit) {
  Shared shared;
  const auto arena = make_arena(options_of(shared, 1, 0, 64 * kMiB));
  const std::uint64_t block = arena->allocate(48 * kMiB);
  std::string text;
  EXPECT_EQ(outcome([&] { (void)arena->allocate(20 * kMiB); }, &text), ErrorCode::kOutOfMemory);
  EXPECT_NE(text.find("asked 20.0 MiB"), std::string::npos) << text;
  EXPECT_NE(text.find("limit 64.0 MiB"), std::string::npos) << text;
  EXPECT_NE(text.find("0.0 MiB of the 48.0 MiB held are free"), std::string::npos) << text;
  arena->free(block);
  arena->free(arena->allocate(20 * kMiB));
}

TEST(DeviceArena, AFullDeviceIsAnErrorAndNothingIsLost) {
  Shared shared;
  const auto arena = make_arena(options_of(shared, 1, 0));
  std::vector<std::uint64_t> blocks;
  std::string text;
  // Another owner has most of the device.
  const ContextGuard guard(arena->context());
  CUdeviceptr other = 0;
  std::size_t free = 0, total = 0;
  ASSERT_EQ(fake_driver().mem_get_info(&free, &total), CUDA_SUCCESS);
  ASSERT_EQ(fake_driver().mem_alloc(&other, free - 34 * kMiB), CUDA_SUCCESS);
  blocks.push_back(arena->allocate(32 * kMiB));
  blocks.push_back(arena->allocate(1 * kMiB));  // a smaller chunk than usual, as there is no more
  EXPECT_EQ(outcome([&] { (void)arena->allocate(2 * kMiB); }, &text), ErrorCode::kOutOfMemory);
  EXPECT_NE(text.find("CUDA_ERROR_OUT_OF_MEMORY"), std::string::npos) << text;
  EXPECT_NE(text.find("device 0 has 0.0 MiB"), std::string::npos) << text;
  ASSERT_EQ(fake_driver().mem_free(other), CUDA_SUCCESS);
  blocks.push_back(arena->allocate(2 * kMiB));
  for (const std::uint64_t block : blocks) arena->free(block);
}

TEST(DeviceArena, RanksOfOneProcessSeeTheSameBytesAtTheSameAddress) {
  constexpr int kRanks = 4;
  Shared shared;
  std::vector<std::unique_ptr<DeviceArena>> arenas(kRanks);
  std::vector<std::uint64_t> blocks(kRanks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      arenas[rank] = make_arena(options_of(shared, kRanks, rank, 128 * kMiB));
      blocks[rank] = arenas[rank]->allocate(4096);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int rank = 0; rank < kRanks; ++rank) {
    for (int other = 0; other < kRanks; ++other) {
      const std::optional<Place> place = arenas[rank]->offset_of(blocks[other], 4096);
      ASSERT_TRUE(place.has_value()) << rank << " of " << other;
      EXPECT_EQ(place->local_rank, other);
      EXPECT_EQ(arenas[rank]->base(other) + static_cast<std::uint64_t>(place->offset),
                blocks[other]);
    }
    EXPECT_FALSE(arenas[rank]->offset_of(blocks[rank], 33 * kMiB).has_value());
    EXPECT_FALSE(arenas[rank]->offset_of(1, 1).has_value());
  }
}

// All grow at once, and come and go while others grow: no allocation is handed out before every
// other arena that has returned from its constructor finds it.
TEST(DeviceArena, EveryoneFindsWhatIsHandedOut) {
  constexpr int kRanks = 3, kRounds = 12;
  Shared shared;
  std::mutex mutex;
  std::vector<DeviceArena*> there(kRanks, nullptr);
  std::atomic<int> missed{0};
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      for (int round = 0; round < kRounds; ++round) {
        const auto arena = make_arena(options_of(shared, kRanks, rank, 64 * kMiB));
        {
          const std::lock_guard lock(mutex);
          there[rank] = arena.get();
        }
        const std::uint64_t block = arena->allocate(kMiB + rank);
        {
          const std::lock_guard lock(mutex);
          for (const DeviceArena* other : there) {
            if (other != nullptr && !other->offset_of(block, kMiB)) ++missed;
          }
          there[rank] = nullptr;
        }
        arena->free(block);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(missed.load(), 0);
}

TEST(DeviceArena, ABlockInUseByAStreamIsNotHandedOutAgain) {
  Shared shared;
  const auto arena = make_arena(options_of(shared, 1, 0, 32 * kMiB));
  Gate gate(*arena);
  const std::uint64_t block = arena->allocate(20 * kMiB);
  ASSERT_EQ(fake_driver().memset_d8_async(block, 0x11, 20 * kMiB, gate.stream()), CUDA_SUCCESS);
  arena->used(block, gate.stream());
  arena->free(block);
  EXPECT_EQ(arena->use().used_bytes, 20 * kMiB);
  const std::uint64_t other = arena->allocate(10 * kMiB);
  EXPECT_GE(other, block + 20 * kMiB);
  std::memset(reinterpret_cast<void*>(other), 0x22, 10 * kMiB);
  std::thread opener([&] {
    ::usleep(50'000);
    gate.open();
  });
  const std::uint64_t again = arena->allocate(20 * kMiB);  // waits for the stream
  EXPECT_EQ(again, block);
  EXPECT_EQ(*reinterpret_cast<unsigned char*>(again + 20 * kMiB - 1), 0x11);
  EXPECT_EQ(*reinterpret_cast<unsigned char*>(other), 0x22);
  opener.join();
  arena->free(again);
  arena->free(other);
}

TEST(DeviceArena, WaitingForAStreamEndsWithTheDeadline) {
  Shared shared;
  const auto arena = make_arena(options_of(shared, 1, 0, 32 * kMiB, 100));
  Gate gate(*arena);
  const std::uint64_t block = arena->allocate(20 * kMiB);
  arena->used(block, gate.stream());
  std::string text;
  std::vector<char> out(16);
  EXPECT_EQ(outcome([&] { arena->copy_to_host(out.data(), block, 16); }, &text),
            ErrorCode::kTimeout);
  arena->free(block);
  EXPECT_EQ(outcome([&] { (void)arena->allocate(20 * kMiB); }, &text), ErrorCode::kOutOfMemory);
  EXPECT_NE(text.find("still in use by streams"), std::string::npos) << text;
}

TEST(DeviceArena, CopiesComeAfterWhatUsesTheBlock) {
  Shared shared;
  const auto arena = make_arena(options_of(shared, 1, 0, 32 * kMiB));
  Gate gate(*arena);
  const std::uint64_t block = arena->allocate(1024);
  ASSERT_EQ(fake_driver().memset_d8_async(block, 7, 1024, gate.stream()), CUDA_SUCCESS);
  arena->used(block, gate.stream());
  std::thread opener([&] {
    ::usleep(30'000);
    gate.open();
  });
  std::vector<char> out(1024);
  arena->copy_to_host(out.data(), block, 1024);
  EXPECT_EQ(out, std::vector<char>(1024, 7));
  opener.join();
  const std::vector<char> in(100, 9);
  arena->copy_from_host(block + 100, in.data(), 100);
  arena->copy_to_host(out.data(), block, 1024);
  EXPECT_EQ(out[99], 7);
  EXPECT_EQ(out[199], 9);
  EXPECT_EQ(out[200], 7);
  arena->free(block);
}

TEST(DeviceArena, AChunkThatAnotherRankCannotMapIsRefusedByName) {
  Shared shared;
  const auto owner = make_arena(options_of(shared, 2, 0, 128 * kMiB));
  MemoryOptions other = options_of(shared, 2, 1, 128 * kMiB);
  other.device = 1;
  const auto user = make_arena(other);
  const std::uint64_t before = testing::used_bytes();
  std::string text;
  {
    const Failing failing("cuMemSetAccess:2:1");  // the owner's own is the first
    EXPECT_EQ(outcome([&] { (void)owner->allocate(64); }, &text), ErrorCode::kDevice);
  }
  EXPECT_NE(text.find("local rank 1 cannot map it: cuMemSetAccess: CUDA_ERROR_INVALID_VALUE"),
            std::string::npos)
      << text;
  EXPECT_EQ(testing::used_bytes(), before);
  const std::uint64_t block = owner->allocate(64);  // the next one is as good as ever
  EXPECT_TRUE(user->offset_of(block, 64).has_value());
  EXPECT_EQ(block, owner->base(0));
  owner->free(block);
}

TEST(DeviceArena, InjectedErrorsAreNamedAndChangeNothing) {
  Shared shared;
  const std::uint64_t before = testing::used_bytes();
  const auto arena = make_arena(options_of(shared, 1, 0));
  for (const char* call : {"cuMemExportToShareableHandle", "cuMemMap", "cuMemSetAccess"}) {
    std::string text;
    const Failing failing((std::string(call) + ":1:801").c_str());
    EXPECT_EQ(outcome([&] { (void)arena->allocate(64); }, &text), ErrorCode::kDevice) << call;
    EXPECT_EQ(text.find(std::string(call) + ": CUDA_ERROR_NOT_SUPPORTED"), 0U) << text;
    EXPECT_EQ(testing::used_bytes(), before);
  }
  arena->free(arena->allocate(64));
}

TEST(DeviceArena, ALostContextIsToldOnceAndEndsAllWaits) {
  Shared shared;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::string> told;
  MemoryOptions options = options_of(shared, 1, 0, 32 * kMiB);
  options.on_lost = [&](const std::string& text) {
    const std::lock_guard lock(mutex);
    told.push_back(text);
    changed.notify_all();
  };
  const auto arena = make_arena(options);
  Gate gate(*arena);
  const std::uint64_t block = arena->allocate(20 * kMiB);
  arena->used(block, gate.stream());
  arena->free(block);
  const Failing failing("stream:1:700");  // the gate's next operation, or any other
  (void)fake_driver().memset_d8_async(arena->base(0), 0, 1, nullptr);
  std::string text;
  EXPECT_EQ(outcome([&] { (void)arena->allocate(20 * kMiB); }, &text), ErrorCode::kDevice);
  EXPECT_NE(text.find("CUDA_ERROR_ILLEGAL_ADDRESS"), std::string::npos) << text;
  EXPECT_NE(text.find("context is lost"), std::string::npos) << text;
  std::unique_lock lock(mutex);
  EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(5), [&] { return !told.empty(); }));
  EXPECT_EQ(told.size(), 1U);
}

TEST(DeviceArena, ADeviceThatDoesNotExistIsSaid) {
  Shared shared;
  MemoryOptions options = options_of(shared, 1, 0);
  options.device = 9;
  std::string text;
  EXPECT_EQ(outcome([&] { (void)make_arena(options); }, &text), ErrorCode::kInvalidArgument);
  EXPECT_NE(text.find("there is no device 9; this process sees 2"), std::string::npos) << text;
  options.device = -1;
  options.self = 0;
  EXPECT_EQ(make_arena(options)->device(), 0);
  const PrimaryContext second(fake_driver(), 1);
  const ContextGuard guard(second);
  EXPECT_EQ(make_arena(options)->device(), 1);  // that of the current context
}

}  // namespace
}  // namespace shoal::cuda
