/// What NCCL sees as network devices: an RDMA port each where UCX would use them, else a network
/// interface each. NCCL itself chooses by their place on the PCI bus which GPU uses which, and may
/// have several RDMA ports made one (make_merged): those are the rails of one network.
///
/// The variables that NCCL's users know choose among them: NCCL_IB_HCA, NCCL_SOCKET_IFNAME; and
/// shoal's own: SHOAL_NETWORK, SHOAL_TCP_DEVICE, UCX_NET_DEVICES.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "transport/rdma_devices.h"

namespace shoal::nccl {

/// Immutable once made.
struct Device {
  std::string name;
  std::string pci_path;  ///< "": none
  std::uint64_t guid = 0;
  int speed_mbps = 0;
  int port = 1;
  bool rdma = false;
  std::string host;                ///< where it listens
  std::vector<std::string> ports;  ///< as UCX names them; none: what UCX finds. Of RDMA only
  std::vector<int> parts;          ///< the devices it is made of; itself, if of one
};

/// Of this process, at addresses that stay. Throws Error: kInvalidArgument for a variable that
/// names none.
[[nodiscard]] std::deque<Device> find_devices();

/// A device of several RDMA ports. Throws Error(kInvalidArgument) for parts that cannot be one.
[[nodiscard]] Device merge(const std::deque<Device>& devices, const std::vector<int>& parts);

}  // namespace shoal::nccl
