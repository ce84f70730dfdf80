/// Messages between nodes over TCP, by the kernel's sockets alone: what is chosen where there is no
/// RDMA device. One connection a pair of ranks, made at the first send, authenticated by both.
///
/// A message is a 16-byte header and its bytes, sent straight out of the user's memory and received
/// straight into it: one system call on each side for a small one. See inbox.h for messages that
/// nobody has asked for yet, docs/decisions/0005 for why this stands beside UCX.
#pragma once

#include <memory>
#include <string>

#include "transport/network.h"
#include "transport/tcp/handshake.h"

namespace shoal::transport::tcp {

struct TcpOptions {
  int self = 0;
  int peers = 1;
  /// This host's address towards the others. SHOAL_TCP_DEVICE=eth1 takes that device's instead.
  std::string host;
  /// Proves that both ends of a connection belong to this job.
  Authenticate authenticate;
};

/// Throws Error: kTransport when it cannot listen, kInvalidArgument for an unknown device.
std::unique_ptr<Network> make_tcp(TcpOptions options);

}  // namespace shoal::transport::tcp
