#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <random>

#include "conformance.h"
#include "local_job.h"
#include "transport/shm/receiver.h"
#include "transport/shm/sender.h"
#include "transport/shm/shm_transport.h"

namespace shoal::transport {
namespace {

using shm::LocalJob;
using shm::LocalRank;
using shm::Mapping;

class ShmFabric : public Fabric {
 public:
  ShmFabric(int peers, Mapping mapping) : job_(peers, mapping) {}
  Transport& at(int rank) override { return job_.at(rank).transport; }

 private:
  LocalJob job_;
};

template <Mapping mapping>
std::unique_ptr<Fabric> make_shm(int peers) {
  return std::make_unique<ShmFabric>(peers, mapping);
}

INSTANTIATE_TEST_SUITE_P(Shm, TransportConformance,
                         testing::Values(Member{"own_mappings", make_shm<Mapping::kOwn>},
                                         Member{"shared_mapping", make_shm<Mapping::kShared>}),
                         member_name);

/// A message's memory: from the rank's pool, or from the heap.
class Buffer {
 public:
  Buffer(LocalRank& rank, bool pooled, std::int64_t bytes) {
    if (pooled) {
      pool_ = &rank.pool;
      const auto block = rank.pool.allocate(bytes);
      EXPECT_TRUE(block.ok());
      block_ = block.value();
      data_ = rank.node.arena().at(block_);
    } else {
      heap_.resize(static_cast<std::size_t>(bytes));
      data_ = heap_.data();
    }
  }
  Buffer(Buffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)),
        block_(other.block_),
        heap_(std::move(other.heap_)),
        data_(other.data_) {}
  ~Buffer() {
    if (pool_ != nullptr) pool_->free(block_);
  }
  std::byte* data() { return data_; }

 private:
  memory::Pool* pool_ = nullptr;
  memory::Offset block_ = memory::kNoOffset;
  std::vector<std::byte> heap_;
  std::byte* data_ = nullptr;
};

/// Message `index` of a stream (sender, receiver, tag): both sides compute the same.
struct Planned {
  int from, to, tag, index;
  std::int64_t bytes;
  int id;
};

constexpr int kTags = 3;
constexpr int kPerStream = 11;

std::vector<Planned> plan(int ranks) {
  constexpr std::int64_t kSizes[] = {0,    1,    32,      33,          100,           4096,
                                     8192, 8193, 1 << 16, 200'000 + 7, (1 << 20) + 3, 64};
  std::vector<Planned> all;
  for (int from = 0; from < ranks; ++from) {
    for (int to = 0; to < ranks; ++to) {  // itself too
      for (int tag = 0; tag < kTags; ++tag) {
        for (int index = 0; index < kPerStream; ++index) {
          const int id = static_cast<int>(all.size());
          all.push_back({from, to, tag, index, kSizes[(id * 7 + index) % 12], id});
        }
      }
    }
  }
  return all;
}

/// Shuffles streams against one another; within a stream the order stays.
std::vector<Planned> interleave(std::vector<Planned> messages, std::mt19937& random) {
  std::vector<Planned> order = messages;
  std::shuffle(order.begin(), order.end(), random);
  std::map<std::tuple<int, int, int>, int> next;
  for (Planned& place : order) {
    const int index = next[{place.from, place.to, place.tag}]++;
    place = *std::find_if(messages.begin(), messages.end(), [&](const Planned& m) {
      return m.from == place.from && m.to == place.to && m.tag == place.tag && m.index == index;
    });
  }
  return order;
}

Match match_of(const Planned& message) {
  return {p2p_key(5, static_cast<std::uint32_t>(message.tag)),
          static_cast<std::uint16_t>(message.id & 0xfff)};
}

struct Pending {
  Planned message;
  bool is_send;
  Buffer buffer;
  Operation operation{};
};

void fill(Pending& pending) {
  for (std::int64_t i = 0; i < pending.message.bytes; ++i) {
    pending.buffer.data()[i] = pattern(i, pending.message.id);
  }
}

void check(Pending& pending) {
  const Planned& message = pending.message;
  EXPECT_TRUE(pending.operation.status.ok());
  if (pending.is_send) return;
  EXPECT_EQ(pending.operation.bytes, message.bytes);
  EXPECT_EQ(pending.operation.fingerprint, message.id & 0xfff);
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < message.bytes; ++i) {
    wrong += pending.buffer.data()[i] != pattern(i, message.id);
  }
  EXPECT_EQ(wrong, 0) << message.from << " to " << message.to << " tag " << message.tag << " index "
                      << message.index << " of " << message.bytes << " bytes";
}

/// One rank's part: posts its sends and receives in an order of its own, mixing pool and foreign
/// memory, making progress now and then; then waits, sleeping.
void exchange(LocalRank& rank, int self, const std::vector<Planned>& all, unsigned seed) {
  std::mt19937 random(seed * 97 + static_cast<unsigned>(self));
  std::vector<Planned> mine;
  for (const Planned& m : all) {
    if (m.from == self || m.to == self) mine.push_back(m);
  }
  std::deque<Pending> pending;
  const auto post = [&](const Planned& m, bool is_send) {
    Pending& p = pending.emplace_back(m, is_send, Buffer(rank, random() % 2 == 0, m.bytes));
    if (is_send) fill(p);
    ASSERT_TRUE(shm::eventually([&] {
      if (is_send ? rank.transport.send(m.to, match_of(m), p.buffer.data(), m.bytes, p.operation)
                  : rank.transport.receive(m.from, match_of(m), p.buffer.data(), m.bytes,
                                           p.operation)) {
        return true;
      }
      rank.transport.progress();
      return false;
    })) << "no room";
    if (random() % 4 == 0) rank.transport.progress();
  };
  for (const Planned& m : interleave(mine, random)) {
    // A message to itself: both halves, in this order.
    if (m.from == self) post(m, true);
    if (m.to == self && !testing::Test::HasFatalFailure()) post(m, false);
    if (testing::Test::HasFatalFailure()) return;
  }
  const auto all_done = [&] {
    return std::all_of(pending.begin(), pending.end(),
                       [](const Pending& p) { return p.operation.done(); });
  };
  const Deadline deadline = Deadline::after_ms(60'000);
  while (!all_done() && !deadline.passed()) {
    const std::uint32_t token = rank.node.prepare_sleep();
    if (rank.transport.progress()) {
      rank.node.cancel_sleep();
    } else {
      rank.node.sleep(token, 20'000 * kNsPerMs);  // a lost wake-up is then a failure, not a delay
    }
  }
  ASSERT_TRUE(all_done()) << "rank " << self << " did not end";
  for (Pending& p : pending) check(p);
}

class ShmExchange : public testing::TestWithParam<std::tuple<int, Mapping>> {};

// Every size class, pool and foreign memory on either side, in any order of posting, by threads
// that sleep.
TEST_P(ShmExchange, EveryMessageArrivesInTheOrderOfItsStream) {
  const auto [ranks, mapping] = GetParam();
  LocalJob job(ranks, mapping);
  const std::vector<Planned> all = plan(ranks);
  const unsigned seeds = ranks <= 3 ? 3 : 1;  // P = 5 is 825 messages, and slow under a sanitizer
  for (unsigned seed = 1; seed <= seeds; ++seed) {
    job.run([&](int self) { exchange(job.at(self), self, all, seed); });
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShmExchange,
                         testing::Combine(testing::Values(1, 2, 3, 4, 5),
                                          testing::Values(Mapping::kOwn, Mapping::kShared)));

// Above kScanRanks the receiver looks only where senders announce themselves. Most ranks are
// silent.
TEST(ShmTransport, OnALargeNodeArrivalsAreAnnounced) {
  constexpr int kRanks = shm::kScanRanks * 2 + 6;
  LocalJob job(kRanks);
  const int speakers[] = {0, 31, 63, 64, 69};
  constexpr int kMessages = 200;
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (const int self : speakers) {
    threads.emplace_back([&, self] {
      Transport& transport = job.at(self).transport;
      std::deque<Operation> operations;
      std::deque<std::uint64_t> sent, received;
      for (int i = 0; i < kMessages; ++i) {
        for (const int peer : speakers) {
          sent.push_back(static_cast<std::uint64_t>(self * 1000 + i));
          received.push_back(0);
          transport.receive(peer, {p2p_key(0, 1), 0}, &received.back(), 8,
                            operations.emplace_back());
          Operation& out = operations.emplace_back();
          if (!shm::eventually([&] {
                if (transport.send(peer, {p2p_key(0, 1), 0}, &sent.back(), 8, out)) return true;
                transport.progress();
                return false;
              })) {
            ++wrong;
          }
        }
      }
      if (!shm::eventually([&] {
            transport.progress();
            return std::all_of(operations.begin(), operations.end(),
                               [](const Operation& o) { return o.done(); });
          })) {
        ++wrong;
      }
      for (std::size_t i = 0; i < received.size(); ++i) {
        const auto expected = static_cast<std::uint64_t>(speakers[i % 5] * 1000 + i / 5);
        if (received[i] != expected) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

/// Two ranks driven by this thread.
class ShmPair : public testing::Test {
 protected:
  Transport& at(int rank) { return job_.at(rank).transport; }
  template <class Condition>
  bool drive(Condition&& condition) {
    return shm::eventually(
        [&] {
          if (condition()) return true;
          at(0).progress();
          at(1).progress();
          return false;
        },
        20'000);
  }
  void settle() {
    for (int i = 0; i < 200; ++i) drive([calls = 0]() mutable { return calls++ == 1; });
  }
  Buffer buffer(int rank, bool pooled, std::int64_t bytes) {
    return Buffer(job_.at(rank), pooled, bytes);
  }

  LocalJob job_{2};
};

constexpr Match kMatch{p2p_key(1, 1), 7};
constexpr Match kOther{p2p_key(1, 2), 7};

TEST_F(ShmPair, ABlockIsReadInPlaceAndNotCopiedByTheSender) {
  Buffer source = buffer(0, true, 4096), target = buffer(1, false, 4096);
  std::memset(source.data(), 1, 4096);
  Operation out, in;
  ASSERT_TRUE(at(0).send(1, kMatch, source.data(), 4096, out));
  for (int i = 0; i < 100; ++i) at(0).progress();
  EXPECT_FALSE(out.done()) << "only the receiver can end it";
  std::memset(source.data(), 2, 4096);  // breaks the contract, to see when the bytes are read
  ASSERT_TRUE(at(1).receive(0, kMatch, target.data(), 4096, in));
  ASSERT_TRUE(drive([&] { return in.done() && out.done(); }));
  EXPECT_EQ(target.data()[0], std::byte{2});
}

TEST_F(ShmPair, ALongCopyDoesNotBlockOneCall) {
  constexpr std::int64_t kBytes = 16 << 20;
  Buffer source = buffer(0, true, kBytes), target = buffer(1, true, kBytes);
  Operation out, in;
  ASSERT_TRUE(at(0).send(1, kMatch, source.data(), kBytes, out));
  ASSERT_TRUE(at(1).receive(0, kMatch, target.data(), kBytes, in));
  int calls = 0;
  for (; !in.done() && calls < 1000; ++calls) at(1).progress();
  EXPECT_TRUE(in.done());
  EXPECT_GE(calls, 16) << "more than 1 MiB in one call";
}

// Far more foreign messages than staging tiles, received in the reverse order: a message that
// nobody receives yet must not keep a tile from one that somebody does.
TEST_F(ShmPair, UnexpectedForeignMessagesDoNotUseUpTheStaging) {
  constexpr int kMessages = 3 * shm::Sender::kTiles + shm::Sender::kEagerTiles;
  constexpr std::int64_t kBytes = shm::Sender::kTileBytes * 3 / 2;
  std::deque<Operation> out(kMessages), in(kMessages);
  std::vector<std::vector<std::byte>> sent, received(kMessages, std::vector<std::byte>(kBytes));
  const auto match = [](int i) { return Match{p2p_key(0, static_cast<std::uint32_t>(i)), 0}; };
  for (int i = 0; i < kMessages; ++i) {
    sent.push_back(message(kBytes, i));
    ASSERT_TRUE(drive([&] { return at(0).send(1, match(i), sent[i].data(), kBytes, out[i]); }));
  }
  settle();
  for (int i = kMessages - 1; i >= 0; --i) {
    ASSERT_TRUE(at(1).receive(0, match(i), received[i].data(), kBytes, in[i]));
    ASSERT_TRUE(drive([&] { return in[i].done() && out[i].done(); })) << "message " << i;
    EXPECT_TRUE(received[i] == sent[i]);
  }
}

// A short foreign message is copied at once, so its receiver gets it without the sender's help; and
// the tile it took comes back.
TEST_F(ShmPair, ShortForeignMessagesNeedNoSecondStepOfTheSender) {
  constexpr std::int64_t kBytes = shm::Sender::kEagerBytes;
  Buffer source = buffer(0, false, kBytes), target = buffer(1, false, kBytes);
  for (int i = 0; i < 3 * shm::Sender::kEagerTiles; ++i) {
    Operation out, in;
    ASSERT_TRUE(at(0).send(1, kMatch, source.data(), kBytes, out));
    ASSERT_TRUE(at(1).receive(0, kMatch, target.data(), kBytes, in));
    for (int calls = 0; calls < 10 && !in.done(); ++calls) at(1).progress();
    ASSERT_TRUE(in.done()) << "message " << i;
    at(0).progress();
    ASSERT_TRUE(out.done());
  }
}

TEST_F(ShmPair, AFullRingRefusesAndRecovers) {
  std::deque<Operation> out;
  int accepted = 0;
  std::uint64_t value = 0;
  while (at(0).send(1, kMatch, &value, 8, out.emplace_back())) {
    ASSERT_LT(++accepted, 10 * shm::kRingDepth);
  }
  EXPECT_EQ(accepted, shm::kRingDepth);
  EXPECT_EQ(out.back().state, Operation::State::kIdle) << "nothing was started";
  at(1).progress();
  EXPECT_TRUE(at(0).send(1, kMatch, &value, 8, out.back()));
}

class ShmCancel : public ShmPair, public testing::WithParamInterface<std::tuple<bool, int>> {
 protected:
  /// Sends and receives after what went before must work as if nothing had happened, many times
  /// (every ack word, slot and tile comes into use again).
  void expect_healthy() {
    for (int i = 0; i < 100; ++i) {
      const std::int64_t bytes = 1 << (i % 19);
      Buffer source = buffer(0, i % 2 == 0, bytes), target = buffer(1, i % 3 == 0, bytes);
      for (std::int64_t k = 0; k < bytes; ++k) source.data()[k] = pattern(k, i);
      Operation out, in;
      ASSERT_TRUE(drive([&] { return at(0).send(1, kOther, source.data(), bytes, out); }));
      ASSERT_TRUE(at(1).receive(0, kOther, target.data(), bytes, in));
      ASSERT_TRUE(drive([&] { return in.done() && out.done(); })) << bytes;
      ASSERT_EQ(std::memcmp(source.data(), target.data(), static_cast<std::size_t>(bytes)), 0);
    }
  }
  /// Advances both sides by a few steps, so that the cancellation comes at any place of the way.
  void advance(int steps) {
    for (int i = 0; i < steps; ++i) (i % 2 == 0 ? at(0) : at(1)).progress();
  }
  static constexpr std::int64_t kBytes = 5 << 20;
};

TEST_P(ShmCancel, OfAReceiveLeavesItsMemoryAloneAndEndsTheSend) {
  const auto [pooled, steps] = GetParam();
  Buffer source = buffer(0, pooled, kBytes), target = buffer(1, false, kBytes);
  std::memset(source.data(), 1, kBytes);
  Operation out, in;
  ASSERT_TRUE(at(0).send(1, kMatch, source.data(), kBytes, out));
  ASSERT_TRUE(at(1).receive(0, kMatch, target.data(), kBytes, in));
  advance(steps);
  ASSERT_FALSE(in.done()) << "cancelled too late to show anything";
  const bool matched = in.bytes != 0;
  at(1).cancel(in);
  ASSERT_TRUE(in.done());
  EXPECT_EQ(in.status.code, ErrorCode::kAborted);
  std::memset(target.data(), 9, kBytes);
  settle();
  EXPECT_EQ(std::count(target.data(), target.data() + kBytes, std::byte{9}), kBytes);
  EXPECT_EQ(out.done(), matched) << "a message that was not matched waits for another receive";
  expect_healthy();
}

TEST_P(ShmCancel, OfASendEndsItAtOnce) {
  const auto [pooled, steps] = GetParam();
  Buffer source = buffer(0, pooled, kBytes), target = buffer(1, false, kBytes);
  Operation out, in;
  ASSERT_TRUE(at(0).send(1, kMatch, source.data(), kBytes, out));
  ASSERT_TRUE(at(1).receive(0, kMatch, target.data(), kBytes, in));
  advance(steps);
  ASSERT_FALSE(out.done()) << "cancelled too late to show anything";
  at(0).cancel(out);
  ASSERT_TRUE(out.done());
  EXPECT_EQ(out.status.code, ErrorCode::kAborted);
  // The receiver of a block gets it all the same (it reads only); of a staged one, kAborted.
  ASSERT_TRUE(drive([&] { return in.done(); }));
  EXPECT_EQ(in.status.code, pooled ? ErrorCode::kOk : ErrorCode::kAborted);
  expect_healthy();
}

INSTANTIATE_TEST_SUITE_P(Places, ShmCancel,
                         testing::Combine(testing::Bool(), testing::Values(0, 1, 2, 3, 4, 5, 6)));

TEST_F(ShmPair, ASendToADeadPeerStaysActiveUntilCancelled) {
  Buffer source = buffer(0, false, 100'000);
  Operation out;
  ASSERT_TRUE(at(0).send(1, kMatch, source.data(), 100'000, out));  // rank 1 never looks
  for (int i = 0; i < 1000; ++i) at(0).progress();
  EXPECT_FALSE(out.done());
  at(0).cancel(out);
  EXPECT_TRUE(out.done());
}

TEST_F(ShmPair, APeerThatIsNotHereIsRefused) {
  Operation out, in;
  char byte = 0;
  EXPECT_TRUE(at(0).send(2, kMatch, &byte, 1, out));
  EXPECT_EQ(out.status.code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(at(0).receive(-1, kMatch, &byte, 1, in));
  EXPECT_EQ(in.status.code, ErrorCode::kInvalidArgument);
}

// Two real processes, each with its own mapping, pool and transport.
TEST(ShmProcesses, TwoProcessesExchange) {
  const memory::ArenaShape shape{2, memory::kHeaderBytes + shm::kTestPoolBytes};
  auto arena = memory::Arena::create(shape, "two-processes");
  ASSERT_TRUE(arena.ok());
  const std::vector<Planned> all = plan(2);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    {
      auto mine = memory::Arena::open(Fd(::dup(arena.value().fd())), shape);
      if (!mine.ok()) ::_exit(2);
      LocalRank rank(mine.value(), 1);
      exchange(rank, 1, all, 5);
    }
    ::_exit(testing::Test::HasFailure() ? 1 : 0);
  }
  {
    LocalRank rank(arena.value(), 0);
    exchange(rank, 0, all, 5);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace shoal::transport
