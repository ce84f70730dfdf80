/// Which RDMA ports a rank moves data by: each of them is a rail (transport/rail).
#pragma once

#include <string>
#include <vector>

#include "shoal/export.h"
#include "transport/rdma_devices.h"

namespace shoal::comm {

/// What the environment says of rails; "": nothing.
struct RailWishes {
  std::string limit;       ///< SHOAL_RAILS: at most so many
  std::string devices;     ///< UCX_NET_DEVICES
  std::string transports;  ///< UCX_TLS
};
RailWishes rail_wishes();

/// The ports that this rank would use, a rail each; none: UCX uses what it finds, as one network.
struct RailChoice {
  std::vector<transport::RdmaPort> ports;
  std::string reason;  ///< of their number
};
/// `found`: of a UCX with verbs. Throws Error(kInvalidArgument) for a limit that is no number.
SHOAL_API RailChoice choose_rails(const std::vector<transport::RdmaPort>& found,
                                  const RailWishes& wishes);

}  // namespace shoal::comm
