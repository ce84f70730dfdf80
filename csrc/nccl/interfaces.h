/// The network interfaces of this host, and NCCL's way of choosing among names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace shoal::nccl {

struct Interface {
  std::string name;
  std::string host;
  bool loopback = false;
};

/// Those that are up and have an address, IPv4 before IPv6; none is there twice. Throws
/// Error(kSystem).
[[nodiscard]] std::vector<Interface> interfaces();

/// As NCCL reads its lists: "eth,ib0" names beginnings, "=eth0" whole names, "^docker" what is not
/// wanted. "": everything. `name` may have a port, "mlx5_0:1"; a list may leave it out.
[[nodiscard]] bool is_wanted(std::string_view list, std::string_view name) noexcept;

}  // namespace shoal::nccl
