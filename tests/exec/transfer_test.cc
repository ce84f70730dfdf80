// Who gets which message: in one thread, so that what has come before what is certain.
#include <gtest/gtest.h>

#include <array>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "exec/harness.h"
#include "exec/networks.h"

namespace shoal::exec {
namespace {

struct Layout {
  std::string name;
  int ranks;
  int node_ranks;
  NetworkFactory network;
};
void PrintTo(const Layout& layout, std::ostream* out) { *out << layout.name; }

/// One send or receive, with its memory.
struct Mail {
  Rank rank = 0;
  std::vector<std::int64_t> data;
  Transfer* transfer = nullptr;

  [[nodiscard]] bool done() const { return transfer->done(); }
  [[nodiscard]] Rank source() const { return transfer->source(); }
  [[nodiscard]] std::int64_t value() const { return data.back(); }
};

class Transfers : public ::testing::TestWithParam<Layout> {
 protected:
  static constexpr std::uint32_t kIdleTag = 4095;
  static constexpr std::int64_t kSmall = 1, kLarge = 30'000;  // elements

  Transfers() : harness_(GetParam().ranks, GetParam().node_ranks, GetParam().network) {
    for (Rank r = 0; r < harness_.ranks(); ++r) idle_.push_back(&receive(r, r, kIdleTag, 1));
  }
  ~Transfers() override {
    for (Rank r = 0; r < harness_.ranks(); ++r) send(r, r, kIdleTag, 1, 0);
    for (const Mail& mail : mails_) EXPECT_TRUE(until([&] { return mail.done(); }));
    for (const Mail& mail : mails_) harness_.engine(mail.rank).release(*mail.transfer);
  }

  Mail& send(Rank from, Rank to, std::uint32_t tag, std::int64_t count, std::int64_t value) {
    return start(from, true, to, tag, count, value);
  }
  Mail& receive(Rank at, Rank from, std::uint32_t tag, std::int64_t count) {
    return start(at, false, from, tag, count, -1);
  }

  /// A turn for every rank.
  void round() {
    for (Mail* idle : idle_) harness_.engine(idle->rank).test(*idle->transfer);
  }
  /// Until whatever was sent has come.
  void settle() {
    for (int i = 0; i < 3000; ++i) round();
  }
  template <class Condition>
  bool until(Condition&& condition) {
    const Deadline deadline = Deadline::after_ms(20'000);
    while (!condition() && !deadline.passed()) round();
    return condition();
  }

  Harness harness_;
  std::deque<Mail> mails_;

 private:
  Mail& start(Rank rank, bool sends, Rank peer, std::uint32_t tag, std::int64_t count,
              std::int64_t value) {
    Mail& mail = mails_.emplace_back();
    mail.rank = rank;
    mail.data.assign(static_cast<std::size_t>(count), value);
    TransferCall call;
    call.peer = peer;
    call.tag = tag;
    call.dtype = DataType::kInt64;
    call.bytes = count * 8;
    call.sends = sends;
    call.source = call.target = mail.data.data();
    harness_.engine(rank).start(harness_.group(rank), {&call, 1}, {&mail.transfer, 1});
    return mail;
  }

  std::vector<Mail*> idle_;
};

TEST_P(Transfers, AReceiveFromAnySourceGetsTheMessageOfWhoeverSendsAndSaysWho) {
  for (const std::int64_t count : {kSmall, kLarge}) {
    for (Rank from = 0; from < harness_.ranks(); ++from) {
      for (const bool sent_first : {false, true}) {
        Mail* out = sent_first ? &send(from, 0, 1, count, from) : nullptr;
        if (sent_first) settle();
        Mail& in = receive(0, kAnySource, 1, count);
        if (!sent_first) {
          for (int i = 0; i < 100; ++i) round();
          EXPECT_FALSE(in.done());
          EXPECT_EQ(in.source(), kAnySource);
          out = &send(from, 0, 1, count, from);
        }
        ASSERT_TRUE(until([&] { return in.done() && out->done(); })) << "from rank " << from;
        EXPECT_TRUE(in.transfer->status().ok());
        EXPECT_EQ(in.source(), from);
        EXPECT_EQ(in.value(), from);
        EXPECT_EQ(out->source(), kAnySource);
      }
    }
  }
}

TEST_P(Transfers, ReceivesFromAnySourceAreServedInTheOrderOfTheirStart) {
  for (const std::int64_t count : {kSmall, kLarge}) {
    std::vector<Mail*> in;
    for (int i = 0; i < 6; ++i) in.push_back(&receive(0, kAnySource, 1, count));
    for (int i = 0; i < 6; ++i) {
      for (const Mail* mail : in) EXPECT_EQ(mail->done(), mail->value() >= 0);
      const Rank from = 1 + i % (harness_.ranks() - 1);
      send(from, 0, 1, count, 100 + i);
      ASSERT_TRUE(until([&] { return in[i]->done(); }));
      EXPECT_EQ(in[i]->value(), 100 + i);
      EXPECT_EQ(in[i]->source(), from);
    }
  }
}

TEST_P(Transfers, MessagesOfOneSenderComeInOrderAlsoToReceivesOfBothKinds) {
  constexpr int kMessages = 24;
  for (const std::int64_t count : {kSmall, kLarge}) {
    std::vector<Mail*> in;
    const auto receive_some = [&] {
      for (int i = 0; i < kMessages / 2; ++i) {
        in.push_back(&receive(0, i % 3 == 0 ? kAnySource : 2, 1, count));
      }
    };
    receive_some();
    for (int i = 0; i < kMessages; ++i) send(2, 0, 1, count, i);
    settle();
    receive_some();
    for (int i = 0; i < kMessages; ++i) {
      ASSERT_TRUE(until([&] { return in[i]->done(); }));
      EXPECT_EQ(in[i]->value(), i);
      EXPECT_EQ(in[i]->source(), 2);
    }
  }
}

TEST_P(Transfers, ASpecificReceiveThatWasStartedBeforeGetsItsMessageFirst) {
  Mail& specific = receive(0, 2, 1, kSmall);
  Mail& any = receive(0, kAnySource, 1, kSmall);
  send(2, 0, 1, kSmall, 7);
  ASSERT_TRUE(until([&] { return specific.done(); }));
  settle();
  EXPECT_FALSE(any.done());
  send(2, 0, 1, kSmall, 8);
  ASSERT_TRUE(until([&] { return any.done(); }));
  EXPECT_EQ(specific.value(), 7);
  EXPECT_EQ(any.value(), 8);
}

TEST_P(Transfers, ASpecificReceiveThatWasStartedLaterWaitsForTheOneFromAnySource) {
  Mail& any = receive(0, kAnySource, 1, kSmall);
  Mail& specific = receive(0, 2, 1, kSmall);
  Mail& other_tag = receive(0, 2, 2, kSmall);
  send(2, 0, 2, kSmall, 6);
  ASSERT_TRUE(until([&] { return other_tag.done(); })) << "no other tag waits";
  send(2, 0, 1, kSmall, 7);
  ASSERT_TRUE(until([&] { return any.done(); }));
  settle();
  EXPECT_FALSE(specific.done());
  send(2, 0, 1, kSmall, 8);
  ASSERT_TRUE(until([&] { return specific.done(); }));
  EXPECT_EQ(any.value(), 7);
  EXPECT_EQ(any.source(), 2);
  EXPECT_EQ(specific.value(), 8);
}

// The message of one sender serves the receive from any source; then the other gets its own.
TEST_P(Transfers, TheMessageThatWasStoodInLineForIsTakenOnceTheLineMoves) {
  Mail& any = receive(0, kAnySource, 1, kLarge);
  Mail& specific = receive(0, 1, 1, kLarge);
  send(2, 0, 1, kLarge, 20);
  send(1, 0, 1, kLarge, 10);
  ASSERT_TRUE(until([&] { return any.done(); }));
  const bool was_from_1 = any.source() == 1;
  EXPECT_EQ(any.value(), was_from_1 ? 10 : 20);
  if (was_from_1) send(1, 0, 1, kLarge, 11);
  ASSERT_TRUE(until([&] { return specific.done(); }));
  EXPECT_EQ(specific.value(), was_from_1 ? 11 : 10);
  if (!was_from_1) return;
  Mail& rest = receive(0, kAnySource, 1, kLarge);
  ASSERT_TRUE(until([&] { return rest.done(); }));
  EXPECT_EQ(rest.source(), 2);
}

// A message that the network has still to be asked for may be passed over, but once only.
TEST_P(Transfers, NoSenderIsPassedOverForLongWhileOthersSendMore) {
  constexpr int kRounds = 10, kMessages = 60;
  const int senders = harness_.ranks() - 1;
  for (Rank from = 1; from <= senders; ++from) {
    const Mail& connects = receive(0, from, 2, kSmall);
    send(from, 0, 2, kSmall, 0);
    ASSERT_TRUE(until([&] { return connects.done(); }));
    for (int i = 0; i < kMessages; ++i) send(from, 0, 1, kSmall, from);
  }
  settle();
  const auto receive_one = [&] {
    Mail& in = receive(0, kAnySource, 1, kSmall);
    EXPECT_TRUE(until([&] { return in.done(); }));
    EXPECT_EQ(in.value(), in.source());
    return in.source();
  };
  for (int i = 0; i < kRounds; ++i) {
    std::vector<int> served(harness_.ranks());
    for (int k = 0; k < 2 * senders; ++k) ++served[receive_one()];
    for (Rank from = 1; from <= senders; ++from) EXPECT_GE(served[from], 1) << "round " << i;
  }
  for (int i = kRounds * 2 * senders; i < kMessages * senders; ++i) receive_one();
}

TEST_P(Transfers, AMessageOfAnotherSizeIsAMismatchThatNamesItsSender) {
  Mail& in = receive(0, kAnySource, 1, 10);
  send(1, 0, 1, kLarge, 1);
  ASSERT_TRUE(until([&] { return in.done(); }));
  EXPECT_EQ(in.transfer->status().code, ErrorCode::kMismatch);
  EXPECT_EQ(in.source(), 1);
  EXPECT_NE(in.transfer->text().find("rank 1 sent"), std::string::npos) << in.transfer->text();
  Mail& next = receive(0, kAnySource, 1, 10);
  send(2, 0, 1, 10, 2);
  ASSERT_TRUE(until([&] { return next.done(); }));
  EXPECT_TRUE(next.transfer->status().ok());
}

// Whom to wake for: any of both, where there are both.
TEST_P(Transfers, ItSleepsForTheNetworkWhereRanksOfOtherNodesMaySend) {
  const bool one_node = GetParam().ranks == GetParam().node_ranks;
  Mail& any = receive(0, kAnySource, 1, kSmall);
  Mail& behind = receive(0, 0, 1, kSmall);
  EXPECT_EQ(any.transfer->waits_for_network(), !one_node);
  EXPECT_EQ(behind.transfer->waits_for_network(), !one_node);
  send(0, 0, 1, kSmall, 1);
  ASSERT_TRUE(until([&] { return any.done(); }));
  EXPECT_FALSE(behind.transfer->waits_for_network());
  send(0, 0, 1, kSmall, 2);
}

// A send that its transport has no room for is not overtaken by one that is started when there is.
TEST_P(Transfers, SendsStayInOrderWhenThereIsNoRoom) {
  constexpr int kMessages = 300;  // far more than a ring has slots
  std::vector<Mail*> in;
  for (int i = 0; i < kMessages; ++i) in.push_back(&receive(0, 1, 1, kSmall));
  for (int i = 0; i < kMessages; ++i) {
    send(1, 0, 1, kSmall, i);
    if (i % 50 == 49) harness_.engine(0).test(*in.back()->transfer);  // which makes room
  }
  ASSERT_TRUE(until([&] { return in.back()->done(); }));
  for (int i = 0; i < kMessages; ++i) ASSERT_EQ(in[i]->value(), i);
}

TEST_P(Transfers, AfterAFailureNobodyStandsInLine) {
  Mail& any = receive(0, kAnySource, 1, kSmall);
  Mail& behind = receive(0, 2, 1, kSmall);
  Mail& another = receive(0, kAnySource, 1, kSmall);
  round();
  harness_.group(0).fail({ErrorCode::kAborted, 0, 0}, nullptr, "enough", false);
  ASSERT_TRUE(until([&] { return any.done() && behind.done() && another.done(); }));
  for (const Mail* mail : {&any, &behind, &another}) {
    EXPECT_EQ(mail->transfer->status().code, ErrorCode::kAborted);
    EXPECT_EQ(mail->source(), kAnySource);
  }
}

std::vector<Layout> layouts() {
  std::vector<Layout> list = {{"node", 4, 4, {}},
                              {"sim", 3, 1, sim_network},
                              {"mixed_sim", 4, 2, sim_network},
                              {"mixed_tcp", 4, 2, tcp_network}};
#ifdef SHOAL_TEST_UCX
  list.push_back({"mixed_ucx", 4, 2, ucx_network});
#endif
  return list;
}

INSTANTIATE_TEST_SUITE_P(Layouts, Transfers, ::testing::ValuesIn(layouts()),
                         [](const auto& layout) { return layout.param.name; });

}  // namespace
}  // namespace shoal::exec
