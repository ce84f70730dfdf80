#include "nccl/net/devices.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "comm/networks.h"
#include "core/environment.h"
#include "nccl/interfaces.h"
#include "shoal/error.h"
#include "transport/rail/wire.h"
#include "transport/tcp/socket.h"

namespace shoal::nccl {
namespace {

namespace fs = std::filesystem;

constexpr int kUnknownSpeedMbps = 10'000;  // what NCCL assumes of an interface that does not say

std::string line_of(const fs::path& file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line;
}

/// "": a device without hardware of its own, as veth or rxe.
std::string pci_path_of(const fs::path& device) {
  std::error_code error;
  const fs::path target = fs::canonical(device / "device", error);
  return error ? "" : target.string();
}

/// "0c42:a103:00c0:4c6e" of the card; ports of one have the same.
std::uint64_t guid_of(const std::string& device) {
  std::string digits = line_of(fs::path("/sys/class/infiniband") / device / "sys_image_guid");
  std::erase(digits, ':');
  std::uint64_t guid = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), guid, 16);
  return guid;
}

int speed_of(const std::string& interface) {
  const std::string line = line_of(fs::path("/sys/class/net") / interface / "speed");
  int mbps = 0;
  std::from_chars(line.data(), line.data() + line.size(), mbps);
  return mbps > 0 ? mbps : kUnknownSpeedMbps;
}

/// Of no use between hosts: taken only where it is named, or there is nothing else.
bool is_last_resort(const Interface& interface) noexcept {
  return interface.loopback || interface.name.starts_with("docker");
}

std::vector<Interface> wanted_interfaces() {
  const std::string ours = environment("SHOAL_TCP_DEVICE"),
                    nccls = environment("NCCL_SOCKET_IFNAME");
  const std::string list = !ours.empty() ? "=" + ours : nccls;
  const bool named = !list.empty() && list.front() != '^';
  std::vector<Interface> all = interfaces(), wanted;
  for (const Interface& one : all) {
    if (is_wanted(list, one.name) && (named || !is_last_resort(one))) wanted.push_back(one);
  }
  if (wanted.empty() && !named) {
    std::ranges::copy_if(all, std::back_inserter(wanted),
                         [&](const Interface& one) { return is_wanted(list, one.name); });
  }
  if (!wanted.empty()) return wanted;
  std::string there;
  for (const Interface& one : all) there += (there.empty() ? "" : ", ") + one.name;
  throw Error(ErrorCode::kInvalidArgument,
              "NET/shoal: no network interface that is up and has an address is named by " +
                  std::string(!ours.empty() ? "SHOAL_TCP_DEVICE=" : "NCCL_SOCKET_IFNAME=") +
                  (!ours.empty() ? ours : nccls) + "; there are " + there);
}

std::deque<Device> tcp_devices() {
  std::deque<Device> devices;
  for (const Interface& one : wanted_interfaces()) {
    Device& device = devices.emplace_back();
    device.name = one.name;
    device.pci_path = pci_path_of(fs::path("/sys/class/net") / one.name);
    device.guid = devices.size();  // what NCCL's own sockets say: each is a card
    device.speed_mbps = speed_of(one.name);
    device.host = one.host;
  }
  return devices;
}

/// An address of the port's own interface, so that rendezvous takes the same cable; InfiniBand may
/// have none.
std::string host_of(const transport::RdmaPort& port, const std::vector<Interface>& all) {
  for (const Interface& one : all) {
    if (one.name == port.netdev()) return one.host;
  }
  return wanted_interfaces().front().host;
}

/// Those that shoal's own jobs would use as rails, less what NCCL_IB_HCA leaves out.
std::deque<Device> rdma_devices() {
  const std::string list = environment("NCCL_IB_HCA"), ucx = environment("UCX_NET_DEVICES");
  const std::vector<Interface> all = interfaces();
  std::deque<Device> devices;
  for (const transport::RdmaPort& port : transport::rdma_ports()) {
    const bool of_ucx = ucx.empty() || ucx == "all" || is_wanted("=" + ucx, port.name());
    if (!port.active() || !of_ucx || !is_wanted(list, port.name())) continue;
    Device& device = devices.emplace_back();
    // NCCL finds devices by their names: two ports of a card must not have the same.
    device.name = port.number == 1 ? port.device : port.name();
    device.pci_path = pci_path_of(fs::path("/sys/class/infiniband") / port.device);
    device.guid = guid_of(port.device);
    device.speed_mbps = port.gbits > 0 ? static_cast<int>(port.gbits * 1000) : kUnknownSpeedMbps;
    device.port = port.number;
    device.rdma = true;
    device.host = host_of(port, all);
    device.ports = {port.name()};
  }
  if (devices.empty() && (!list.empty() || !ucx.empty()) && !transport::rdma_ports().empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "NET/shoal: NCCL_IB_HCA=" + list + " and UCX_NET_DEVICES=" + ucx +
                    " leave no active RDMA port; `shoal info` lists them");
  }
  return devices;
}

/// UCX was asked for where there is no RDMA device: whatever it finds, as one.
Device any_ucx_device() {
  const Interface first = wanted_interfaces().front();
  Device device;
  device.name = "ucx";
  device.guid = 1;
  device.speed_mbps = speed_of(first.name);
  device.rdma = true;
  device.host = first.host;
  return device;
}

}  // namespace

std::deque<Device> find_devices() {
  const comm::Outlook outlook = comm::look_at_networks("", "");
  std::deque<Device> devices = outlook.offers_ucx ? rdma_devices() : tcp_devices();
  if (devices.empty()) {
    if (outlook.offers_tcp) {
      devices = tcp_devices();
    } else {
      devices.push_back(any_ucx_device());
    }
  }
  for (std::size_t i = 0; i < devices.size(); ++i) devices[i].parts = {static_cast<int>(i)};
  return devices;
}

Device merge(const std::deque<Device>& devices, const std::vector<int>& parts) {
  const auto refuse = [](const std::string& why) {
    throw Error(ErrorCode::kInvalidArgument, "NET/shoal: cannot merge devices: " + why);
  };
  if (parts.empty() || parts.size() > transport::rail::kMaxRails) {
    refuse(std::to_string(parts.size()) + " of them; 1 to " +
           std::to_string(transport::rail::kMaxRails) + " can be rails of one");
  }
  Device merged;
  for (const int part : parts) {
    if (part < 0 || static_cast<std::size_t>(part) >= devices.size()) {
      refuse("there is no device " + std::to_string(part));
    }
    if (std::ranges::count(parts, part) > 1) refuse("device " + std::to_string(part) + " twice");
    const Device& device = devices[static_cast<std::size_t>(part)];
    if (parts.size() > 1 && device.ports.size() != 1) {
      refuse(device.name + " is no single RDMA port (set NCCL_NET_MERGE_LEVEL=LOC)");
    }
    if (merged.parts.empty()) {
      merged = device;
      merged.parts = {part};
      continue;
    }
    merged.name += "+" + device.name;
    merged.speed_mbps += device.speed_mbps;
    merged.ports.push_back(device.ports[0]);
    merged.parts.push_back(part);
  }
  return merged;
}

}  // namespace shoal::nccl
