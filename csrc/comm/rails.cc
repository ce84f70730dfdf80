#include "comm/rails.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <system_error>

#include "core/environment.h"
#include "shoal/error.h"
#include "transport/rail/wire.h"

namespace shoal::comm {

namespace {

/// `list`: "mlx5_0:1,mlx5_1:1".
bool is_in(const std::string& list, const std::string& name) {
  return ("," + list + ",").find("," + name + ",") != std::string::npos;
}

std::size_t rail_limit(const std::string& text) {
  constexpr std::size_t kMost = transport::rail::kMaxRails;
  if (text.empty()) return kMost;
  std::size_t limit = 0;
  const auto end = std::from_chars(text.data(), text.data() + text.size(), limit);
  if (end.ec != std::errc() || end.ptr != text.data() + text.size() || limit == 0) {
    throw Error(ErrorCode::kInvalidArgument, "init: SHOAL_RAILS=" + text +
                                                 " is not a number of RDMA ports from 1 to " +
                                                 std::to_string(kMost));
  }
  return std::min(limit, kMost);
}

}  // namespace

RailWishes rail_wishes() {
  return {environment("SHOAL_RAILS"), environment("UCX_NET_DEVICES"), environment("UCX_TLS")};
}

RailChoice choose_rails(const std::vector<transport::RdmaPort>& found, const RailWishes& wishes) {
  RailChoice choice;
  if (!transport::may_use_rdma(wishes.transports)) {
    return {{}, "no rails: UCX_TLS=" + wishes.transports + " leaves RDMA out"};
  }
  const bool all = wishes.devices.empty() || wishes.devices == "all";
  for (const transport::RdmaPort& port : found) {
    if (port.active() && (all || is_in(wishes.devices, port.name()))) choice.ports.push_back(port);
  }
  const std::size_t there = choice.ports.size(), limit = rail_limit(wishes.limit);
  if (there < 2) {
    return {{},
            std::string("one rail: ") + (there == 0 ? "no" : "one") + " active RDMA port" +
                (all ? "" : " of UCX_NET_DEVICES=" + wishes.devices)};
  }
  choice.reason = std::to_string(there) + " rails: as many active RDMA ports";
  if (limit < there) {
    choice.ports.resize(limit);
    choice.reason = (limit == 1 ? "one rail" : std::to_string(limit) + " rails") + " of " +
                    std::to_string(there) + " active RDMA ports: ";
    choice.reason += wishes.limit.empty() ? "more are not supported" : "SHOAL_RAILS";
  }
  return choice;
}

}  // namespace shoal::comm
