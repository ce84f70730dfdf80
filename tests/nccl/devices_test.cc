/// Which devices NCCL is shown: the lists that its users write, and what may be merged.
#include "nccl/net/devices.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "nccl/interfaces.h"
#include "nccl/net/handle.h"
#include "shoal/error.h"

namespace shoal::nccl {
namespace {

TEST(NcclDevices, ListsAreReadAsNcclReadsThem) {
  EXPECT_TRUE(is_wanted("", "eth0"));
  EXPECT_TRUE(is_wanted("eth", "eth0"));
  EXPECT_TRUE(is_wanted("ib,eth", "eth0"));
  EXPECT_FALSE(is_wanted("ib", "eth0"));
  EXPECT_FALSE(is_wanted("=eth", "eth0"));
  EXPECT_TRUE(is_wanted("=eth0,eth1", "eth1"));
  EXPECT_FALSE(is_wanted("^eth", "eth0"));
  EXPECT_TRUE(is_wanted("^docker,lo", "eth0"));
  EXPECT_FALSE(is_wanted("^=eth0", "eth0"));
  EXPECT_TRUE(is_wanted("^=eth", "eth0"));
  EXPECT_TRUE(is_wanted("mlx5_0", "mlx5_0:1"));
  EXPECT_TRUE(is_wanted("mlx5_0:1", "mlx5_0:1"));
  EXPECT_FALSE(is_wanted("mlx5_0:2", "mlx5_0:1"));
  EXPECT_TRUE(is_wanted("mlx5_1", "mlx5_10:1"));
  EXPECT_FALSE(is_wanted("=mlx5_1", "mlx5_10:1"));
}

TEST(NcclDevices, AnInterfaceThatThereIsNotIsNamedWithThoseThatThereAre) {
  ::setenv("SHOAL_NETWORK", "tcp", 1);
  ::setenv("NCCL_SOCKET_IFNAME", "=nonesuch", 1);
  try {
    static_cast<void>(find_devices());
    FAIL() << "found a device";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("NCCL_SOCKET_IFNAME==nonesuch"), std::string::npos) << text;
    EXPECT_NE(text.find("lo"), std::string::npos) << text;
  }
  ::setenv("NCCL_SOCKET_IFNAME", "lo", 1);
  const auto devices = find_devices();
  ASSERT_EQ(devices.size(), 1U);
  EXPECT_EQ(devices[0].name, "lo");
  EXPECT_FALSE(devices[0].rdma);
  ::unsetenv("NCCL_SOCKET_IFNAME");
}

Device port(const std::string& name, int mbps) {
  Device device;
  device.name = name;
  device.rdma = true;
  device.speed_mbps = mbps;
  device.ports = {name + ":1"};
  return device;
}

TEST(NcclDevices, MergedPortsAreRailsInTheirOrder) {
  const std::deque<Device> devices = {port("mlx5_0", 100'000), port("mlx5_1", 200'000)};
  const Device both = merge(devices, {1, 0});
  EXPECT_EQ(both.name, "mlx5_1+mlx5_0");
  EXPECT_EQ(both.speed_mbps, 300'000);
  EXPECT_EQ(both.ports, (std::vector<std::string>{"mlx5_1:1", "mlx5_0:1"}));
  EXPECT_EQ(both.parts, (std::vector<int>{1, 0}));
}

TEST(NcclDevices, WhatCannotBeMergedIsRefused) {
  std::deque<Device> devices = {port("mlx5_0", 1), port("mlx5_1", 1)};
  EXPECT_THROW(static_cast<void>(merge(devices, {})), Error);
  EXPECT_THROW(static_cast<void>(merge(devices, {0, 2})), Error);
  EXPECT_THROW(static_cast<void>(merge(devices, {-1, 0})), Error);
  EXPECT_THROW(static_cast<void>(merge(devices, std::vector<int>(9, 0))), Error);
  devices[1].ports.clear();  // a network interface
  EXPECT_THROW(static_cast<void>(merge(devices, {0, 1})), Error);
  EXPECT_THROW(static_cast<void>(merge(devices, {0, 0})), Error) << "one port is not two rails";
}

TEST(NcclHandle, SurvivesNcclsBytes) {
  transport::tcp::Endpoint endpoint;
  endpoint.address.ss_family = AF_INET6;
  endpoint.length = 28;
  for (std::size_t i = 2; i < 24; ++i) {
    if (i >= 4 && i < 8) continue;  // flow information does not travel
    reinterpret_cast<unsigned char*>(&endpoint.address)[i] = static_cast<unsigned char>(i);
  }
  std::array<char, abi::kHandleBytes> bytes{};
  const Handle handle = make_handle(endpoint);
  write_handle(handle, bytes.data());
  const transport::tcp::Endpoint back = endpoint_of(read_handle(bytes.data()));
  EXPECT_EQ(back.length, endpoint.length);
  EXPECT_EQ(std::memcmp(&back.address, &endpoint.address, 28), 0);
  EXPECT_NE(make_handle(endpoint).secret, handle.secret) << "a secret is used twice";
  bytes[0] ^= 1;
  EXPECT_THROW(static_cast<void>(read_handle(bytes.data())), Error);
}

}  // namespace
}  // namespace shoal::nccl
