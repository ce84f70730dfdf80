#include <string>
#include <vector>

#include "conformance.h"
#include "transport/sim/sim_transport.h"

namespace shoal::transport {
namespace {

using sim::SimFabric;
using sim::SimOptions;
using sim::SimTransport;

class SimWorld final : public Fabric {
 public:
  SimWorld(int peers, const SimOptions& options) : fabric(peers, options) {
    for (int rank = 0; rank < peers; ++rank) {
      members_.push_back(std::make_unique<SimTransport>(fabric, rank));
    }
  }
  Transport& at(int rank) override { return *members_[static_cast<std::size_t>(rank)]; }

  SimFabric fabric;

 private:
  std::vector<std::unique_ptr<SimTransport>> members_;
};

Member sim_member(std::string name, const SimOptions& options) {
  return {std::move(name), [=](int peers) { return std::make_unique<SimWorld>(peers, options); }};
}

INSTANTIATE_TEST_SUITE_P(
    Sim, TransportConformance,
    testing::Values(sim_member("eager", {}), sim_member("zero_buffer", {.eager_bytes = -1}),
                    sim_member("long_delays", {.seed = 7, .min_delay = 3, .max_delay = 300}),
                    sim_member("refuses", {.seed = 9, .refuse_one_in = 3})),
    member_name);

/// Receives one byte from rank 0 on each of `n` channels; returns the order in which they arrived.
std::vector<int> arrival_order(std::uint64_t seed, int n) {
  SimWorld world(2, {.seed = seed, .max_delay = 50});
  std::vector<std::byte> sent = message(n, 0), received(sent.size());
  std::deque<Operation> in(static_cast<std::size_t>(n)), out(in.size());
  for (int i = 0; i < n; ++i) {
    const auto k = static_cast<std::size_t>(i);
    EXPECT_TRUE(world.at(1).receive(0, {p2p_key(0, k), 0}, &received[k], 1, in[k]));
    EXPECT_TRUE(world.at(0).send(1, {p2p_key(0, k), 0}, &sent[k], 1, out[k]));
  }
  std::vector<int> order;
  std::vector<bool> seen(in.size());
  for (int tick = 0; tick < 200; ++tick) {
    world.at(1).progress();
    for (std::size_t k = 0; k < in.size(); ++k) {
      if (!in[k].done() || seen[k]) continue;
      seen[k] = true;
      order.push_back(static_cast<int>(k));
    }
  }
  return order;
}

TEST(SimFabric, OneSeedGivesOneOrderAndChannelsOvertakeOneAnother) {
  const auto order = arrival_order(42, 32);
  ASSERT_EQ(order.size(), 32u);
  EXPECT_EQ(order, arrival_order(42, 32));
  EXPECT_NE(order, arrival_order(43, 32));
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
}

// With nothing buffered a send without its receive stays, for ever: that is how a schedule that
// relies on buffering is caught.
TEST(SimFabric, ZeroBufferSendsWaitForTheirReceive) {
  SimWorld world(2, {.eager_bytes = -1});
  Operation out, in;
  ASSERT_TRUE(world.at(0).send(1, {1, 0}, nullptr, 0, out));
  for (int tick = 0; tick < 1000; ++tick) world.at(0).progress();
  EXPECT_FALSE(out.done());
  EXPECT_EQ(world.fabric.pending(), 1);
  ASSERT_TRUE(world.at(1).receive(0, {1, 0}, nullptr, 0, in));
  world.at(1).progress();
  EXPECT_TRUE(out.done() && in.done());
  EXPECT_EQ(world.fabric.pending(), 0);
}

TEST(SimFabric, ADeadRankIsNoticedAfterTheDelayAndItsBufferedMessagesStillArrive) {
  SimWorld world(2, {.max_delay = 5, .kill_rank = 0, .kill_after = 2, .failure_delay = 100});
  std::byte data[3] = {std::byte{1}, std::byte{2}, std::byte{3}}, received[3] = {};
  Operation out[3], in[3], to_the_dead;
  for (std::uint32_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(world.at(0).send(1, {p2p_key(0, i), 0}, &data[i], 1, out[i]));
    ASSERT_TRUE(world.at(1).receive(0, {p2p_key(0, i), 0}, &received[i], 1, in[i]));
  }
  EXPECT_TRUE(world.fabric.dead(0));
  EXPECT_FALSE(out[2].done());  // a dead rank sends nothing
  const auto large = message(10'000, 1);
  ASSERT_TRUE(world.at(1).send(0, {p2p_key(0, 9), 0}, large.data(), 10'000, to_the_dead));
  for (int tick = 0; tick < 50; ++tick) world.at(1).progress();
  EXPECT_TRUE(in[0].status.ok() && in[0].done() && received[0] == std::byte{1});
  EXPECT_TRUE(in[1].status.ok() && in[1].done() && received[1] == std::byte{2});
  EXPECT_FALSE(in[2].done());
  EXPECT_FALSE(to_the_dead.done());
  for (int tick = 0; tick < 60; ++tick) world.at(1).progress();
  for (Operation* failed : {&in[2], &to_the_dead}) {
    ASSERT_TRUE(failed->done());
    EXPECT_EQ(failed->status.code, ErrorCode::kPeerFailed);
    EXPECT_EQ(failed->status.rank, 0);
  }
  world.at(0).cancel(out[2]);
  EXPECT_TRUE(out[2].done());
}

TEST(SimFabric, AnUnwatchedDeathEndsNothing) {
  SimWorld world(2, {.kill_rank = 0, .kill_after = 1});
  Operation out, in;
  ASSERT_TRUE(world.at(0).send(1, {1, 0}, nullptr, 0, out));
  ASSERT_TRUE(world.at(1).receive(0, {2, 0}, nullptr, 0, in));
  for (int tick = 0; tick < 5000; ++tick) world.at(1).progress();
  EXPECT_FALSE(in.done());
  world.at(1).cancel(in);
  EXPECT_EQ(in.status.code, ErrorCode::kAborted);
}

}  // namespace
}  // namespace shoal::transport
