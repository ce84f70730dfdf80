// Which RDMA ports become rails. Rails themselves: tests/transport/rail_test.cc and tests/vm.
#include "comm/rails.h"

#include <gtest/gtest.h>

#include "shoal/error.h"

namespace shoal::comm {
namespace {

std::vector<transport::RdmaPort> ports(int count) {
  std::vector<transport::RdmaPort> result;
  for (int i = 0; i < count; ++i) {
    transport::RdmaPort port;
    port.device = std::string("rxe").append(std::to_string(i));
    port.state = "ACTIVE";
    result.push_back(port);
  }
  return result;
}

std::string names(const RailChoice& choice) {
  std::string text;
  for (const auto& port : choice.ports) text += port.name() + " ";
  return text;
}

TEST(ChooseRails, EveryActivePortIsOne) {
  auto found = ports(3);
  found[1].state = "DOWN";
  const RailChoice choice = choose_rails(found, {});
  EXPECT_EQ(names(choice), "rxe0:1 rxe2:1 ");
  EXPECT_EQ(choice.reason, "2 rails: as many active RDMA ports");
}

TEST(ChooseRails, OnePortOrNoneLeavesTheChoiceToUcx) {
  EXPECT_EQ(names(choose_rails(ports(1), {})), "");
  EXPECT_EQ(choose_rails(ports(1), {}).reason, "one rail: one active RDMA port");
  EXPECT_EQ(choose_rails({}, {}).reason, "one rail: no active RDMA port");
}

TEST(ChooseRails, TheUserMayLimitTheirNumber) {
  const RailChoice two = choose_rails(ports(3), {.limit = "2", .devices = {}, .transports = {}});
  EXPECT_EQ(names(two), "rxe0:1 rxe1:1 ");
  EXPECT_EQ(two.reason, "2 rails of 3 active RDMA ports: SHOAL_RAILS");
  const RailChoice one = choose_rails(ports(3), {.limit = "1", .devices = {}, .transports = {}});
  EXPECT_EQ(names(one), "rxe0:1 ");
  EXPECT_EQ(one.reason, "one rail of 3 active RDMA ports: SHOAL_RAILS");
  EXPECT_EQ(choose_rails(ports(12), {}).ports.size(), 8u);
  EXPECT_NE(choose_rails(ports(12), {}).reason.find("not supported"), std::string::npos);
  for (const char* wrong : {"0", "-1", "two", "2x"}) {
    try {
      choose_rails(ports(2), {.limit = wrong, .devices = {}, .transports = {}});
      ADD_FAILURE() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find(wrong), std::string::npos);
    }
  }
}

TEST(ChooseRails, UcxsOwnVariablesCount) {
  const auto with = [](const char* devices, const char* transports) {
    return choose_rails(ports(3), {.limit = {}, .devices = devices, .transports = transports});
  };
  EXPECT_EQ(names(with("rxe2:1,rxe0:1,eth0", "")), "rxe0:1 rxe2:1 ");
  EXPECT_EQ(names(with("all", "^sm")), "rxe0:1 rxe1:1 rxe2:1 ");
  EXPECT_EQ(names(with("rxe1:1", "rc_v,ud_v")), "");
  EXPECT_NE(with("rxe1:1", "").reason.find("UCX_NET_DEVICES=rxe1:1"), std::string::npos);
  EXPECT_EQ(names(with("", "self,rc_v")), "rxe0:1 rxe1:1 rxe2:1 ");
  EXPECT_EQ(names(with("", "tcp,self")), "");
  EXPECT_NE(with("", "tcp,self").reason.find("UCX_TLS=tcp,self"), std::string::npos);
}

}  // namespace
}  // namespace shoal::comm
