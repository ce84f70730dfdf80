#include "memory/pool.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "memory/host_room.h"

namespace shoal::memory {
namespace {

constexpr std::int64_t kMiB = 1 << 20;
constexpr std::int64_t kPoolBytes = 256 * kMiB;

class PoolTest : public testing::Test {
 protected:
  void SetUp() override {
    auto created = Arena::create({2, kHeaderBytes + kPoolBytes});
    ASSERT_TRUE(created.ok());
    arena_ = std::move(created.value());
    make_pool(kPoolBytes);
  }
  void make_pool(std::int64_t limit) { pool_ = std::make_unique<Pool>(arena_, 1, limit); }

  Offset allocate(std::int64_t bytes, std::int64_t alignment = 64) {
    const auto block = pool_->allocate(bytes, alignment);
    EXPECT_TRUE(block.ok()) << pool_->explain_out_of_memory(bytes);
    return block.value();
  }
  std::int64_t held_bytes() const {
    struct stat file{};
    EXPECT_EQ(::fstat(arena_.fd(), &file), 0);
    return file.st_blocks * 512;
  }

  Arena arena_;
  std::unique_ptr<Pool> pool_;
};

TEST_F(PoolTest, BlocksLieInTheOwnSliceAligned) {
  for (const std::int64_t bytes : {0, 1, 63, 64, 65, 4095, 4096, 4097, 3 << 20}) {
    for (std::int64_t alignment = 1; alignment <= 4096; alignment *= 2) {
      const Offset block = allocate(bytes, alignment);
      EXPECT_EQ(block % std::max<std::int64_t>(alignment, bytes < 4096 ? 64 : 4096), 0);
      EXPECT_GE(block, arena_.pool_begin(1));
      EXPECT_LE(block + bytes, arena_.slice_begin(1) + arena_.shape().slice_bytes);
      std::memset(arena_.at(block), 0x5a, static_cast<std::size_t>(bytes));
    }
  }
}

TEST_F(PoolTest, FreedNeighboursJoinToOneBlock) {
  make_pool(16 * kMiB);
  std::vector<Offset> blocks;
  for (int i = 0; i < 16; ++i) blocks.push_back(allocate(kMiB));
  EXPECT_FALSE(pool_->allocate(64).ok());
  for (const int i : {3, 5, 4, 0, 2, 1, 15, 13, 14, 7, 9, 8, 12, 6, 11, 10}) pool_->free(blocks[i]);
  EXPECT_EQ(pool_->use().used_bytes, 0);
  EXPECT_EQ(allocate(16 * kMiB), arena_.pool_begin(1));
}

// Measured at the file, not by our own counters.
TEST_F(PoolTest, GivesMemoryBackBeyondItsReserve) {
  const std::int64_t before = held_bytes();
  const Offset big = allocate(200 * kMiB);
  EXPECT_GE(held_bytes(), before + 200 * kMiB);
  const Offset small = allocate(100);
  pool_->free(big);
  EXPECT_LE(held_bytes(), before + kPoolReserveBytes + kSlabBytes);
  EXPECT_GE(pool_->use().committed_bytes, kPoolReserveBytes);
  EXPECT_EQ(pool_->use().committed_bytes, held_bytes() - before);
  pool_->free(small);
  pool_.reset();
  EXPECT_EQ(held_bytes(), before);
}

TEST_F(PoolTest, WithinItsReserveReuseTakesNoNewPages) {
  pool_->free(allocate(32 * kMiB));
  const std::int64_t held = held_bytes();
  for (int i = 0; i < 10; ++i) pool_->free(allocate(32 * kMiB));
  EXPECT_EQ(held_bytes(), held);
}

TEST_F(PoolTest, ReportsItsUse) {
  const Offset a = allocate(100);
  const Offset b = allocate(5000);
  EXPECT_EQ(pool_->use().used_bytes, 128 + 8192);
  EXPECT_EQ(pool_->use().blocks, 2);
  pool_->free(b);
  EXPECT_EQ(pool_->use().used_bytes, 128);
  EXPECT_EQ(pool_->use().peak_bytes, 128 + 8192);
  EXPECT_EQ(pool_->use().limit_bytes, kPoolBytes);
  EXPECT_EQ(pool_->use().committed_bytes, kSlabBytes);
  pool_->free(a);
}

TEST_F(PoolTest, TheLimitIsAnErrorThatSaysHowToRaiseIt) {
  make_pool(8 * kMiB);
  const Offset block = allocate(3 * kMiB);
  EXPECT_EQ(pool_->allocate(6 * kMiB).status().code, ErrorCode::kOutOfMemory);
  const std::string text = pool_->explain_out_of_memory(6 * kMiB);
  for (const char* part : {"asked 6.0 MiB", "3.0 MiB of the limit of 8.0 MiB", "raise it with"}) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  EXPECT_EQ(pool_->allocate(INT64_MAX).status().code, ErrorCode::kOutOfMemory);
  pool_->free(block);
  EXPECT_TRUE(pool_->allocate(6 * kMiB).ok());
}

TEST_F(PoolTest, AFragmentedPoolSaysSo) {
  make_pool(8 * kMiB);
  std::vector<Offset> blocks;
  for (int i = 0; i < 8; ++i) blocks.push_back(allocate(kMiB));
  for (int i = 0; i < 8; i += 2) pool_->free(blocks[i]);
  EXPECT_FALSE(pool_->allocate(2 * kMiB).ok());
  const std::string text = pool_->explain_out_of_memory(2 * kMiB);
  EXPECT_NE(text.find("largest free piece is 1.0 MiB"), std::string::npos) << text;
}

// Sized by the machine: thread sanitizer has no address space for a terabyte.
TEST(PoolOfAHugeSlice, WithoutMemoryInTheMachineSaysWhichLimitThatIs) {
  const std::int64_t huge = host_room().bytes / kSlabBytes * kSlabBytes * 2;
  auto arena = Arena::create({1, kHeaderBytes + huge});
  ASSERT_TRUE(arena.ok());
  Pool pool(arena.value(), 0, huge);
  EXPECT_EQ(pool.allocate(huge).status().code, ErrorCode::kOutOfMemory);
  EXPECT_EQ(pool.use().used_bytes, 0);
  const std::string text = pool.explain_out_of_memory(huge);
  EXPECT_NE(text.find("below the pool's limit of"), std::string::npos) << text;
  EXPECT_NE(text.find(" left ("), std::string::npos) << text;
  const auto block = pool.allocate(kMiB);
  ASSERT_TRUE(block.ok()) << "a refused ask leaves the pool as it was";
  pool.free(block.value());
}

using PoolDeathTest = PoolTest;
TEST_F(PoolDeathTest, FreeingTwiceOrSomethingElseIsABug) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const Offset block = allocate(1000);
  EXPECT_DEATH(pool_->free(block + 64), "freed once");
  pool_->free(block);
  EXPECT_DEATH(pool_->free(block), "freed once");
}

TEST_F(PoolTest, ARetiredBlockAndItsPagesAreNeverHandedOutAgain) {
  make_pool(4 * kMiB);
  const Offset before = allocate(64);
  const Offset block = allocate(64);
  const Offset after = allocate(64);
  ASSERT_TRUE(arena_.cut_off(block, 64).ok());
  pool_->retire(block);
  pool_->free(before);  // in the same page: free, and yet not handed out
  pool_->free(after);
  EXPECT_EQ(pool_->use().used_bytes, 0);
  for (auto next = pool_->allocate(64); next.ok(); next = pool_->allocate(64)) {
    ASSERT_NE(arena_.offset_of(arena_.at(next.value()), 64), kNoOffset);
  }
  EXPECT_EQ(pool_->use().used_bytes, 4 * kMiB - 4096);
}

TEST_F(PoolTest, RandomAllocationsAgreeWithAModel) {
  std::mt19937 random(11);
  std::map<Offset, std::int64_t> model;
  for (int step = 0; step < 20'000; ++step) {
    if (model.size() < 200 && random() % 2 == 0) {
      const std::int64_t bytes = random() % 4 == 0 ? random() % (4 * kMiB) : random() % 5000;
      const auto result = pool_->allocate(bytes, std::int64_t{1} << random() % 13);
      if (!result.ok()) continue;
      const Offset block = result.value();
      const auto next = model.lower_bound(block);
      if (next != model.end()) {
        ASSERT_LE(block + bytes, next->first);
      }
      if (next != model.begin()) {
        ASSERT_LE(std::prev(next)->first + std::prev(next)->second, block);
      }
      model.emplace(block, std::max<std::int64_t>(bytes, 1));
    } else if (!model.empty()) {
      auto victim = model.begin();
      std::advance(victim, random() % model.size());
      pool_->free(victim->first);
      model.erase(victim);
    }
    ASSERT_EQ(pool_->use().blocks, static_cast<std::int64_t>(model.size()));
  }
  for (const auto& [block, bytes] : model) pool_->free(block);
  EXPECT_EQ(pool_->use().used_bytes, 0);
  EXPECT_LE(pool_->use().committed_bytes, kPoolReserveBytes);
  pool_->free(allocate(kPoolBytes));
}

TEST_F(PoolTest, ThreadsMayAllocateAtTheSameTime) {
  std::vector<std::thread> threads;
  for (int id = 1; id <= 4; ++id) {
    threads.emplace_back([this, id] {
      for (int i = 0; i < 500; ++i) {
        const auto block = pool_->allocate(64 + i);
        ASSERT_TRUE(block.ok());
        std::memset(arena_.at(block.value()), id, 64);
        EXPECT_EQ(arena_.at(block.value())[63], static_cast<std::byte>(id));
        pool_->free(block.value());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool_->use().blocks, 0);
}

/// Remembers what is registered.
class Ledger : public Registrar {
 public:
  Result<void*> register_memory(void* base, std::int64_t bytes) noexcept override {
    if (refuse) return Status{ErrorCode::kTransport};
    ++calls;
    ranges[++last_] = {static_cast<std::byte*>(base), bytes};
    return reinterpret_cast<void*>(last_);
  }
  void deregister_memory(void* handle) noexcept override {
    EXPECT_EQ(ranges.erase(reinterpret_cast<std::intptr_t>(handle)), 1u);
  }
  bool covers(void* handle, const std::byte* data, std::int64_t bytes) const {
    const auto range = ranges.find(reinterpret_cast<std::intptr_t>(handle));
    return range != ranges.end() && range->second.first <= data &&
           data + bytes <= range->second.first + range->second.second;
  }
  std::map<std::intptr_t, std::pair<std::byte*, std::int64_t>> ranges;
  int calls = 0;
  bool refuse = false;

 private:
  std::intptr_t last_ = 0;
};

TEST_F(PoolTest, SlabsAreRegisteredOnDemandAndOnce) {
  Ledger ledger;
  pool_->set_registrar(&ledger);
  const Offset a = allocate(1000);
  const Offset b = allocate(1000);
  EXPECT_EQ(ledger.calls, 0) << "not before it is needed";
  void* handle = pool_->registration(arena_.at(a), 1000);
  EXPECT_TRUE(ledger.covers(handle, arena_.at(a), 1000));
  EXPECT_EQ(pool_->registration(arena_.at(b), 1000), handle) << "the same slab";
  const Offset big = allocate(5 * kMiB);
  void* run = pool_->registration(arena_.at(big), 5 * kMiB);
  EXPECT_TRUE(ledger.covers(run, arena_.at(big), 5 * kMiB));
  EXPECT_EQ(pool_->registration(arena_.at(big) + kMiB, kMiB), run);
  EXPECT_EQ(ledger.calls, 2);
  int foreign = 0;
  EXPECT_EQ(pool_->registration(&foreign, 4), nullptr);
  ledger.refuse = true;
  EXPECT_EQ(pool_->registration(arena_.at(allocate(40 * kMiB)), 40 * kMiB), nullptr);
  pool_->set_registrar(nullptr);
  EXPECT_TRUE(ledger.ranges.empty());
  EXPECT_EQ(pool_->registration(arena_.at(a), 1000), nullptr);
}

// A slab that one registration shares with a block in use stays registered, and so keeps its pages;
// when all of them are idle both go.
TEST_F(PoolTest, ARegistrationOutlivesEveryBlockInItsSlabs) {
  Ledger ledger;
  pool_->set_registrar(&ledger);
  const Offset big = allocate(101 * kMiB);  // slabs 0..50, half of the last
  const Offset tail = allocate(kMiB / 2);   // in slab 50 too
  void* handle = pool_->registration(arena_.at(big), 101 * kMiB);
  ASSERT_EQ(pool_->registration(arena_.at(tail), 100), handle);
  pool_->free(big);
  EXPECT_TRUE(ledger.covers(handle, arena_.at(tail), 100));
  EXPECT_EQ(pool_->use().committed_bytes, 102 * kMiB);
  pool_->free(tail);
  EXPECT_TRUE(ledger.ranges.empty());
  EXPECT_LE(pool_->use().committed_bytes, kPoolReserveBytes);
}

}  // namespace
}  // namespace shoal::memory
