/// One rank of a test over UCX. SHOAL_TEST_UCX_DEVICES="rxe0:1,rxe1:1" gives rank r the device r
/// mod 2, so that messages between neighbours leave by a link; unset: whatever UCX finds.
#pragma once

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "transport/ucx/loader.h"

namespace shoal::transport {

inline std::string test_device(int self) {
  const char* listed = std::getenv("SHOAL_TEST_UCX_DEVICES");
  if (listed == nullptr) return {};
  std::vector<std::string> devices;
  std::istringstream names(listed);
  for (std::string name; std::getline(names, name, ',');) devices.push_back(name);
  return devices.at(static_cast<std::size_t>(self) % devices.size());
}

inline ucx::UcxOptions ucx_member(int self, int peers) {
  ucx::UcxOptions options;
  options.self = self;
  options.peers = peers;
  options.device = test_device(self);
  return options;
}

}  // namespace shoal::transport
