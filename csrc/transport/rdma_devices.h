/// The RDMA devices of this machine as the kernel describes them in sysfs: for people, who want to
/// know what a job could use and how near to its memory that lies. Opens no device and needs no
/// verbs library.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "shoal/export.h"

namespace shoal::transport {

inline constexpr int kUnknownNode = -1;
inline constexpr int kUnknownDistance = 0;  ///< the kernel's own begin at 10: the same node

/// One way to name a port on the wire. Only those that are set.
struct RdmaGid {
  int index = 0;
  std::string address;  ///< "fe80::1" or, of an IPv4 address, "10.77.0.1"
  std::string type;     ///< "RoCE v2", "IB/RoCE v1"; "" where the kernel does not say
  std::string netdev;   ///< that stands behind it; "" on InfiniBand
};

struct RdmaPort {
  std::string device;      ///< "mlx5_0"
  int number = 1;          ///< from 1
  std::string state;       ///< "ACTIVE", "DOWN"
  std::string link_layer;  ///< "InfiniBand"; "Ethernet", which is RoCE
  std::string rate;        ///< "100 Gb/sec (4X EDR)"
  double gbits = 0;        ///< of `rate`; 0: unknown
  int mtu_bytes = 0;       ///< payload of a packet: RoCE's, by the network device; 0: unknown
  int numa_node = kUnknownNode;
  std::vector<RdmaGid> gids;

  [[nodiscard]] bool active() const noexcept { return state == "ACTIVE"; }
  /// As UCX_NET_DEVICES names it: "mlx5_0:1".
  [[nodiscard]] std::string name() const { return device + ":" + std::to_string(number); }
  [[nodiscard]] std::string netdev() const { return gids.empty() ? "" : gids.front().netdev; }
};

/// All ports of all devices, in the order of their names. What cannot be read is left empty; never
/// throws for it. `sysfs`: another root, for tests.
SHOAL_API std::vector<RdmaPort> rdma_ports(const std::filesystem::path& sysfs = "/sys");

/// Whether a value of UCX_TLS may bring RDMA devices: none, all, all but some, or a name of theirs.
bool may_use_rdma(const std::string& ucx_transports);

/// As the firmware rates it: 10 is the same node, 20 twice as far. kUnknownDistance.
SHOAL_API int numa_distance(int from_node, int to_node,
                            const std::filesystem::path& sysfs = "/sys");

/// One line: "mlx5_0:1 ACTIVE, RoCE on eth2, 10.77.0.1 (RoCE v2, GID 3), MTU 4096, 100 Gb/sec (4X
/// EDR), NUMA node 1, distance 21 from the pool's pages". `pool_node`: where those lie.
SHOAL_API std::string describe(const RdmaPort& port, int pool_node,
                               const std::filesystem::path& sysfs = "/sys");

}  // namespace shoal::transport
