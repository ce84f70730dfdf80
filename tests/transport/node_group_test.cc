#include "transport/shm/node_group.h"

#include <cstring>
#include <deque>
#include <memory>

#include "local_job.h"

namespace shoal::transport::shm {
namespace {

/// One group in plain memory, one view a rank.
class NodeGroupTest : public testing::Test {
 protected:
  void make(int ranks) {
    ranks_ = ranks;
    const auto bytes = static_cast<std::size_t>(control_bytes(ranks));
    control_.reset(static_cast<std::byte*>(std::aligned_alloc(kCacheLine, bytes)));
    std::memset(control_.get(), 0, bytes);
  }
  NodeGroup view(int rank) { return {control_.get(), ranks_, rank}; }

  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  int ranks_ = 0;
  std::unique_ptr<std::byte, Free> control_;
};

TEST_F(NodeGroupTest, ALineIsValidOnlyOnceEntered) {
  make(3);
  const NodeGroup a = view(0), b = view(1);
  EXPECT_FALSE(b.entered(1, 0));
  a.entry(1, 0).fingerprint = 42;
  EXPECT_FALSE(b.entered(1, 0)) << "filled, not entered";
  a.enter(1);
  EXPECT_TRUE(b.entered(1, 0));
  EXPECT_EQ(b.entry(1, 0).fingerprint, 42u);
  EXPECT_FALSE(b.entered(1, 2)) << "somebody else's";
  EXPECT_FALSE(b.entered(1 + kWindowSlots, 0)) << "the same slot, a later sequence";
}

TEST_F(NodeGroupTest, EveryWindowSlotIsItsOwn) {
  make(2);
  const NodeGroup a = view(0), b = view(1);
  for (std::uint64_t sequence = 1; sequence <= kWindowSlots; ++sequence) {
    a.entry(sequence, 0).fingerprint = 100 + sequence;
    a.enter(sequence);
  }
  for (std::uint64_t sequence = 1; sequence <= kWindowSlots; ++sequence) {
    ASSERT_TRUE(b.entered(sequence, 0));
    EXPECT_EQ(b.entry(sequence, 0).fingerprint, 100 + sequence);
  }
}

TEST_F(NodeGroupTest, PhasesOfALaterOperationCountAsPosted) {
  make(2);
  const NodeGroup a = view(0), b = view(1);
  a.post(3, 2);
  EXPECT_TRUE(b.posted(3, 0, 1));
  EXPECT_TRUE(b.posted(3, 0, 2));
  EXPECT_FALSE(b.posted(3, 0, 3));
  EXPECT_FALSE(b.posted(4, 0, 1)) << "another slot";
  a.post(3 + kWindowSlots, 1);
  EXPECT_TRUE(b.posted(3, 0, 3)) << "who is in a later operation has left this one";
}

struct Line {
  std::uint64_t fingerprint;
  std::byte payload[sizeof EntryLine::payload];
};

Line line_of(std::uint64_t sequence, int rank) {
  Line line{sequence * 31 + static_cast<std::uint64_t>(rank), {}};
  std::memset(line.payload, static_cast<int>(sequence * 7) + rank, sizeof line.payload);
  return line;
}

// Ranks as threads run up to kMaxInFlight operations ahead of themselves, as the rule in the header
// allows, and read every line of every rank: one that was overwritten before it was read, or read
// before it was whole, would not be what its writer must have written.
TEST_F(NodeGroupTest, NoLineIsOverwrittenUnreadWithinTheInFlightRule) {
  constexpr int kRanks = 3;
  constexpr std::uint64_t kOperations = 3000;
  make(kRanks);
  std::atomic<int> wrong{0}, stuck{0};
  const auto body = [&](int self) {
    const NodeGroup group = view(self);
    const auto enter = [&](std::uint64_t sequence) {
      const Line line = line_of(sequence, self);
      EntryLine& entry = group.entry(sequence, self);
      entry.fingerprint = line.fingerprint;
      std::memcpy(entry.payload, line.payload, sizeof line.payload);
      group.enter(sequence);
    };
    const auto complete = [&](std::uint64_t sequence) {
      for (int rank = 0; rank < kRanks; ++rank) {
        if (!eventually([&] { return group.entered(sequence, rank); })) ++stuck;
        const Line line = line_of(sequence, rank);
        const EntryLine& entry = group.entry(sequence, rank);
        if (entry.fingerprint != line.fingerprint ||
            std::memcmp(entry.payload, line.payload, sizeof line.payload) != 0) {
          ++wrong;
        }
      }
    };
    for (std::uint64_t next = 1, done = 0; done < kOperations && stuck == 0;) {
      const std::uint64_t ahead = 1 + (next * 2654435761u >> 7 & 7);  // 1..kMaxInFlight
      while (next <= kOperations && next <= done + ahead) enter(next++);
      complete(++done);
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(stuck.load(), 0);
}

// The first rank waits for nobody and the others for its line only, as in a run of broadcasts; all
// read all lines late, when they learn how far the slowest has come. kMaxAhead apart at most, none
// of those lines has been overwritten.
TEST_F(NodeGroupTest, NoLineIsOverwrittenUncomparedWithinTheAheadRule) {
  constexpr int kRanks = 3;
  constexpr std::uint64_t kOperations = 20 * kWindowSlots;
  make(kRanks);
  std::atomic<int> wrong{0}, stuck{0};
  const auto body = [&](int self) {
    const NodeGroup group = view(self);
    const auto look_at = [&](std::uint64_t sequence, int rank) {
      if (!eventually([&] { return group.entered(sequence, rank); })) ++stuck;
      if (group.entry(sequence, rank).fingerprint != line_of(sequence, rank).fingerprint) ++wrong;
    };
    std::uint64_t met = 0;
    for (std::uint64_t next = 1; next <= kOperations && stuck == 0; ++next) {
      while (next > met + kMaxAhead) {
        ++met;
        for (int rank = 0; rank < kRanks; ++rank) look_at(met, rank);
      }
      group.entry(next, self).fingerprint = line_of(next, self).fingerprint;
      group.enter(next);
      if (self != 0) look_at(next, 0);
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(stuck.load(), 0);
}

// What a rank wrote before a phase is visible to whoever sees the phase.
TEST_F(NodeGroupTest, PhasesPublishWhatWasWrittenBefore) {
  constexpr int kRanks = 4;
  constexpr std::uint64_t kOperations = 500;
  make(kRanks);
  std::uint64_t data[kRanks] = {};
  std::atomic<int> wrong{0}, stuck{0};
  const auto body = [&](int self) {
    const NodeGroup group = view(self);
    const auto await_all = [&](std::uint64_t sequence, std::uint32_t phase) {
      for (int rank = 0; rank < kRanks; ++rank) {
        if (!eventually([&] { return group.posted(sequence, rank, phase); })) ++stuck;
      }
    };
    for (std::uint64_t sequence = 1; sequence <= kOperations && stuck == 0; ++sequence) {
      data[self] = sequence * 10 + static_cast<std::uint64_t>(self);
      group.post(sequence, 1);
      await_all(sequence, 1);
      for (int rank = 0; rank < kRanks; ++rank) {
        if (data[rank] != sequence * 10 + static_cast<std::uint64_t>(rank)) ++wrong;
      }
      group.post(sequence, 2);
      await_all(sequence, 2);
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(stuck.load(), 0);
}

}  // namespace
}  // namespace shoal::transport::shm
