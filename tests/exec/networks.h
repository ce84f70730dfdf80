/// Networks of one process, for Harness.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "transport/sim/sim_transport.h"
#include "transport/tcp/tcp_transport.h"
#include "transport/ucx/loader.h"
#include "transport/ucx_member.h"

namespace shoal::exec {

using Members = std::vector<std::unique_ptr<transport::Transport>>;

/// A fabric lives as long as its members: each of them owns it.
struct SimMember final : transport::sim::SimTransport {
  SimMember(std::shared_ptr<transport::sim::SimFabric> shared, int self)
      : SimTransport(*shared, self), fabric(std::move(shared)) {}
  std::shared_ptr<transport::sim::SimFabric> fabric;
};

inline Members sim_network_of(const transport::sim::SimOptions& options, const Pools& pools) {
  const int ranks = static_cast<int>(pools.size());
  auto fabric = std::make_shared<transport::sim::SimFabric>(ranks, options);
  Members members;
  for (int r = 0; r < ranks; ++r) members.push_back(std::make_unique<SimMember>(fabric, r));
  return members;
}

inline Members sim_network(const Pools& pools) {
  return sim_network_of({.seed = 7, .eager_bytes = 64, .refuse_one_in = 5}, pools);
}

/// Ranks that know one another's addresses.
template <class Make>
Members connected(int ranks, Make&& make) {
  std::vector<std::unique_ptr<transport::Network>> made;
  for (int r = 0; r < ranks; ++r) made.push_back(make(r));
  for (int r = 0; r < ranks; ++r) {
    for (int q = 0; q < ranks; ++q) made[r]->set_peer_address(q, made[q]->address());
  }
  Members members;
  for (auto& transport : made) members.push_back(std::move(transport));
  return members;
}

inline Members tcp_network(const Pools& pools) {
  const int ranks = static_cast<int>(pools.size());
  return connected(ranks, [&](int self) {
    return transport::tcp::make_tcp({self, ranks, "127.0.0.1", [](std::string_view) {
                                       return std::string(transport::tcp::kProofBytes, 'p');
                                     }});
  });
}

inline Members ucx_network(const Pools& pools) {
  const int ranks = static_cast<int>(pools.size());
  return connected(ranks, [&](int self) {
    transport::ucx::UcxOptions options = transport::ucx_member(self, ranks);
    options.registration = [&pools, self](const void* data, std::int64_t bytes) {
      return pools[static_cast<std::size_t>(self)]->registration(data, bytes);
    };
    return transport::ucx::make_ucx(options);
  });
}

}  // namespace shoal::exec
