// TCP over loopback, several ranks in one process.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "conformance.h"
#include "core/fd.h"
#include "shoal/error.h"
#include "transport/tcp/tcp_transport.h"

namespace shoal::transport {
namespace {

/// Enough of a keyed hash to tell secrets and messages apart.
tcp::Authenticate by(std::string secret) {
  return [secret = std::move(secret)](std::string_view message) {
    std::string proof(tcp::kProofBytes, '\0');
    const std::string text = secret + std::string(message);
    for (std::size_t i = 0; i < text.size(); ++i) {
      char& place = proof[i % proof.size()];
      place = static_cast<char>(place * 31 + text[i]);
    }
    return proof;
  };
}

class TcpWorld final : public Fabric {
 public:
  explicit TcpWorld(int peers, const std::vector<std::string>& secrets = {}) {
    for (int r = 0; r < peers; ++r) {
      const std::string secret = secrets.empty() ? "secret" : secrets[r];
      members_.push_back(tcp::make_tcp({r, peers, "127.0.0.1", by(secret)}));
    }
    for (auto& member : members_) {
      for (int r = 0; r < peers; ++r) member->set_peer_address(r, members_[r]->address());
    }
  }
  Network& at(int rank) override { return *members_[rank]; }

 private:
  std::vector<std::unique_ptr<Network>> members_;
};

INSTANTIATE_TEST_SUITE_P(Tcp, TransportConformance,
                         testing::Values(Member{
                             "tcp", [](int peers) { return std::make_unique<TcpWorld>(peers); }}),
                         member_name);

/// Drives all ranks until every operation has ended.
bool drive(TcpWorld& world, int ranks, const std::vector<Operation*>& operations,
           std::int64_t ms = kPatienceMs) {
  const Deadline deadline = Deadline::after_ms(ms);
  const auto all_done = [&] {
    return std::all_of(operations.begin(), operations.end(), [](auto* o) { return o->done(); });
  };
  while (!all_done() && !deadline.passed()) {
    for (int r = 0; r < ranks; ++r) world.at(r).progress();
  }
  return all_done();
}

// Both dial at once, in whatever order they go on: one connection remains, and nothing is lost.
TEST(TcpConnection, BothDialAtTheSameTime) {
  for (int round = 0; round < 50; ++round) {
    TcpWorld world(2);
    std::byte out[2][8], in[2][8];
    Operation sends[2], receives[2];
    for (int r : {0, 1}) {
      std::memset(out[r], round + r, 8);
      ASSERT_TRUE(world.at(r).send(1 - r, {1, 0}, out[r], 8, sends[r]));
    }
    for (int i = 0; i < round % 7; ++i) world.at(round / 7 % 2).progress();
    for (int r : {0, 1}) ASSERT_TRUE(world.at(r).receive(1 - r, {1, 0}, in[r], 8, receives[r]));
    ASSERT_TRUE(drive(world, 2, {&sends[0], &sends[1], &receives[0], &receives[1]})) << round;
    for (int r : {0, 1}) {
      EXPECT_TRUE(sends[r].status.ok() && receives[r].status.ok());
      EXPECT_EQ(std::memcmp(in[r], out[1 - r], 8), 0) << round;
    }
  }
}

// A rank with another secret is given nothing, and gives nothing.
TEST(TcpConnection, ARankOfAnotherJobIsRefused) {
  TcpWorld world(2, {"secret", "another"});
  std::byte out[8] = {}, in[8] = {std::byte{0x55}};
  Operation send, receive;
  ASSERT_TRUE(world.at(1).receive(0, {1, 0}, in, 8, receive));
  ASSERT_TRUE(world.at(0).send(1, {1, 0}, out, 8, send));
  ASSERT_TRUE(drive(world, 2, {&send}));
  EXPECT_EQ(send.status.code, ErrorCode::kPeerFailed);
  EXPECT_FALSE(receive.done());
  EXPECT_EQ(in[0], std::byte{0x55});
  world.at(1).cancel(receive);
}

// Somebody who connects and says nothing, or nonsense, is in nobody's way.
TEST(TcpConnection, StrangersAreInNobodysWay) {
  TcpWorld world(2);
  sockaddr_in address{};
  ASSERT_EQ(world.at(1).address().size(), sizeof address);
  std::memcpy(&address, world.at(1).address().data(), sizeof address);
  std::vector<Fd> strangers;
  for (int i = 0; i < 20; ++i) {
    Fd& stranger = strangers.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(stranger.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const std::string nonsense(static_cast<std::size_t>(i) * 10, 'x');
    if (i % 2 == 1) {
      EXPECT_GT(::send(stranger.get(), nonsense.data(), nonsense.size(), MSG_NOSIGNAL), 0);
    }
  }
  std::byte out[8] = {std::byte{7}}, in[8] = {};
  Operation send, receive;
  ASSERT_TRUE(world.at(0).send(1, {1, 0}, out, 8, send));
  ASSERT_TRUE(world.at(1).receive(0, {1, 0}, in, 8, receive));
  ASSERT_TRUE(drive(world, 2, {&send, &receive}));
  EXPECT_TRUE(receive.status.ok());
  EXPECT_EQ(in[0], std::byte{7});
}

// More busy peers than are tried one by one: the kernel is asked which are ready.
TEST(TcpConnection, ManyPeersAtOnce) {
  constexpr int kRanks = 20;
  constexpr std::int64_t kBytes = 300'000;
  TcpWorld world(kRanks);
  std::vector<std::vector<std::byte>> sent, received(kRanks, std::vector<std::byte>(kBytes));
  std::deque<Operation> operations(2 * (kRanks - 1));
  std::vector<Operation*> all;
  for (int r = 0; r < kRanks; ++r) sent.push_back(message(kBytes, r));
  for (int r = 1; r < kRanks; ++r) {
    Operation &in = operations[2 * r - 2], &out = operations[2 * r - 1];
    ASSERT_TRUE(world.at(0).receive(r, {1, 0}, received[r].data(), kBytes, in));
    ASSERT_TRUE(world.at(r).send(0, {1, 0}, sent[r].data(), kBytes, out));
    all.insert(all.end(), {&in, &out});
  }
  ASSERT_TRUE(drive(world, kRanks, all));
  for (int r = 1; r < kRanks; ++r) EXPECT_TRUE(received[r] == sent[r]) << r;
}

// A large message that nobody has asked for holds its sender back instead of filling memory.
TEST(TcpFlow, AMessageNobodyHasAskedForStaysInTheKernel) {
  constexpr std::int64_t kBytes = 64 << 20;
  TcpWorld world(2);
  const auto large = message(kBytes, 1);
  std::vector<std::byte> received(kBytes);
  std::byte ping{3}, pong{};
  Operation send, first, second, receive;
  ASSERT_TRUE(world.at(0).send(1, {9, 0}, &ping, 1, first));
  ASSERT_TRUE(world.at(1).receive(0, {9, 0}, &pong, 1, second));
  ASSERT_TRUE(drive(world, 2, {&first, &second}));
  ASSERT_TRUE(world.at(0).send(1, {1, 0}, large.data(), kBytes, send));
  const std::int64_t before = resident_bytes();
  EXPECT_FALSE(drive(world, 2, {&send}, 200));
  EXPECT_LT(resident_bytes() - before, 8 << 20);
  ASSERT_TRUE(world.at(1).receive(0, {1, 0}, received.data(), kBytes, receive));
  ASSERT_TRUE(drive(world, 2, {&send, &receive}));
  EXPECT_TRUE(received == large);
}

TEST(TcpOptions, AnUnknownDeviceIsAnErrorThatNamesThoseThereAre) {
  ::setenv("SHOAL_TCP_DEVICE", "nosuchdevice0", 1);
  try {
    static_cast<void>(tcp::make_tcp({0, 2, "127.0.0.1", by("secret")}));
    ADD_FAILURE() << "it was made";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("nosuchdevice0"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("lo"), std::string::npos) << error.what();
  }
  ::setenv("SHOAL_TCP_DEVICE", "lo", 1);
  EXPECT_NE(tcp::make_tcp({0, 2, "192.0.2.1", by("secret")})->describe().find("127.0.0.1"),
            std::string::npos);
  ::unsetenv("SHOAL_TCP_DEVICE");
}

}  // namespace
}  // namespace shoal::transport
