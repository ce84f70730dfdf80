#include "transport/rdma_devices.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <sstream>
#include <system_error>
#include <tuple>

namespace shoal::transport {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxGids = 256;  // the largest table of a port that drivers make

/// First line; empty where there is no such file, or the kernel refuses to read it (a GID's type,
/// where no GID is set).
std::string line_of(const fs::path& file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line;
}

int number_of(const fs::path& file, int otherwise) {
  const std::string line = line_of(file);
  int value = otherwise;
  std::from_chars(line.data(), line.data() + line.size(), value);
  return value;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

/// "" for the unset one. Of an address mapped from IPv4, that.
std::string gid_address(const std::string& text) {
  in6_addr address{};
  if (::inet_pton(AF_INET6, text.c_str(), &address) != 1) return "";
  if (IN6_IS_ADDR_UNSPECIFIED(&address)) return "";
  std::array<char, INET6_ADDRSTRLEN> out{};
  if (IN6_IS_ADDR_V4MAPPED(&address)) {
    return ::inet_ntop(AF_INET, &address.s6_addr[12], out.data(), out.size());
  }
  return ::inet_ntop(AF_INET6, &address, out.data(), out.size());
}

std::vector<RdmaGid> gids_of(const fs::path& port) {
  std::vector<RdmaGid> gids;
  for (int i = 0; i < kMaxGids; ++i) {
    const std::string index = std::to_string(i);
    const std::string text = line_of(port / "gids" / index);
    if (text.empty()) break;
    const std::string address = gid_address(text);
    if (address.empty()) continue;
    gids.push_back({i, address, line_of(port / "gid_attrs" / "types" / index),
                    line_of(port / "gid_attrs" / "ndevs" / index)});
  }
  return gids;
}

/// The kernel keeps no port's active MTU in sysfs, but derives RoCE's from the network device's:
/// the largest of InfiniBand's sizes that fits beside the headers (iboe_get_mtu() in ib_addr.h).
int roce_mtu(int netdev_mtu) {
  constexpr int kHeaders = 40 + 8 + 12 + 4 + 28 + 4;  // GRH, UDP, BTH, XRC, atomic, ICRC
  for (const int bytes : {4096, 2048, 1024, 512, 256}) {
    if (netdev_mtu - kHeaders >= bytes) return bytes;
  }
  return 0;
}

/// Of the device itself; a software one (rxe, siw) has none but its network device's.
int node_of(const fs::path& device, const fs::path& netdev) {
  const int own = number_of(device / "device" / "numa_node", kUnknownNode);
  return own != kUnknownNode ? own : number_of(netdev / "device" / "numa_node", kUnknownNode);
}

RdmaPort read_port(const fs::path& sysfs, const std::string& device, const std::string& number) {
  const fs::path folder = sysfs / "class" / "infiniband" / device;
  const fs::path port = folder / "ports" / number;
  RdmaPort result;
  result.device = device;
  std::from_chars(number.data(), number.data() + number.size(), result.number);
  const std::string state = line_of(port / "state");  // "4: ACTIVE"
  result.state = state.substr(std::min(state.size(), state.find(' ') + 1));
  result.link_layer = line_of(port / "link_layer");
  result.rate = line_of(port / "rate");
  std::istringstream(result.rate) >> result.gbits;
  result.gids = gids_of(port);
  const fs::path netdev = sysfs / "class" / "net" / result.netdev();
  result.numa_node = node_of(folder, netdev);
  if (result.link_layer == "Ethernet") result.mtu_bytes = roce_mtu(number_of(netdev / "mtu", 0));
  return result;
}

/// The GID that RoCE v2 routes by, IPv4 first as UCX chooses it; of others, the first.
const RdmaGid* best_gid(const RdmaPort& port) {
  const auto rank = [](const RdmaGid& gid) {
    const bool is_v4 = gid.address.find(':') == std::string::npos;
    return std::tuple(gid.type != "RoCE v2", !is_v4, gid.index);
  };
  const auto best = std::ranges::min_element(port.gids, {}, rank);
  return best == port.gids.end() ? nullptr : &*best;
}

}  // namespace

std::vector<RdmaPort> rdma_ports(const fs::path& sysfs) {
  std::vector<RdmaPort> ports;
  const fs::path devices = sysfs / "class" / "infiniband";
  for (const std::string& device : names_in(devices)) {
    for (const std::string& number : names_in(devices / device / "ports")) {
      ports.push_back(read_port(sysfs, device, number));
    }
  }
  return ports;
}

bool may_use_rdma(const std::string& ucx_transports) {
  if (ucx_transports.empty() || ucx_transports.front() == '^') return true;
  std::istringstream names(ucx_transports);
  for (std::string name; std::getline(names, name, ',');) {
    if (name == "all" || name == "ib" || name.starts_with("rc") || name.starts_with("ud") ||
        name.starts_with("dc")) {
      return true;
    }
  }
  return false;
}

int numa_distance(int from_node, int to_node, const fs::path& sysfs) {
  if (from_node < 0 || to_node < 0) return kUnknownDistance;
  // A row lists online nodes only, so with a hole in the numbers a column is not a node's number.
  const fs::path nodes = sysfs / "devices" / "system" / "node";
  std::vector<int> numbers;
  for (const std::string& name : names_in(nodes)) {
    int number = 0;
    if (!name.starts_with("node")) continue;
    if (std::from_chars(name.data() + 4, name.data() + name.size(), number).ec == std::errc()) {
      numbers.push_back(number);
    }
  }
  std::ranges::sort(numbers);
  std::istringstream row(line_of(nodes / ("node" + std::to_string(from_node)) / "distance"));
  int distance = kUnknownDistance;
  for (const int number : numbers) {
    if (!(row >> distance)) return kUnknownDistance;
    if (number == to_node) return distance;
  }
  return kUnknownDistance;
}

std::string describe(const RdmaPort& port, int pool_node, const fs::path& sysfs) {
  std::string text = port.name() + " " + port.state + ", " +
                     (port.link_layer == "Ethernet" ? "RoCE" : port.link_layer);
  if (!port.netdev().empty()) text += " on " + port.netdev();
  if (const RdmaGid* gid = best_gid(port)) {
    text += ", " + gid->address + " (" + (gid->type.empty() ? "" : gid->type + ", ") + "GID " +
            std::to_string(gid->index) + ")";
  }
  if (port.mtu_bytes > 0) text += ", MTU " + std::to_string(port.mtu_bytes);
  if (!port.rate.empty()) text += ", " + port.rate;
  if (port.numa_node == kUnknownNode) return text + ", NUMA node unknown";
  text += ", NUMA node " + std::to_string(port.numa_node);
  const int distance = numa_distance(port.numa_node, pool_node, sysfs);
  if (distance == kUnknownDistance) return text;
  return text + ", distance " + std::to_string(distance) + " from the pool's pages";
}

}  // namespace shoal::transport
