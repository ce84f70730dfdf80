// UCX when a peer dies, stops, or is given up; and what only UCX can do wrong.
#include <cstdlib>
#include <string>
#include <vector>

#include "network_peer.h"
#include "shoal/error.h"
#include "transport/ucx/loader.h"
#include "ucx_member.h"

namespace shoal::transport {
namespace {

std::unique_ptr<Network> make_rank(int self) { return ucx::make_ucx(ucx_member(self, 2)); }

INSTANTIATE_TEST_SUITE_P(Ucx, NetworkPeer, testing::Values(NetworkMember{"ucx", make_rank}),
                         network_name);

TEST(MissingUcx, IsAnErrorThatNamesThePackages) {
  in_new_process([] {
    try {
      ::setenv("SHOAL_UCX_DIR", "/nonexistent", 1);
      ucx::make_ucx(ucx_member(0, 2));
      FAIL() << "it was made";
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_EQ(error.code(), ErrorCode::kMissingLibrary);
      EXPECT_NE(text.find("pip install libucx-cu13"), std::string::npos) << text;
      EXPECT_NE(text.find("apt install libucx0"), std::string::npos) << text;
      EXPECT_NE(text.find("/nonexistent"), std::string::npos) << text;
    }
  });
}

// With rendezvous off by the user's own setting a message is a row of segments, and UCX never ends
// the receive of one whose sender died: the worker is given up, and later operations say so.
TEST(UcxPeer, WhatUcxCannotEndIsEndedByRetiringTheWorker) {
  in_new_process([] {
    ::setenv("UCX_RNDV_THRESH", "inf", 1);
    Pair pair(make_rank, send_large);
    std::vector<std::byte> received(kLarge);
    Operation in, other;
    ASSERT_NO_FATAL_FAILURE(pair.receive_beginning(received, in));
    pair.kill_child();
    pair.cancel_bounded(in, received);
    EXPECT_EQ(in.status.code, ErrorCode::kAborted);
    ASSERT_TRUE(pair.transport().receive(0, {9, 0}, received.data(), 8, other));
    ASSERT_TRUE(other.done());
    EXPECT_EQ(other.status.code, ErrorCode::kTransport);
    ASSERT_TRUE(pair.transport().receive(1, {9, 0}, received.data(), 8, other));
    EXPECT_EQ(other.status.code, ErrorCode::kPeerFailed);
    EXPECT_NE(pair.transport().describe().find("retired"), std::string::npos);
  });
}

}  // namespace
}  // namespace shoal::transport
