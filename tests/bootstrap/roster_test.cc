// The store's decisions, with invented time and without sockets.
#include "bootstrap/roster.h"

#include <gtest/gtest.h>

#include "core/clock.h"

namespace shoal::bootstrap {
namespace {

constexpr std::int64_t kMs = kNsPerMs;

class RosterTest : public ::testing::Test {
 protected:
  struct Sent {
    Rank to;
    FrameType type;
    std::string payload;
  };
  Roster make(Rank ranks, bool launcher) {
    return Roster(ranks, launcher, [this](Rank to, FrameType type, const std::string& payload) {
      sent.push_back({to, type, payload});
    });
  }
  static JoinRequest request(Rank rank, Rank ranks) {
    return {.rank = rank,
            .ranks = ranks,
            .listener = std::string("l").append(std::to_string(rank)),
            .who = "h"};
  }
  void all_join(Roster& roster, Rank ranks) {
    for (Rank rank = 0; rank < ranks; ++rank) {
      ASSERT_EQ(roster.join(request(rank, ranks)), Roster::Answer::kJoined);
    }
    sent.clear();
  }
  [[nodiscard]] int count(FrameType type) const {
    int found = 0;
    for (const Sent& frame : sent) found += frame.type == type;
    return found;
  }
  std::vector<Sent> sent;
};

// Rank r dials r - 2^k, so that is whose address it gets: ceil(log2 n) of them, not n.
TEST_F(RosterTest, WelcomeHoldsTheDiallersTargets) {
  Roster roster = make(5, false);
  for (Rank rank = 0; rank < 5; ++rank) roster.join(request(rank, 5));
  ASSERT_EQ(count(FrameType::kWelcome), 5);
  Reader reader(sent[1].payload);
  ASSERT_EQ(reader.number<std::uint32_t>(), 3u);
  EXPECT_EQ(reader.text(), "l0");
  EXPECT_EQ(reader.text(), "l4");
  EXPECT_EQ(reader.text(), "l2");
}

TEST_F(RosterTest, MissingRanksAreListedAtTheEarliestDeadline) {
  Roster roster = make(30, false);
  JoinRequest early = request(7, 30);
  early.deadline_ns = 50 * kMs;
  roster.join(early);
  roster.join(request(9, 30));
  roster.tick(49 * kMs, "");
  EXPECT_TRUE(sent.empty());
  roster.tick(50 * kMs, "");
  ASSERT_EQ(count(FrameType::kRefused), 2);
  EXPECT_NE(sent[0].payload.find("0..6, 8, 10..29"), std::string::npos) << sent[0].payload;
  EXPECT_EQ(roster.join(request(0, 30)), Roster::Answer::kRefused);  // a late one hears it too
}

TEST_F(RosterTest, AStrayRankDoesNotEndARunningJob) {
  Roster roster = make(2, false);
  all_join(roster, 2);
  EXPECT_EQ(roster.join(request(1, 2)), Roster::Answer::kRefused);
  EXPECT_TRUE(sent.empty());
}

TEST_F(RosterTest, LossWaitsForTheLaunchersWord) {
  Roster roster = make(3, true);
  all_join(roster, 3);
  roster.lost(1, 0);
  roster.tick(299 * kMs, "");
  EXPECT_TRUE(sent.empty());
  roster.ended(1, "killed by signal 11", 299 * kMs);
  ASSERT_EQ(count(FrameType::kLost), 2);
  EXPECT_NE(sent[0].payload.find("killed by signal 11"), std::string::npos);
  roster.tick(400 * kMs, "");
  EXPECT_EQ(sent.size(), 2u);  // once
}

TEST_F(RosterTest, LossWithoutAWordIsAnnouncedAfterTheGrace) {
  Roster roster = make(2, true);
  all_join(roster, 2);
  roster.lost(1, 0);
  roster.tick(300 * kMs, "");
  ASSERT_EQ(count(FrameType::kLost), 1);
}

TEST_F(RosterTest, LossWithoutALauncherIsAnnouncedAtOnce) {
  Roster roster = make(2, false);
  all_join(roster, 2);
  roster.lost(1, 0);
  ASSERT_EQ(count(FrameType::kLost), 1);
}

// The exit report and the goodbye travel by different ways; either may be first.
TEST_F(RosterTest, AnOrderlyLeaveIsNoFailureWhateverComesFirst) {
  Roster roster = make(3, true);
  all_join(roster, 3);
  roster.leave(1);
  roster.ended(1, kExitedWell, 0);
  roster.ended(2, kExitedWell, 0);
  roster.leave(2);
  roster.tick(1000 * kMs, "");
  EXPECT_EQ(count(FrameType::kLost), 0);
}

TEST_F(RosterTest, ExitingWellWithoutGoodbyeIsAFailure) {
  Roster roster = make(2, true);
  all_join(roster, 2);
  roster.ended(1, kExitedWell, 0);
  EXPECT_TRUE(sent.empty());
  roster.tick(300 * kMs, "");
  ASSERT_EQ(count(FrameType::kLost), 1);
  EXPECT_NE(sent[0].payload.find("exited with code 0 without leaving the job"), std::string::npos);
}

TEST_F(RosterTest, APeerWhoAsksHearsWhetherTheRankHadLeft) {
  Roster roster = make(3, true);
  all_join(roster, 3);
  roster.ended(0, 1, "", 0);  // rank 0 saw the process of rank 1 end
  EXPECT_TRUE(sent.empty());
  roster.leave(1);
  ASSERT_EQ(count(FrameType::kLeft), 1);
  roster.ended(2, 1, "", 0);
  EXPECT_EQ(count(FrameType::kLeft), 2);
}

TEST_F(RosterTest, APeerWhoKnowsTheCauseIsBelieved) {
  Roster roster = make(3, true);
  all_join(roster, 3);
  roster.ended(0, 1, "killed by signal 9", 0);
  ASSERT_EQ(count(FrameType::kLost), 2);
}

TEST_F(RosterTest, DeathBeforeAllHaveComeEndsTheJoinForAll) {
  Roster roster = make(3, true);
  roster.join(request(0, 3));
  roster.ended(2, "exited with code 1", 0);
  ASSERT_EQ(count(FrameType::kRefused), 1);
  EXPECT_NE(sent[0].payload.find("rank 2 exited with code 1 before all ranks had joined"),
            std::string::npos);
}

TEST_F(RosterTest, AfterAllHaveLeftTheyMayComeAgain) {
  Roster roster = make(2, true);
  all_join(roster, 2);
  roster.leave(0);
  EXPECT_EQ(roster.join(request(0, 2)), Roster::Answer::kLater);
  roster.leave(1);
  EXPECT_TRUE(roster.empty());
  all_join(roster, 2);
}

TEST(ListOf, CutsLongLists) {
  EXPECT_EQ(list_of({1}), "1");
  EXPECT_EQ(list_of({1, 2}), "1, 2");
  EXPECT_EQ(list_of({1, 2, 3, 7}), "1..3, 7");
  std::vector<Rank> odd;
  for (Rank rank = 1; rank < 200; rank += 2) odd.push_back(rank);
  EXPECT_NE(list_of(odd).find("... (100 in all)"), std::string::npos);
}

}  // namespace
}  // namespace shoal::bootstrap
