// Several networks as one: over rails that die at every point of a program, over TCP, and its
// parts.
#include <cstring>
#include <random>
#include <set>

#include "conformance.h"
#include "faulty_rail.h"
#include "network_peer.h"
#include "transport/rail/mailbox.h"
#include "transport/rail/rail_network.h"
#include "transport/rail/split.h"
#include "transport/tcp/tcp_transport.h"

namespace shoal::transport {
namespace {

using rail::make_rail_network;
using rail::Rail;
using rail::RailNetwork;

// --- over TCP ------------------------------------------------------------------------------------

std::unique_ptr<Network> tcp_rail(int self, int peers) {
  return tcp::make_tcp({self, peers, "127.0.0.1",
                        [](std::string_view) { return std::string(tcp::kProofBytes, 'p'); }});
}

std::unique_ptr<RailNetwork> over_tcp(int self, int peers, int count) {
  std::vector<Rail> rails;
  for (int i = 0; i < count; ++i) {
    rails.push_back({std::string("lo").append(std::to_string(i)), tcp_rail(self, peers), 0});
  }
  return make_rail_network(std::move(rails), peers);
}

class TcpRails final : public Fabric {
 public:
  TcpRails(int peers, int rails) {
    for (int r = 0; r < peers; ++r) members_.push_back(over_tcp(r, peers, rails));
    for (auto& member : members_) {
      for (int r = 0; r < peers; ++r) member->set_peer_address(r, members_[r]->address());
    }
  }
  RailNetwork& at(int rank) override { return *members_[rank]; }

 private:
  std::vector<std::unique_ptr<RailNetwork>> members_;
};

INSTANTIATE_TEST_SUITE_P(
    Rails, TransportConformance,
    testing::Values(Member{"tcp_2", [](int peers) { return std::make_unique<TcpRails>(peers, 2); }},
                    Member{"tcp_5",
                           [](int peers) { return std::make_unique<TcpRails>(peers, 5); }}),
    member_name);

INSTANTIATE_TEST_SUITE_P(Rails, NetworkPeer,
                         testing::Values(NetworkMember{
                             "tcp_2", [](int self) { return over_tcp(self, 2, 2); }}),
                         network_name);

// --- over rails that die -------------------------------------------------------------------------

/// Two ranks joined by rails; both driven by this thread.
class Joined {
 public:
  /// `stall_ticks`: calls of progress() that a rail may be silent, if the test shall see that.
  explicit Joined(const std::vector<FaultyRail::Options>& options, std::int64_t stall_ticks = 0) {
    rail::Timing timing;
    if (stall_ticks > 0) timing = {stall_ticks * kNsPerMs, [this] { return ticks_ * kNsPerMs; }};
    for (const auto& rail : options) rails_.push_back(std::make_unique<FaultyRail>(rail));
    for (int self : {0, 1}) {
      std::vector<Rail> own;
      for (auto& rail : rails_) {
        own.push_back({std::string("r").append(std::to_string(own.size())), rail->take(self), 0});
      }
      ranks_[self] = make_rail_network(std::move(own), 2, timing);
    }
  }
  RailNetwork& at(int rank) { return *ranks_[rank]; }
  FaultyRail& rail(int index) { return *rails_[index]; }

  void progress() {
    for (int rank : {0, 1}) progress_only(rank);
  }
  void progress_only(int rank) {
    ticks_ += rank == 0;
    ranks_[rank]->progress();
  }
  template <class Condition>
  bool until(Condition&& condition) {
    constexpr int kRounds = 20'000;
    for (int i = 0; i < kRounds && !condition(); ++i) progress();
    return condition();
  }
  bool until_done(const std::vector<Operation*>& operations) {
    return until([&] {
      return std::ranges::all_of(operations, [](const Operation* o) { return o->done(); });
    });
  }

 private:
  std::int64_t ticks_ = 0;
  std::vector<std::unique_ptr<FaultyRail>> rails_;  // outlive the ranks
  std::unique_ptr<RailNetwork> ranks_[2];
};

/// One message of a program: who sends it, and what.
struct Planned {
  int from;
  Match match;
  std::int64_t bytes;
};

std::vector<Planned> make_program(std::uint64_t seed, int messages) {
  std::mt19937_64 random(seed);
  constexpr std::int64_t kSizes[] = {0, 1, 200, 301, 8192, 8193, 60'000, 131'072, 300'001};
  std::vector<Planned> program;
  for (int i = 0; i < messages; ++i) {
    const std::uint64_t key = p2p_key(1, static_cast<std::uint32_t>(random() % 3));
    program.push_back({static_cast<int>(random() % 2),
                       {key, static_cast<std::uint16_t>(random() % 4096)},
                       kSizes[random() % std::size(kSizes)]});
  }
  return program;
}

/// What a program's messages look like while it runs.
struct Running {
  std::vector<std::byte> sent, received;
  Operation out, in;
  bool is_overwritten = false;
};

/// Runs all of it, a few messages at a time, receives before or after their sends. A sent buffer is
/// overwritten as soon as its operation is done. True if everything arrived.
testing::AssertionResult run(Joined& ranks, const std::vector<Planned>& program, std::uint64_t seed,
                             std::size_t ahead = 6) {
  std::mt19937_64 random(seed);
  std::deque<Running> all(program.size());
  std::size_t sends = 0, receives = 0;
  const auto overwrite = [&] {
    for (Running& message : all) {
      if (!message.out.done() || std::exchange(message.is_overwritten, true)) continue;
      std::ranges::fill(message.sent, std::byte{0xee});
    }
  };
  const auto is_done = [](const Running& m) { return m.out.done() && m.in.done(); };
  for (int round = 0; round < 50'000; ++round) {
    if (sends < program.size() && sends < receives + ahead && random() % 3 == 0) {
      const Planned& planned = program[sends];
      Running& message = all[sends];
      message.sent = shoal::transport::message(planned.bytes, static_cast<int>(sends));
      ranks.at(planned.from)
          .send(1 - planned.from, planned.match, message.sent.data(), planned.bytes, message.out);
      ++sends;
    }
    if (receives < program.size() && receives < sends + ahead && random() % 3 == 0) {
      const Planned& planned = program[receives];
      Running& message = all[receives];
      message.received.resize(static_cast<std::size_t>(planned.bytes) + 8, std::byte{0x77});
      ranks.at(1 - planned.from)
          .receive(planned.from, planned.match, message.received.data(), planned.bytes, message.in);
      ++receives;
    }
    ranks.progress();
    overwrite();
    if (receives == program.size() && sends == program.size() &&
        std::ranges::all_of(all, is_done)) {
      break;
    }
  }
  for (std::size_t i = 0; i < program.size(); ++i) {
    const Planned& planned = program[i];
    const auto fails = [&](const char* what) {
      return testing::AssertionFailure()
             << "message " << i << " of " << program.size() << " (from " << planned.from << ", "
             << planned.bytes << " bytes): " << what << "; " << ranks.at(0).describe() << " | "
             << ranks.at(1).describe();
    };
    if (!all[i].out.done()) return fails("its send never ended");
    if (!all[i].in.done()) return fails("its receive never ended");
    if (!all[i].out.status.ok()) return fails("its send failed");
    if (!all[i].in.status.ok()) return fails("its receive failed");
    if (all[i].in.bytes != planned.bytes) return fails("its length is wrong");
    if (all[i].in.fingerprint != planned.match.fingerprint)
      return fails("its fingerprint is wrong");
    auto expected = shoal::transport::message(planned.bytes, static_cast<int>(i));
    expected.resize(expected.size() + 8, std::byte{0x77});
    if (all[i].received != expected) return fails("its content is wrong");
  }
  return testing::AssertionSuccess();
}

TEST(Rails, RandomProgramsArriveWhole) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Joined ranks({{.seed = seed, .refused = static_cast<int>(seed % 4)},
                  {.seed = seed + 1000, .late = static_cast<int>(seed % 8)}});
    ASSERT_TRUE(run(ranks, make_program(seed, 60), seed)) << "seed " << seed;
    EXPECT_EQ(ranks.at(0).describe().find("dropped"), std::string::npos);
  }
}

constexpr std::int64_t kNever = FaultyRail::kNever;
/// Who notices that a rail is dead, and how late.
constexpr std::int64_t kNotices[][2] = {{0, 0}, {0, kNever}, {kNever, 0}, {25, 3}, {3, 60}};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::int64_t kStride = 7;  // each call takes ten times as long
#else
constexpr std::int64_t kStride = 1;
#endif

// The whole of it: either rail, at each of its calls, whoever notices.
TEST(Rails, ARailMayDieAtEveryPoint) {
  const auto program = make_program(7, 20);
  for (const int dying : {0, 1}) {
    std::int64_t calls = 0;
    {
      Joined ranks({{.seed = 3}, {.seed = 4}});
      ASSERT_TRUE(run(ranks, program, 7));
      calls = ranks.rail(dying).calls();
    }
    ASSERT_GT(calls, 80);
    for (std::int64_t at = 1; at <= calls; at += kStride) {
      for (const auto& notice : kNotices) {
        std::vector<FaultyRail::Options> options = {{.seed = 3}, {.seed = 4}};
        options[dying].dies_at = at;
        std::copy(notice, notice + 2, options[dying].notice);
        Joined ranks(options);
        ASSERT_TRUE(run(ranks, program, 7)) << "rail " << dying << " dies at call " << at
                                            << ", noticed after " << notice[0] << ", " << notice[1];
      }
    }
  }
}

// As RC over UCX may have done (docs/rdma.md).
TEST(Rails, WhatADyingRailSaysHasArrivedIsAskedForAgain) {
  const auto program = make_program(7, 20);
  for (const int dying : {0, 1}) {
    for (std::int64_t at = 1; at <= 400; at += 4 * kStride) {
      for (const auto& notice : kNotices) {
        std::vector<FaultyRail::Options> options = {{.seed = 3}, {.seed = 4}};
        options[dying].dies_at = at;
        options[dying].lies = true;
        std::copy(notice, notice + 2, options[dying].notice);
        Joined ranks(options);
        ASSERT_TRUE(run(ranks, program, 7)) << "rail " << dying << " dies at call " << at
                                            << ", noticed after " << notice[0] << ", " << notice[1];
      }
    }
  }
}

// One way only, and more of them than the window holds: nothing of the receiver's own carries what
// it has to say of them.
TEST(Rails, AStreamOfSmallMessagesSurvives) {
  std::vector<Planned> program;
  for (int i = 0; i < 150; ++i) program.push_back({0, {p2p_key(1, 0), 0}, i % 5 * 80});
  for (std::int64_t at = 1; at < 700; at += 7 * kStride) {
    for (const auto& notice : kNotices) {
      FaultyRail::Options dying{.seed = 5, .dies_at = at};
      std::copy(notice, notice + 2, dying.notice);
      Joined ranks({dying, {.seed = 6}});
      ASSERT_TRUE(run(ranks, program, 11, 100))
          << "dies at call " << at << ", noticed after " << notice[0] << ", " << notice[1];
    }
  }
}

// Several of several rails, in longer programs.
TEST(Rails, AllButOneMayDieAtRandom) {
  int died = 0;
  for (std::uint64_t seed = 1; seed <= 250 / kStride; ++seed) {
    std::mt19937_64 random(seed);
    const std::size_t count = 2 + random() % 3;
    std::vector<FaultyRail::Options> options(count);
    const std::size_t survivor = random() % count;
    for (std::size_t r = 0; r < count; ++r) {
      options[r] = {.seed = random(), .max_delay = static_cast<int>(random() % 12)};
      options[r].refused = static_cast<int>(random() % 3);
      options[r].late = static_cast<int>(random() % 10);
      if (r == survivor || random() % 4 == 0) continue;
      options[r].dies_at = static_cast<std::int64_t>(1 + random() % 1000);
      std::copy_n(kNotices[random() % std::size(kNotices)], 2, options[r].notice);
    }
    Joined ranks(options);
    ASSERT_TRUE(run(ranks, make_program(seed, 80), seed)) << "seed " << seed;
    for (std::size_t r = 0; r < count; ++r) died += ranks.rail(static_cast<int>(r)).is_dead();
  }
  EXPECT_GT(died, 200 / kStride) << "the test must kill rails";
}

TEST(Rails, ADeadRailIsNamedOnceByBothEndsWithItsReason) {
  Joined ranks({{.seed = 1}, {.seed = 2, .notice = {0, kNever}}});
  ASSERT_TRUE(run(ranks, make_program(1, 20), 1));
  ranks.rail(1).die();
  ASSERT_TRUE(run(ranks, make_program(2, 40), 2));
  for (int rank : {0, 1}) {
    const std::string text = ranks.at(rank).describe();
    const std::string named = "rail r1 to rank " + std::to_string(1 - rank) + " dropped: ";
    const std::size_t place = text.find(named);
    ASSERT_NE(place, std::string::npos) << text;
    EXPECT_EQ(text.find("dropped", place + named.size()), std::string::npos) << text;
    EXPECT_FALSE(ranks.at(rank).peer_failed(1 - rank));
  }
  EXPECT_NE(ranks.at(1).describe().find("its other end found it dead"), std::string::npos);
}

// Nothing is named where the peer is gone as a whole: that is no rail's fault.
TEST(Rails, WhenAllRailsAreDeadThePeerHasFailed) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    Joined ranks({{.seed = seed}, {.seed = seed + 1, .notice = {5, 9}}});
    const auto large = message(300'000, 1);
    std::vector<std::byte> first(300'000), second(8), third(8);
    Operation out, in, never, small, after;
    ASSERT_TRUE(run(ranks, make_program(seed, 5), seed));
    ranks.at(0).receive(1, {1, 0}, first.data(), 300'000, in);
    ranks.at(0).receive(1, {2, 0}, second.data(), 8, never);
    ranks.at(1).send(0, {1, 0}, large.data(), 300'000, out);
    for (std::uint64_t i = 0; i < seed; ++i) ranks.progress();
    for (int r : {0, 1}) ranks.rail(r).die();
    ASSERT_TRUE(ranks.until_done({&in, &never, &out})) << seed;
    EXPECT_EQ(never.status.code, ErrorCode::kPeerFailed);
    if (!in.status.ok()) {
      EXPECT_EQ(in.status.code, ErrorCode::kPeerFailed);
    }
    ASSERT_TRUE(
        ranks.until([&] { return ranks.at(0).peer_failed(1) && ranks.at(1).peer_failed(0); }));
    ranks.at(0).send(1, {3, 0}, third.data(), 8, small);
    ranks.at(0).receive(1, {4, 0}, third.data(), 8, after);
    EXPECT_TRUE(small.done() && after.done());
    EXPECT_EQ(small.status.code, ErrorCode::kPeerFailed);
    EXPECT_EQ(after.status.code, ErrorCode::kPeerFailed);
    EXPECT_EQ(ranks.at(0).describe().find("dropped"), std::string::npos);
  }
}

// This side's network never says that the first rail is dead: the peer has said so, over the
// second.
TEST(Rails, ARailDroppedAtThePeersWordDoesNotHoldWhatTheOthersEnd) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    Joined ranks({{.seed = seed, .notice = {kNever, 0}}, {.seed = seed + 1, .notice = {5, 9}}});
    ASSERT_TRUE(run(ranks, make_program(seed, 5), seed));
    ranks.rail(0).die();
    ASSERT_TRUE(run(ranks, make_program(seed, 10), seed));
    const auto large = message(300'000, 1);
    std::vector<std::byte> received(300'000), small(8);
    Operation out, in, never;
    ranks.at(0).receive(1, {1, 0}, received.data(), 300'000, in);
    ranks.at(0).receive(1, {2, 0}, small.data(), 8, never);
    ranks.at(1).send(0, {1, 0}, large.data(), 300'000, out);
    for (std::uint64_t i = 0; i < seed; ++i) ranks.progress();
    ranks.rail(1).die();
    ASSERT_TRUE(ranks.until_done({&in, &never, &out})) << seed;
    EXPECT_EQ(never.status.code, ErrorCode::kPeerFailed);
    EXPECT_TRUE(!in.status.ok() || received == large);
  }
}

TEST(Rails, AReceiveCancelledInTheMiddleIsLeftAloneAndItsSenderGoesOn) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    Joined ranks({{.seed = seed, .max_delay = 20}, {.seed = seed + 1, .max_delay = 20}});
    const auto large = message(300'000, 1);
    std::vector<std::byte> received(300'000);
    Operation out, in;
    ranks.at(0).receive(1, {1, 0}, received.data(), 300'000, in);
    ranks.at(1).send(0, {1, 0}, large.data(), 300'000, out);
    for (std::uint64_t i = 0; i < seed && !in.done(); ++i) ranks.progress();
    if (in.done()) continue;
    ranks.at(0).cancel(in);
    ASSERT_TRUE(in.done());
    std::ranges::fill(received, kRefilled);
    // It was under way, or not even announced: then it is another receive's.
    ASSERT_TRUE(ranks.until([&] { return out.done() || ranks.at(0).probe(1, {1, 0}); })) << seed;
    EXPECT_EQ(std::ranges::count(received, kRefilled), 300'000) << seed;
    if (!out.done()) {
      Operation second;
      ranks.at(0).receive(1, {1, 0}, received.data(), 300'000, second);
      ASSERT_TRUE(ranks.until_done({&out, &second})) << seed;
      EXPECT_TRUE(received == large);
    }
    ASSERT_TRUE(run(ranks, make_program(seed, 20), seed)) << seed;
  }
}

TEST(Rails, ACancelledSendEndsItsReceiveOrWasNeverSent) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    Joined ranks({{.seed = seed, .max_delay = 20}, {.seed = seed + 1, .max_delay = 20}});
    auto large = message(300'000, 1);
    std::vector<std::byte> received(300'000);
    Operation out, in;
    const bool receive_first = seed % 2 == 0;
    if (receive_first) ranks.at(0).receive(1, {1, 0}, received.data(), 300'000, in);
    ranks.at(1).send(0, {1, 0}, large.data(), 300'000, out);
    for (std::uint64_t i = 0; i < seed && !out.done(); ++i) ranks.progress();
    ranks.at(1).cancel(out);
    ASSERT_TRUE(out.done());
    std::ranges::fill(large, std::byte{0});
    for (int i = 0; i < 200; ++i) ranks.progress();
    if (!receive_first) {
      EXPECT_FALSE(ranks.at(0).probe(1, {1, 0})) << seed;
      continue;
    }
    if (!in.done()) ranks.at(0).cancel(in);  // it was taken back before it was announced
    if (in.status.ok()) {
      EXPECT_TRUE(received == message(300'000, 1)) << seed;
    }
  }
}

// --- rails that stall ----------------------------------------------------------------------------

constexpr std::int64_t kStallTicks = 60;
/// Which direction is silent.
constexpr bool kSilent[][2] = {{true, true}, {true, false}, {false, true}};

FaultyRail::Options stalling(std::uint64_t seed, std::int64_t begin, std::int64_t end,
                             const bool (&of_sender)[2]) {
  return {.seed = seed, .stalls = {{begin, end, {of_sender[0], of_sender[1]}}}, .forgets = true};
}

bool names_it(Joined& ranks, const std::string& what) {
  return ranks.at(0).describe().find(what) != std::string::npos &&
         ranks.at(1).describe().find(what) != std::string::npos;
}

// Either rail, at each moment, for ever and in each direction: the job goes on over the other one.
TEST(RailStalls, ARailMayFallSilentAtEveryPoint) {
  const auto program = make_program(7, 20);
  int named = 0, all = 0;
  for (const int silent : {0, 1}) {
    std::int64_t ticks = 0;
    {
      Joined ranks({{.seed = 3}, {.seed = 4}}, kStallTicks);
      ASSERT_TRUE(run(ranks, program, 7));
      ticks = ranks.rail(silent).ticks();
    }
    for (std::int64_t at = 0; at < ticks; at += 3 * kStride) {
      for (const auto& direction : kSilent) {
        std::vector<FaultyRail::Options> options = {{.seed = 3}, {.seed = 4}};
        options[silent] = stalling(3, at, kNever, direction);
        Joined ranks(options, kStallTicks);
        ASSERT_TRUE(run(ranks, program, 7)) << "rail " << silent << " is silent from tick " << at
                                            << ": " << direction[0] << direction[1];
        ASSERT_FALSE(ranks.at(0).peer_failed(1) || ranks.at(1).peer_failed(0));
        named += names_it(ranks, "rail r" + std::to_string(silent));
        ++all;
      }
    }
  }
  EXPECT_GT(named, all / 2) << "of " << all << ": the test must silence rails that are in use";
}

// What it brings then is late, and is not taken for anything else; and it carries parts as before.
TEST(RailStalls, ARailThatWorksAgainIsUsedAgain) {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    const int silent = static_cast<int>(seed % 2);
    std::vector<FaultyRail::Options> options = {{.seed = seed}, {.seed = seed + 1}};
    options[silent] = stalling(seed, 40, 1500, kSilent[seed % 3]);
    Joined ranks(options, kStallTicks);
    ASSERT_TRUE(run(ranks, make_program(seed, 20), seed)) << seed;
    ASSERT_TRUE(ranks.until([&] { return names_it(ranks, "it is used again"); })) << seed;
    const std::int64_t before = ranks.rail(silent).bytes();
    const std::vector<Planned> large(10, {0, {p2p_key(1, 0), 0}, 400'000});
    ASSERT_TRUE(run(ranks, large, seed)) << seed;
    EXPECT_GT(ranks.rail(silent).bytes() - before, 100'000) << seed;
    EXPECT_EQ(ranks.at(0).describe().find("dropped", ranks.at(0).describe().find("again")),
              std::string::npos);
  }
}

// Of several rails several stall several times, also all at once: nothing is lost, nobody failed.
TEST(RailStalls, RailsMayComeAndGoAtRandom) {
  int named = 0;
  for (std::uint64_t seed = 1; seed <= 150 / kStride; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<FaultyRail::Options> options(2 + random() % 3);
    for (FaultyRail::Options& one : options) {
      one = {.seed = random(), .late = static_cast<int>(random() % 10), .forgets = true};
      std::int64_t begin = 0;
      for (int stalls = static_cast<int>(random() % 4); stalls > 0; --stalls) {
        begin += static_cast<std::int64_t>(random() % 600);
        const std::int64_t end = begin + static_cast<std::int64_t>(random() % 1000);
        const auto& direction = kSilent[random() % std::size(kSilent)];
        one.stalls.push_back({begin, end, {direction[0], direction[1]}});
        begin = end;
      }
    }
    Joined ranks(options, kStallTicks);
    ASSERT_TRUE(run(ranks, make_program(seed, 150), seed)) << "seed " << seed;
    ASSERT_FALSE(ranks.at(0).peer_failed(1) || ranks.at(1).peer_failed(0));
    named += names_it(ranks, "it has stalled") || names_it(ranks, "used again");
  }
  EXPECT_GT(named, 70 / kStride) << "the test must stall rails";
}

// It computes, or is stopped: no rail answers, so none is to blame.
TEST(RailStalls, APeerThatIsSilentAltogetherLosesNoRail) {
  Joined ranks({{.seed = 1}, {.seed = 2}}, kStallTicks);
  ASSERT_TRUE(run(ranks, make_program(1, 10), 1));
  std::vector<std::byte> received(300'000);
  const auto sent = message(300'000, 1);
  Operation in, out;
  ranks.at(0).receive(1, {1, 0}, received.data(), 300'000, in);
  for (const int silent : {1, 0}) {
    for (int i = 0; i < 50 * kStallTicks; ++i) ranks.progress_only(1 - silent);
    if (silent == 1) ranks.at(1).send(0, {1, 0}, sent.data(), 300'000, out);
  }
  ASSERT_TRUE(ranks.until_done({&in, &out}));
  EXPECT_TRUE(received == sent);
  for (int rank : {0, 1}) EXPECT_EQ(ranks.at(rank).describe().find("dropped"), std::string::npos);
}

// Parts that take far longer than a rail may be silent, once it has shown that it is slow: the
// question waits behind them.
TEST(RailStalls, ASlowRailIsNoSilentOne) {
  Joined ranks({{.seed = 1, .max_delay = 0, .ticks_per_byte = 1e-3, .in_line = true},
                {.seed = 2, .max_delay = 0, .ticks_per_byte = 2e-4, .in_line = true}},
               kStallTicks);
  std::vector<std::byte> received(1 << 20);
  const auto sent = message(1 << 20, 3);
  for (int i = 0; i < 10; ++i) {
    const std::int64_t bytes = i == 0 ? 128 << 10 : 1 << 20;
    Operation in, out;
    ranks.at(1).receive(0, {1, 0}, received.data(), bytes, in);
    ranks.at(0).send(1, {1, 0}, sent.data(), bytes, out);
    ASSERT_TRUE(ranks.until_done({&in, &out}));
    ASSERT_EQ(std::memcmp(received.data(), sent.data(), static_cast<std::size_t>(bytes)), 0);
  }
  EXPECT_EQ(ranks.at(1).describe().find("dropped"), std::string::npos) << ranks.at(1).describe();
}

// The faster rail gets more, so that both need about as long.
TEST(Rails, PartsFollowTheMeasuredRates) {
  Joined ranks({{.seed = 1, .max_delay = 0, .ticks_per_byte = 3e-4},
                {.seed = 2, .max_delay = 0, .ticks_per_byte = 1e-4}});
  std::vector<std::byte> received(1 << 20);
  const auto sent = message(1 << 20, 3);
  for (int i = 0; i < 30; ++i) {
    Operation in, out;
    ranks.at(1).receive(0, {1, 0}, received.data(), 1 << 20, in);
    ranks.at(0).send(1, {1, 0}, sent.data(), 1 << 20, out);
    ASSERT_TRUE(ranks.until_done({&in, &out}));
    ASSERT_TRUE(received == sent);
  }
  const double ratio = ranks.at(1).rate(0, 1) / ranks.at(1).rate(0, 0);
  EXPECT_GT(ratio, 1.5);
  EXPECT_LT(ratio, 6);
}

/// Registers nothing, and remembers what it was asked.
struct FakeRegistrar final : memory::Registrar {
  Result<void*> register_memory(void*, std::int64_t) noexcept override {
    if (refuses) return Status{ErrorCode::kTransport, -1, 0};
    ++registered;
    return static_cast<void*>(this);
  }
  void deregister_memory(void* handle) noexcept override {
    EXPECT_EQ(handle, this);
    --registered;
  }
  bool refuses = false;
  int registered = 0;
};

TEST(Rails, MemoryIsRegisteredWithAllOfThemOrWithNone) {
  FaultyRail first({}), second({});
  FakeRegistrar registrars[2];
  std::unique_ptr<Network> unused[] = {first.take(1), second.take(1)};
  std::vector<Rail> rails;
  rails.push_back({"a", first.take(0), 0, &registrars[0]});
  rails.push_back({"b", second.take(0), 0, &registrars[1]});
  const auto network = make_rail_network(std::move(rails), 2);
  std::byte memory[8];
  const auto handle = network->register_memory(memory, 8);
  ASSERT_TRUE(handle.ok());
  for (int r : {0, 1}) EXPECT_EQ(RailNetwork::handle_of(handle.value(), r), &registrars[r]);
  EXPECT_EQ(RailNetwork::handle_of(nullptr, 1), nullptr);
  registrars[1].refuses = true;
  EXPECT_FALSE(network->register_memory(memory, 8).ok());
  EXPECT_EQ(registrars[0].registered, 1);
  network->deregister_memory(handle.value());
  EXPECT_EQ(registrars[0].registered + registrars[1].registered, 0);
}

// --- its parts -----------------------------------------------------------------------------------

std::int64_t covered(const rail::Cut& cut) {
  std::int64_t sum = 0;
  std::set<std::pair<std::int64_t, std::int64_t>> ranges;
  for (const rail::Range& range : cut) {
    if (range.bytes > 0) ranges.emplace(range.offset, range.bytes);
  }
  for (const auto& [offset, bytes] : ranges) {
    if (offset != sum) return -1;
    sum += bytes;
  }
  return sum;
}

TEST(Split, TheRangesAreTheMessage) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<double> nominal(1 + random() % rail::kMaxRails);
    for (double& rate : nominal) rate = std::exp2(static_cast<double>(random() % 20));
    const rail::Split split(nominal);
    const auto all = (std::uint32_t{1} << nominal.size()) - 1;
    const std::uint32_t live =
        std::max<std::uint32_t>(1, static_cast<std::uint32_t>(random()) & all);
    const auto bytes =
        static_cast<std::int64_t>(1 + random() % (std::uint64_t{1} << (random() % 34)));
    const rail::Cut cut = split.cut(bytes, live);
    ASSERT_EQ(covered(cut), bytes);
    for (int r = 0; r < rail::kMaxRails; ++r) {
      if ((live >> r & 1) == 0) {
        ASSERT_EQ(cut[r].bytes, 0);
      }
    }
  }
}

TEST(Split, IsInProportionAndNotTooSmall) {
  const rail::Split equal(std::vector<double>{0, 25});  // one does not say: none is believed
  EXPECT_EQ(equal.cut(1 << 20, 3)[0].bytes, 1 << 19);
  EXPECT_EQ(equal.cut(1 << 20, 2)[1].bytes, 1 << 20);
  EXPECT_EQ(equal.cut(100'000, 3)[0].bytes, 100'000) << "half of it is too short for a part";
  const rail::Split threefold(std::vector<double>{1, 3});
  EXPECT_EQ(threefold.cut(4 << 20, 3)[1].bytes, 3 << 20);
  const rail::Split hopeless(std::vector<double>{1, 1e9});
  EXPECT_EQ(hopeless.cut(32 << 20, 3)[0].bytes, 1 << 20) << "what shows that it is better now";
  EXPECT_EQ(hopeless.cut(1 << 20, 3)[0].bytes, 0);
}

TEST(Split, MeasurementsMoveTheRateAndShortPartsDoNot) {
  rail::Split split(std::vector<double>{2, 2});
  split.note(0, 64 << 10, (64 << 10) / 10);
  EXPECT_NEAR(split.rate(0), 4, 0.01);
  split.note(1, 100, 1);
  split.note(1, 64 << 10, 0);
  EXPECT_EQ(split.rate(1), 2);
}

TEST(Mailbox, EachKeyIsAQueueOfItsOwn) {
  rail::Mailbox mailbox;
  const std::byte content[2] = {std::byte{1}, std::byte{2}};
  for (const std::uint64_t id : {0, 1, 2}) {
    ASSERT_TRUE(mailbox.keep(
        {.kind = rail::Kind::kAnnounce, .content_bytes = 2, .key = id % 2, .message = id},
        content));
  }
  EXPECT_TRUE(mailbox.has(1) && !mailbox.has(7));
  EXPECT_EQ(mailbox.take_arrived(0)->header.message, 0u);
  EXPECT_FALSE(mailbox.withdraw(0)) << "it has been taken";
  EXPECT_TRUE(mailbox.withdraw(1));
  EXPECT_FALSE(mailbox.has(1));
  EXPECT_EQ(mailbox.take_arrived(0)->content[1], std::byte{2});
  EXPECT_FALSE(mailbox.take_arrived(0));
  Operation operations[3];
  for (Operation& operation : operations) mailbox.want({&operation, 5, nullptr, 0});
  EXPECT_TRUE(mailbox.cancel(operations[0]));
  EXPECT_FALSE(mailbox.cancel(operations[0]));
  EXPECT_EQ(mailbox.take_wanted(5)->operation, &operations[1]);
  mailbox.fail({ErrorCode::kPeerFailed, 1, 0});
  EXPECT_EQ(operations[2].status.code, ErrorCode::kPeerFailed);
  EXPECT_FALSE(operations[1].done());
}

}  // namespace
}  // namespace shoal::transport
