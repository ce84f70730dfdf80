// TCP when a peer dies, stops, or is given up.
#include "network_peer.h"
#include "transport/tcp/tcp_transport.h"

namespace shoal::transport {
namespace {

std::unique_ptr<Network> make_rank(int self) {
  return tcp::make_tcp(
      {self, 2, "127.0.0.1", [](std::string_view) { return std::string(tcp::kProofBytes, 'p'); }});
}

INSTANTIATE_TEST_SUITE_P(Tcp, NetworkPeer, testing::Values(NetworkMember{"tcp", make_rank}),
                         network_name);

}  // namespace
}  // namespace shoal::transport
