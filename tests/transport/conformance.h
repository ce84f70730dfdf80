/// What every Transport must do, as tests over a factory. A transport's own test includes this
/// header and says how to make N connected transports in one process:
///
///   INSTANTIATE_TEST_SUITE_P(Sim, TransportConformance, testing::Values(Member{"sim", make_sim}));
///
/// All members are driven by this one thread, round robin; every wait ends after kPatienceMs.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/clock.h"
#include "transport/transport.h"

namespace shoal::transport {

/// N transports that reach one another; peer numbers are 0..N-1.
class Fabric {
 public:
  virtual ~Fabric() = default;
  virtual Transport& at(int rank) = 0;
};

/// One transport under test: INSTANTIATE_TEST_SUITE_P takes values of this.
struct Member {
  std::string name;
  std::function<std::unique_ptr<Fabric>(int peers)> make;
};
inline void PrintTo(const Member& member, std::ostream* out) { *out << member.name; }

inline constexpr std::int64_t kPatienceMs = 20'000;

/// Byte `i` of message `id`: differs between neighbours, between messages, and between the places
/// where a transport may cut (period 251, a prime).
inline std::byte pattern(std::int64_t i, int id) {
  return static_cast<std::byte>((i + (i >> 12) + std::int64_t{37} * id) % 251);
}

inline std::vector<std::byte> message(std::int64_t bytes, int id) {
  std::vector<std::byte> data(static_cast<std::size_t>(bytes));
  for (std::int64_t i = 0; i < bytes; ++i) data[static_cast<std::size_t>(i)] = pattern(i, id);
  return data;
}

/// Resident memory of this process.
inline std::int64_t resident_bytes() {
  long pages = 0, resident = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%ld %ld", &pages, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  return std::int64_t{resident} * 4096;
}

class TransportConformance : public testing::TestWithParam<Member> {
 protected:
  void connect(int peers) {
    peers_ = peers;
    fabric_ = GetParam().make(peers);
    ASSERT_NE(fabric_, nullptr);
  }

  Transport& at(int rank) { return fabric_->at(rank); }

  bool progress_all() {
    bool moved = false;
    for (int rank = 0; rank < peers_; ++rank) moved |= at(rank).progress();
    return moved;
  }

  template <class Condition>
  bool progress_until(Condition&& condition) {
    const Deadline deadline = Deadline::after_ms(kPatienceMs);
    while (!condition()) {
      if (deadline.passed()) return false;
      progress_all();
    }
    return true;
  }

  void settle(int rounds = 200) {
    for (int i = 0; i < rounds; ++i) progress_all();
  }

  void send(int from, int to, Match match, const std::vector<std::byte>& data,
            Operation& operation) {
    ASSERT_TRUE(progress_until([&] {
      return at(from).send(to, match, data.data(), static_cast<std::int64_t>(data.size()),
                           operation);
    })) << "send() never found room";
  }

  void receive(int at_rank, int from, Match match, std::vector<std::byte>& data,
               Operation& operation) {
    ASSERT_TRUE(progress_until([&] {
      return at(at_rank).receive(from, match, data.data(), static_cast<std::int64_t>(data.size()),
                                 operation);
    })) << "receive() never found room";
  }

  void await(std::initializer_list<Operation*> operations) {
    ASSERT_TRUE(progress_until([&] {
      return std::all_of(operations.begin(), operations.end(),
                         [](Operation* o) { return o->done(); });
    })) << "an operation did not end within "
        << kPatienceMs << " ms";
  }

  /// One message, from start to end, checked.
  void round_trip(int from, int to, Match match, std::int64_t bytes, int id,
                  bool send_first = false) {
    const auto sent = message(bytes, id);
    std::vector<std::byte> received(sent.size());
    Operation out, in;
    if (send_first) {
      ASSERT_NO_FATAL_FAILURE(send(from, to, match, sent, out));
      settle();
    }
    ASSERT_NO_FATAL_FAILURE(receive(to, from, match, received, in));
    if (!send_first) {
      ASSERT_NO_FATAL_FAILURE(send(from, to, match, sent, out));
    }
    ASSERT_NO_FATAL_FAILURE(await({&in, &out}));
    EXPECT_TRUE(in.status.ok()) << name_of(in.status.code);
    EXPECT_TRUE(out.status.ok()) << name_of(out.status.code);
    EXPECT_EQ(in.bytes, bytes);
    EXPECT_EQ(in.fingerprint, match.fingerprint);
    EXPECT_TRUE(received == sent) << bytes << " bytes arrived changed";
  }

  int peers_ = 0;
  std::unique_ptr<Fabric> fabric_;
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TransportConformance);

// Written straight there or sent: the receiver of the place sees no difference but in `bytes`.
TEST_P(TransportConformance, WhatIsPutIsInItsPlaceWhenItsReceiveIsDone) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  std::vector<std::byte> places(std::size_t{1} << 20);
  const Key key = at(1).key_to(places.data(), static_cast<std::int64_t>(places.size()));
  std::int64_t offset = 0;
  int id = 0;
  for (const std::int64_t bytes : {1, 4096, 70'000, 500'000}) {
    const auto sent = message(bytes, ++id);
    Operation out, in;
    ASSERT_TRUE(
        progress_until([&] { return at(0).put(1, {3, 5}, key, offset, sent.data(), bytes, out); }));
    ASSERT_TRUE(
        progress_until([&] { return at(1).receive(0, {3, 5}, &places[offset], bytes, in); }));
    ASSERT_NO_FATAL_FAILURE(await({&in, &out}));
    EXPECT_TRUE(in.status.ok() && out.status.ok());
    EXPECT_TRUE(in.bytes == bytes || (in.bytes == 0 && !key.empty())) << in.bytes;
    EXPECT_EQ(in.fingerprint, 5);
    EXPECT_TRUE(std::equal(sent.begin(), sent.end(), places.begin() + offset)) << bytes;
    offset += bytes;
  }
}

TEST_P(TransportConformance, EverySizeArrivesUnchangedInBothDirections) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  const std::int64_t sizes[] = {
      0,    1,    7,     8,     63,    64,    65,      1000,    4095,          4096,   8191,
      8192, 8193, 16384, 65536, 65537, 99991, 1 << 18, 1 << 20, (1 << 20) + 1, 4 << 20};
  int id = 0;
  for (const std::int64_t bytes : sizes) {
    for (const bool send_first : {false, true}) {
      SCOPED_TRACE(bytes);
      const Match match{collective_key(1, static_cast<std::uint64_t>(id)), 0x123};
      ASSERT_NO_FATAL_FAILURE(round_trip(0, 1, match, bytes, ++id, send_first));
      ASSERT_NO_FATAL_FAILURE(round_trip(1, 0, match, bytes, ++id, send_first));
    }
  }
}

// The fingerprint is delivered, never matched: a receiver that believes something else gets the
// message, and the sender's belief with it.
TEST_P(TransportConformance, TheSendersFingerprintIsDeliveredAndNotMatched) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  for (const std::int64_t bytes : {0, 8, 100'000}) {
    const auto sent = message(bytes, 5);
    std::vector<std::byte> received(sent.size());
    Operation out, in;
    ASSERT_NO_FATAL_FAILURE(send(0, 1, {collective_key(3, 7), 0xfff}, sent, out));
    ASSERT_NO_FATAL_FAILURE(receive(1, 0, {collective_key(3, 7), 0x001}, received, in));
    ASSERT_NO_FATAL_FAILURE(await({&in, &out}));
    EXPECT_EQ(in.fingerprint, 0xfff);
    EXPECT_TRUE(in.status.ok());
    EXPECT_TRUE(received == sent);
  }
}

TEST_P(TransportConformance, MessagesOfOneMatchArriveInTheOrderOfSending) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  constexpr int kMessages = 16;
  const Match match{p2p_key(0, 9), 0};
  std::deque<Operation> out(kMessages), in(kMessages);
  std::vector<std::vector<std::byte>> sent, received;
  for (int i = 0; i < kMessages; ++i) {
    sent.push_back(message(i % 3 == 2 ? 40'000 + i : 8 + i, i));  // eager and long ones mixed
    received.emplace_back(sent.back().size());
  }
  for (int i = 0; i < kMessages / 2; ++i)
    ASSERT_NO_FATAL_FAILURE(receive(1, 0, match, received[i], in[i]));
  for (int i = 0; i < kMessages; ++i) ASSERT_NO_FATAL_FAILURE(send(0, 1, match, sent[i], out[i]));
  settle();
  for (int i = kMessages / 2; i < kMessages; ++i) {
    ASSERT_NO_FATAL_FAILURE(receive(1, 0, match, received[i], in[i]));
  }
  for (int i = 0; i < kMessages; ++i) {
    ASSERT_NO_FATAL_FAILURE(await({&in[i], &out[i]}));
    EXPECT_EQ(in[i].bytes, static_cast<std::int64_t>(sent[i].size()));
    EXPECT_TRUE(received[i] == sent[i]) << "message " << i;
  }
}

// Messages that differ in one field only: sender's kind, communicator, sequence or tag, at the ends
// of their ranges. Receives are posted in the opposite order; nothing may be mixed up.
TEST_P(TransportConformance, DifferentMatchesAreIndependent) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  const std::uint64_t keys[] = {collective_key(0, 0),
                                collective_key(0, 1),
                                collective_key(0, kMaxTag),
                                collective_key(1, 0),
                                collective_key(kMaxCommunicators - 1, kMaxTag),
                                p2p_key(0, 0),
                                p2p_key(0, 1),
                                p2p_key(1, 0),
                                p2p_key(0, kMaxTag),
                                p2p_key(kMaxCommunicators - 1, kMaxTag)};
  const int n = static_cast<int>(std::size(keys));
  std::deque<Operation> out(n), in(n);
  std::vector<std::vector<std::byte>> sent, received(n, std::vector<std::byte>(32));
  for (int i = 0; i < n; ++i) sent.push_back(message(32, i));
  for (int i = 0; i < n; ++i) ASSERT_NO_FATAL_FAILURE(send(0, 1, {keys[i], 1}, sent[i], out[i]));
  for (int i = n - 1; i >= 0; --i) {
    ASSERT_NO_FATAL_FAILURE(receive(1, 0, {keys[i], 1}, received[i], in[i]));
    ASSERT_NO_FATAL_FAILURE(await({&in[i]}));
    EXPECT_TRUE(received[i] == sent[i]) << "key " << i;
  }
  for (int i = 0; i < n; ++i) ASSERT_NO_FATAL_FAILURE(await({&out[i]}));
}

// All pairs at once with one and the same match: a message is received from its sender only.
TEST_P(TransportConformance, FourPeersAllToAllDoNotMixSenders) {
  constexpr int kPeers = 4;
  ASSERT_NO_FATAL_FAILURE(connect(kPeers));
  for (const std::int64_t bytes : {std::int64_t{8}, std::int64_t{70'000}}) {
    std::deque<Operation> operations(2 * kPeers * kPeers);
    std::vector<std::vector<std::byte>> sent(kPeers * kPeers), received(kPeers * kPeers);
    const Match match{collective_key(2, 77), 0x0ab};
    for (int self = 0; self < kPeers; ++self) {
      for (int peer = 0; peer < kPeers; ++peer) {
        if (peer == self) continue;
        const int index = self * kPeers + peer;
        received[index].resize(bytes);
        sent[index] = message(bytes, index);
        ASSERT_NO_FATAL_FAILURE(receive(self, peer, match, received[index], operations[2 * index]));
        ASSERT_NO_FATAL_FAILURE(send(self, peer, match, sent[index], operations[2 * index + 1]));
      }
    }
    for (int self = 0; self < kPeers; ++self) {
      for (int peer = 0; peer < kPeers; ++peer) {
        if (peer == self) continue;
        const int index = self * kPeers + peer;
        ASSERT_NO_FATAL_FAILURE(await({&operations[2 * index], &operations[2 * index + 1]}));
        EXPECT_TRUE(received[index] == sent[peer * kPeers + self]) << peer << " to " << self;
      }
    }
  }
}

TEST_P(TransportConformance, ALongerMessageIsAMismatchAndWritesNothingPastTheCapacity) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  std::uint64_t sequence = 0;
  for (const std::int64_t bytes : {64, 5'000, 200'000}) {
    for (const bool send_first : {false, true}) {
      SCOPED_TRACE(bytes);
      const Match match{collective_key(0, ++sequence), 2};
      const auto sent = message(bytes, 1);
      const std::size_t capacity = sent.size() / 2;
      std::vector<std::byte> received(sent.size(), std::byte{0xee});
      Operation out, in;
      const auto post = [&] {
        ASSERT_TRUE(progress_until([&] {
          return at(1).receive(0, match, received.data(), static_cast<std::int64_t>(capacity), in);
        }));
      };
      if (!send_first) {
        ASSERT_NO_FATAL_FAILURE(post());
      }
      ASSERT_NO_FATAL_FAILURE(send(0, 1, match, sent, out));
      if (send_first) {
        settle();
        ASSERT_NO_FATAL_FAILURE(post());
      }
      ASSERT_NO_FATAL_FAILURE(await({&in, &out}));
      EXPECT_EQ(in.status.code, ErrorCode::kMismatch);
      for (std::size_t i = capacity; i < received.size(); ++i) {
        ASSERT_EQ(received[i], std::byte{0xee}) << "byte " << i << " past the capacity was written";
      }
      // The pair goes on.
      ASSERT_NO_FATAL_FAILURE(round_trip(0, 1, {collective_key(0, ++sequence), 2}, 100, 3));
      ASSERT_NO_FATAL_FAILURE(round_trip(1, 0, {collective_key(0, sequence), 2}, 100, 4));
    }
  }
}

constexpr std::int64_t kProbedSizes[] = {0, 8, 5'000, 200'000};

TEST_P(TransportConformance, AProbeSeesAMessageThatNoReceiveHasTaken) {
  ASSERT_NO_FATAL_FAILURE(connect(3));
  std::uint32_t tag = 0;
  for (const std::int64_t bytes : kProbedSizes) {
    SCOPED_TRACE(bytes);
    const Match match{p2p_key(1, ++tag), 3}, other{p2p_key(1, ++tag), 3};
    const auto probe = [&] { return at(1).probe(0, match); };
    for (int i = 0; i < 50; ++i) {
      ASSERT_FALSE(probe());
      progress_all();
    }
    const auto sent = message(bytes, 1);
    std::vector<std::byte> received(sent.size());
    Operation out, in;
    ASSERT_NO_FATAL_FAILURE(send(0, 1, match, sent, out));
    ASSERT_TRUE(progress_until(probe)) << "the message was never seen";
    for (int i = 0; i < 50; ++i) {
      ASSERT_TRUE(probe()) << "a probe takes nothing away";
      ASSERT_TRUE(at(1).probe(0, {match.key, 7})) << "the fingerprint is not matched";
      ASSERT_FALSE(at(1).probe(0, other));
      ASSERT_FALSE(at(1).probe(2, match));
      ASSERT_FALSE(at(2).probe(0, match));
      progress_all();
    }
    ASSERT_NO_FATAL_FAILURE(receive(1, 0, match, received, in));
    ASSERT_FALSE(probe());
    ASSERT_NO_FATAL_FAILURE(await({&in, &out}));
    EXPECT_TRUE(in.status.ok() && out.status.ok());
    EXPECT_EQ(in.bytes, bytes);
    EXPECT_TRUE(received == sent);
    ASSERT_FALSE(probe());
  }
}

// Of two messages with one match, the first belongs to the receive that waits for it.
TEST_P(TransportConformance, AProbeDoesNotSeeAMessageThatAReceiveWaitsFor) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  std::uint32_t tag = 0;
  for (const std::int64_t bytes : kProbedSizes) {
    SCOPED_TRACE(bytes);
    const Match match{p2p_key(0, ++tag), 0};
    const std::vector<std::byte> sent[] = {message(bytes, 1), message(bytes, 2)};
    std::vector<std::byte> received[] = {sent[1], sent[0]};
    Operation out[2], in[2];
    ASSERT_NO_FATAL_FAILURE(receive(1, 0, match, received[0], in[0]));
    ASSERT_NO_FATAL_FAILURE(send(0, 1, match, sent[0], out[0]));
    for (int i = 0; i < 200 || !in[0].done(); ++i) {
      ASSERT_FALSE(at(1).probe(0, match));
      ASSERT_LT(i, 50'000'000);
      progress_all();
    }
    ASSERT_NO_FATAL_FAILURE(send(0, 1, match, sent[1], out[1]));
    ASSERT_TRUE(progress_until([&] { return at(1).probe(0, match); }));
    ASSERT_NO_FATAL_FAILURE(receive(1, 0, match, received[1], in[1]));
    ASSERT_NO_FATAL_FAILURE(await({&in[0], &in[1], &out[0], &out[1]}));
    EXPECT_TRUE(received[0] == sent[0] && received[1] == sent[1]);
  }
}

TEST_P(TransportConformance, AProbeSeesBehindMessagesThatNobodyAsksFor) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  constexpr std::uint32_t kTags = 8;
  std::vector<std::vector<std::byte>> sent, received;
  std::deque<Operation> out(kTags), in(kTags);
  for (std::uint32_t i = 0; i < kTags; ++i) {
    sent.push_back(message(kProbedSizes[i % std::size(kProbedSizes)], static_cast<int>(i)));
    received.emplace_back(sent.back().size());
    ASSERT_NO_FATAL_FAILURE(send(0, 1, {p2p_key(0, i), 0}, sent[i], out[i]));
  }
  for (std::uint32_t i = kTags; i-- > 0;) {
    const Match match{p2p_key(0, i), 0};
    ASSERT_TRUE(progress_until([&] { return at(1).probe(0, match); })) << "tag " << i;
    ASSERT_NO_FATAL_FAILURE(receive(1, 0, match, received[i], in[i]));
  }
  for (std::uint32_t i = 0; i < kTags; ++i) {
    ASSERT_NO_FATAL_FAILURE(await({&in[i], &out[i]}));
    EXPECT_TRUE(received[i] == sent[i]) << "tag " << i;
  }
}

TEST_P(TransportConformance, AProbedMessageLongerThanTheCapacityIsAMismatch) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  std::uint32_t tag = 0;
  for (const std::int64_t bytes : {64, 5'000, 200'000}) {
    SCOPED_TRACE(bytes);
    const Match match{p2p_key(0, ++tag), 0};
    const auto sent = message(bytes, 1);
    std::vector<std::byte> received(sent.size(), std::byte{0xee});
    Operation out, in;
    ASSERT_NO_FATAL_FAILURE(send(0, 1, match, sent, out));
    ASSERT_TRUE(progress_until([&] { return at(1).probe(0, match); }));
    ASSERT_TRUE(
        progress_until([&] { return at(1).receive(0, match, received.data(), bytes / 2, in); }));
    ASSERT_NO_FATAL_FAILURE(await({&in, &out}));
    EXPECT_EQ(in.status.code, ErrorCode::kMismatch);
    EXPECT_EQ(std::count(received.begin() + bytes / 2, received.end(), std::byte{0xee}),
              bytes - bytes / 2);
    ASSERT_FALSE(at(1).probe(0, match));
    ASSERT_NO_FATAL_FAILURE(round_trip(0, 1, match, 100, 3));
  }
}

TEST_P(TransportConformance, ACancelledReceiveEndsAtOnceAndItsMemoryIsLeftAlone) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  ASSERT_NO_FATAL_FAILURE(round_trip(0, 1, {collective_key(0, 1), 0}, 64, 1));
  const Match match{collective_key(0, 2), 0};
  std::vector<std::byte> abandoned(64, std::byte{0x55});
  Operation in;
  ASSERT_NO_FATAL_FAILURE(receive(1, 0, match, abandoned, in));
  settle();
  at(1).cancel(in);
  ASSERT_TRUE(in.done());
  EXPECT_EQ(in.status.code, ErrorCode::kAborted);
  Operation out;
  const auto late = message(64, 9);
  const bool accepted = at(0).send(1, match, late.data(), 64, out);
  settle(2000);
  EXPECT_EQ(std::count(abandoned.begin(), abandoned.end(), std::byte{0x55}), 64);
  if (accepted && !out.done()) at(0).cancel(out);
  EXPECT_TRUE(!accepted || out.done());
}

// Whatever a transport does to end a send that nobody receives (it may give up the peer), it does
// so within a bound, and the memory may be freed.
TEST_P(TransportConformance, ACancelledSendIsDoneWhenCancelReturns) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  ASSERT_NO_FATAL_FAILURE(round_trip(0, 1, {collective_key(0, 1), 0}, 64, 1));
  auto data = std::make_unique<std::vector<std::byte>>(message(4 << 20, 3));
  Operation out;
  ASSERT_NO_FATAL_FAILURE(send(0, 1, {collective_key(0, 2), 0}, *data, out));
  settle();
  const std::int64_t start = now_ns();
  if (!out.done()) at(0).cancel(out);
  EXPECT_TRUE(out.done());
  EXPECT_LT((now_ns() - start) / kNsPerMs, 4000);
  data.reset();
  settle();
}

// Ten thousand messages, eight in flight, leave no memory behind.
TEST_P(TransportConformance, TenThousandMessagesDoNotGrowTheProcess) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer keeps freed memory; its leak check stands in";
#endif
  ASSERT_NO_FATAL_FAILURE(connect(2));
  constexpr int kWindow = 8, kBatches = 1250;
  std::deque<Operation> out(kWindow), in(kWindow);
  std::vector<std::vector<std::byte>> sent(kWindow, message(256, 1)), received = sent;
  std::int64_t before = 0;
  for (int batch = 0; batch < kBatches; ++batch) {
    if (batch == kBatches / 10) before = resident_bytes();
    for (int i = 0; i < kWindow; ++i) {
      out[i] = in[i] = Operation{};
      const Match match{collective_key(0, static_cast<std::uint64_t>(batch) * kWindow + i), 0};
      ASSERT_NO_FATAL_FAILURE(receive(1, 0, match, received[i], in[i]));
      ASSERT_NO_FATAL_FAILURE(send(0, 1, match, sent[i], out[i]));
    }
    for (int i = 0; i < kWindow; ++i) ASSERT_NO_FATAL_FAILURE(await({&in[i], &out[i]}));
  }
  EXPECT_LT(resident_bytes() - before, 4 << 20);
}

// A member that sleeps on its fd is woken by a message sent after arm() has returned it.
TEST_P(TransportConformance, AnArmedFdBecomesReadableOnAMessage) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  ASSERT_NO_FATAL_FAILURE(round_trip(0, 1, {collective_key(0, 1), 0}, 64, 1));
  const auto sent = message(64, 2);
  std::vector<std::byte> received(64);
  Operation in, out;
  ASSERT_NO_FATAL_FAILURE(receive(1, 0, {collective_key(0, 2), 0}, received, in));
  int fd = -1;
  ASSERT_TRUE(progress_until([&] { return (fd = at(1).arm()) != -1; }))
      << "arm() never let us sleep";
  if (fd == -2) GTEST_SKIP() << "no fd to wait for";
  ASSERT_TRUE(at(0).send(1, {collective_key(0, 2), 0}, sent.data(), 64, out));
  const Deadline deadline = Deadline::after_ms(kPatienceMs);
  while (!in.done() && !deadline.passed()) {
    at(0).progress();
    pollfd waiting{fd, POLLIN, 0};
    if (::poll(&waiting, 1, 100) > 0) {
      at(1).progress();
      for (int i = 0; i < 1000 && (fd = at(1).arm()) == -1; ++i) at(1).progress();
    }
  }
  ASSERT_TRUE(in.done()) << "the fd was not readable though a message had come";
  EXPECT_TRUE(received == sent);
  ASSERT_NO_FATAL_FAILURE(await({&out}));
}

// Who looks for a message in vain may sleep until one comes, also before anything has connected.
TEST_P(TransportConformance, AnArmedFdBecomesReadableOnAMessageThatIsProbedFor) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  for (const std::uint32_t tag : {1u, 2u}) {
    const Match match{p2p_key(0, tag), 0};
    const auto sent = message(64, 2);
    std::vector<std::byte> received(64);
    Operation in, out;
    int fd = -1;
    const auto found = [&] { return at(1).probe(0, match); };
    ASSERT_TRUE(progress_until([&] { return !found() && (fd = at(1).arm()) != -1; }))
        << "arm() never let us sleep";
    if (fd == -2) GTEST_SKIP() << "no fd to wait for";
    ASSERT_NO_FATAL_FAILURE(send(0, 1, match, sent, out));
    const Deadline deadline = Deadline::after_ms(kPatienceMs);
    while (!found() && !deadline.passed()) {
      at(0).progress();
      pollfd waiting{fd, POLLIN, 0};
      if (::poll(&waiting, 1, 100) <= 0) continue;
      for (int i = 0; i < 1000; ++i) {
        at(1).progress();
        if (found() || (fd = at(1).arm()) != -1) break;
      }
    }
    ASSERT_TRUE(found()) << "the fd was not readable though a message had come";
    ASSERT_NO_FATAL_FAILURE(receive(1, 0, match, received, in));
    ASSERT_NO_FATAL_FAILURE(await({&in, &out}));
    EXPECT_TRUE(received == sent);
  }
}

TEST_P(TransportConformance, ItSaysWhatItIs) {
  ASSERT_NO_FATAL_FAILURE(connect(2));
  EXPECT_FALSE(at(0).describe().empty());
}

inline std::string member_name(const testing::TestParamInfo<Member>& info) {
  return info.param.name;
}

}  // namespace shoal::transport
