// What the kernel says in sysfs, recorded: a two-port RoCE adapter far from node 0, an InfiniBand
// adapter, and rxe, which has no device of its own behind it.
#include "transport/rdma_devices.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace shoal::transport {
namespace {

namespace fs = std::filesystem;

class RdmaDevices : public testing::Test {
 protected:
  RdmaDevices() {
    std::string name = (fs::temp_directory_path() / "shoal-sysfs-XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  ~RdmaDevices() override { fs::remove_all(root_); }

  void write(const std::string& file, const std::string& line) {
    const fs::path path = root_ / file;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << line << '\n';
  }

  void write_port(const std::string& device, int number, const std::string& state,
                  const std::string& layer, const std::string& rate) {
    const std::string port = "class/infiniband/" + device + "/ports/" + std::to_string(number);
    write(port + "/state", state);
    write(port + "/link_layer", layer);
    write(port + "/rate", rate);
  }
  void write_gid(const std::string& port, int index, const std::string& gid,
                 const std::string& type, const std::string& netdev) {
    const std::string folder = "class/infiniband/" + port, name = std::to_string(index);
    write(folder + "/gids/" + name, gid);
    if (!type.empty()) write(folder + "/gid_attrs/types/" + name, type);
    if (!netdev.empty()) write(folder + "/gid_attrs/ndevs/" + name, netdev);
  }

  void write_roce() {
    write("class/infiniband/mlx5_0/device/numa_node", "1");
    write_port("mlx5_0", 1, "4: ACTIVE", "Ethernet", "100 Gb/sec (4X EDR)");
    write_gid("mlx5_0/ports/1", 0, "fe80:0000:0000:0000:0277:00ff:fe00:0001", "IB/RoCE v1", "eth2");
    write_gid("mlx5_0/ports/1", 1, "fe80:0000:0000:0000:0277:00ff:fe00:0001", "RoCE v2", "eth2");
    write_gid("mlx5_0/ports/1", 2, "0000:0000:0000:0000:0000:0000:0000:0000", "", "");
    write_gid("mlx5_0/ports/1", 3, "0000:0000:0000:0000:0000:ffff:0a4d:0001", "RoCE v2", "eth2");
    write_port("mlx5_0", 2, "1: DOWN", "Ethernet", "40 Gb/sec (4X QDR)");
    write("class/net/eth2/mtu", "4200");
    write("devices/system/node/node0/distance", "10 21");
    write("devices/system/node/node1/distance", "21 10");
  }

  fs::path root_;
};

TEST_F(RdmaDevices, AMachineWithoutAnyHasNone) {
  EXPECT_TRUE(rdma_ports(root_).empty());
  write("class/infiniband/broken/node_desc", "no ports");
  EXPECT_TRUE(rdma_ports(root_).empty());
}

TEST_F(RdmaDevices, ARocePortIsDescribedWithItsGidsAndItsNetworkDevice) {
  write_roce();
  const auto ports = rdma_ports(root_);
  ASSERT_EQ(ports.size(), 2u);
  const RdmaPort& port = ports[0];
  EXPECT_EQ(port.name(), "mlx5_0:1");
  EXPECT_TRUE(port.active());
  EXPECT_EQ(port.netdev(), "eth2");
  EXPECT_EQ(port.mtu_bytes, 4096);
  EXPECT_EQ(port.gbits, 100);
  EXPECT_EQ(port.numa_node, 1);
  ASSERT_EQ(port.gids.size(), 3u) << "an unset GID is none";
  EXPECT_EQ(port.gids[0].address, "fe80::277:ff:fe00:1");
  EXPECT_EQ(port.gids[0].type, "IB/RoCE v1");
  EXPECT_EQ(port.gids[2].index, 3);
  EXPECT_EQ(describe(port, 0, root_),
            "mlx5_0:1 ACTIVE, RoCE on eth2, 10.77.0.1 (RoCE v2, GID 3), MTU 4096, 100 Gb/sec (4X "
            "EDR), NUMA node 1, distance 21 from the pool's pages");
  EXPECT_EQ(describe(port, kUnknownNode, root_).find("distance"), std::string::npos);
  EXPECT_FALSE(ports[1].active());
  EXPECT_EQ(ports[1].name(), "mlx5_0:2");
  EXPECT_EQ(describe(ports[1], 1, root_),
            "mlx5_0:2 DOWN, RoCE, 40 Gb/sec (4X QDR), NUMA node 1, distance 10 from the pool's "
            "pages");
}

TEST_F(RdmaDevices, TheMtuFollowsTheNetworkDevice) {
  write_roce();
  for (const auto& [netdev, active] :
       {std::pair{"9000", 4096}, {"1500", 1024}, {"352", 256}, {"351", 0}}) {
    write("class/net/eth2/mtu", netdev);
    EXPECT_EQ(rdma_ports(root_)[0].mtu_bytes, active) << netdev;
  }
}

TEST_F(RdmaDevices, InfiniBandHasNoNetworkDeviceAndItsMtuIsNotInSysfs) {
  write("class/infiniband/ib0/device/numa_node", "-1");
  write_port("ib0", 1, "4: ACTIVE", "InfiniBand", "200 Gb/sec (4X HDR)");
  write_gid("ib0/ports/1", 0, "fe80:0000:0000:0000:0002:c903:0000:0001", "", "");
  const auto ports = rdma_ports(root_);
  ASSERT_EQ(ports.size(), 1u);
  EXPECT_EQ(describe(ports[0], 0, root_),
            "ib0:1 ACTIVE, InfiniBand, fe80::2:c903:0:1 (GID 0), 200 Gb/sec (4X HDR), NUMA node "
            "unknown");
}

// rxe has no device folder: what its network device stands in is what counts.
TEST_F(RdmaDevices, ASoftwareDeviceIsWhereItsNetworkDeviceIs) {
  write_port("rxe0", 1, "4: ACTIVE", "Ethernet", "2.5 Gb/sec (1X SDR)");
  write_gid("rxe0/ports/1", 0, "0000:0000:0000:0000:0000:ffff:0a4d:0002", "RoCE v2", "h0");
  EXPECT_EQ(rdma_ports(root_)[0].numa_node, kUnknownNode);
  write("class/net/h0/device/numa_node", "0");
  EXPECT_EQ(rdma_ports(root_)[0].numa_node, 0);
  EXPECT_EQ(rdma_ports(root_)[0].gbits, 2.5);
}

TEST_F(RdmaDevices, DistancesAreReadByTheNumbersOfTheNodes) {
  write("devices/system/node/node0/distance", "10 12 40");
  write("devices/system/node/node1/distance", "12 10 40");
  write("devices/system/node/node8/distance", "40 40 10");
  write("devices/system/node/possible", "0-8");
  EXPECT_EQ(numa_distance(0, 0, root_), 10);
  EXPECT_EQ(numa_distance(0, 1, root_), 12);
  EXPECT_EQ(numa_distance(1, 8, root_), 40) << "the third number, of the ninth node";
  EXPECT_EQ(numa_distance(8, 8, root_), 10);
  EXPECT_EQ(numa_distance(0, 3, root_), kUnknownDistance);
  EXPECT_EQ(numa_distance(3, 0, root_), kUnknownDistance);
  EXPECT_EQ(numa_distance(-1, 0, root_), kUnknownDistance);
}

}  // namespace
}  // namespace shoal::transport
