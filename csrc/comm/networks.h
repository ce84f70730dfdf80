/// Which transport carries messages between nodes: each rank says what it can do, and what all of
/// them can is chosen by all alike.
///
///   UCX   where this node has an RDMA device and a UCX with verbs; or because it was asked for.
///         Several RDMA ports are a rail each (transport/rail), where every rank has several.
///   TCP   everywhere else: the kernel's sockets, faster than UCX over TCP (decision 0005)
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/rails.h"
#include "memory/registrar.h"
#include "shoal/export.h"
#include "transport/network.h"
#include "transport/tcp/tcp_transport.h"
#include "transport/ucx/ucx_transport.h"

namespace shoal::comm {

struct NetworkOptions {
  int self = 0;
  int peers = 1;
  std::string network;  ///< "auto", "tcp" or "ucx"; "": SHOAL_NETWORK, else "auto"
  std::string host;     ///< this host's address towards the others
  /// The RDMA ports to use, a rail each ("mlx5_0:1"), whatever UCX_NET_DEVICES says; none: that.
  std::vector<std::string> devices{};
  int ucx_receive_queue = 0;  ///< see UcxOptions
  std::string ucx_directory;
  transport::tcp::Authenticate authenticate;                                ///< see TcpOptions
  std::function<void*(const void* data, std::int64_t bytes)> registration;  ///< see UcxOptions
};

/// What a rank here would do. For `shoal info`, too.
struct Outlook {
  bool offers_tcp = true;
  bool offers_ucx = false;
  std::string reason;
};
/// `network` as in NetworkOptions. Throws Error(kInvalidArgument) for one that there is not.
SHOAL_API Outlook look_at_networks(const std::string& network, const std::string& ucx_directory);

/// One thread.
class Networks {
 public:
  /// Opens what this rank may use. Throws Error: kInvalidArgument for a `network` that there is
  /// not; kMissingLibrary or kTransport where UCX was asked for and is not to be had.
  explicit Networks(NetworkOptions options);

  /// What the others have to know of this rank.
  [[nodiscard]] std::string offer() const;
  /// Given every rank's offer (empty: a rank that is reached without a network), the network that
  /// all of them have, with all addresses. Throws Error(kTransport) naming two ranks that have none
  /// in common.
  std::unique_ptr<transport::Network> choose(const std::vector<std::string>& offers);
  /// Of the chosen one, if it wants to know memory.
  [[nodiscard]] memory::Registrar* registrar() const noexcept { return registrar_; }
  /// The chosen one has one-sided operations at every rank (transport::Transport::has_put).
  [[nodiscard]] bool has_put() const noexcept { return has_put_; }
  /// The RDMA ports that the chosen one moves data by; none: it is TCP.
  [[nodiscard]] std::vector<transport::RdmaPort> ports() const;
  /// Why that one; for people.
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }

 private:
  void open_ucx();
  void open_tcp();
  std::unique_ptr<transport::ucx::UcxTransport> open_rail(int rail, const std::string& device);
  std::unique_ptr<transport::Network> use_ucx(std::size_t rails);

  NetworkOptions options_;
  RailChoice rails_;
  std::vector<std::unique_ptr<transport::ucx::UcxTransport>> ucx_;
  /// Several rails are used as one. shared_ptr: the transports look at it, and outlive this object.
  std::shared_ptr<bool> composed_ = std::make_shared<bool>(false);
  std::unique_ptr<transport::Network> tcp_;
  memory::Registrar* registrar_ = nullptr;
  bool has_put_ = false;
  std::string reason_;
};

}  // namespace shoal::comm
