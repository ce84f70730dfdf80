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

inline Members sim_network(int ranks) {
  // Lives as long as its members: each of them owns it.
  struct Member final : transport::sim::SimTransport {
    Member(std::shared_ptr<transport::sim::SimFabric> shared, int self)
        : SimTransport(*shared, self), fabric(std::move(shared)) {}
    std::shared_ptr<transport::sim::SimFabric> fabric;
  };
  transport::sim::SimOptions options;
  options.seed = 7;
  options.eager_bytes = 64;
  options.refuse_one_in = 5;
  auto fabric = std::make_shared<transport::sim::SimFabric>(ranks, options);
  Members members;
  for (int r = 0; r < ranks; ++r) members.push_back(std::make_unique<Member>(fabric, r));
  return members;
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

inline Members tcp_network(int ranks) {
  return connected(ranks, [&](int self) {
    return transport::tcp::make_tcp({self, ranks, "127.0.0.1", [](std::string_view) {
                                       return std::string(transport::tcp::kProofBytes, 'p');
                                     }});
  });
}

inline Members ucx_network(int ranks) {
  return connected(ranks, [&](int self) {
    return transport::ucx::make_ucx(transport::ucx_member(self, ranks));
  });
}

}  // namespace shoal::exec
