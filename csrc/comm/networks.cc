#include "comm/networks.h"

#include <cstdlib>
#include <span>
#include <utility>

#include "bootstrap/wire.h"
#include "transport/ucx/loader.h"

namespace shoal::comm {

namespace {

constexpr const char* kAsked = "asked for by SHOAL_NETWORK or init()";

std::string wanted_network(const std::string& given) {
  const char* variable = std::getenv("SHOAL_NETWORK");
  std::string network = !given.empty() ? given : variable != nullptr ? variable : "";
  if (network.empty()) network = "auto";
  if (network == "auto" || network == "tcp" || network == "ucx") return network;
  throw Error(ErrorCode::kInvalidArgument, "init: network \"" + network +
                                               "\" is not known; SHOAL_NETWORK (or init's "
                                               "`network`) is auto, tcp or ucx");
}

/// What a rank offers: its addresses; "": none.
struct Offer {
  std::string ucx, tcp;
};

Offer read(const std::string& bytes) {
  bootstrap::Reader reader(bytes);
  Offer offer;
  offer.ucx = reader.text();
  offer.tcp = reader.text();
  return offer;
}

std::string address_of(const transport::Network* network) {
  if (network == nullptr) return "";
  const std::vector<std::byte>& address = network->address();
  return {reinterpret_cast<const char*>(address.data()), address.size()};
}

}  // namespace

Outlook look_at_networks(const std::string& network, const std::string& ucx_directory) {
  const std::string wanted = wanted_network(network);
  if (wanted != "auto") return {wanted == "tcp", wanted == "ucx", kAsked};
  if (!transport::ucx::has_rdma_device()) return {true, false, "no RDMA device here"};
  const auto& found = transport::ucx::find_ucx({ucx_directory, {}});
  if (found.verbs) return {true, true, "an RDMA device, and a UCX with verbs"};
  return {true, false, "there is an RDMA device, but no UCX with verbs: " + found.reason};
}

Networks::Networks(NetworkOptions options) : options_(std::move(options)) {
  const Outlook outlook = look_at_networks(options_.network, options_.ucx_directory);
  reason_ = outlook.reason;
  if (outlook.offers_tcp) open_tcp();
  if (!outlook.offers_ucx) return;
  try {
    open_ucx();
  } catch (const Error& error) {
    if (!outlook.offers_tcp) throw;
    reason_ = std::string("there is an RDMA device, but ") + error.what();
  }
}

void Networks::open_ucx() {
  transport::ucx::UcxOptions options;
  options.self = options_.self;
  options.peers = options_.peers;
  options.registration = options_.registration;
  ucx_ = transport::ucx::make_ucx(options, {options_.ucx_directory, {}});
}

void Networks::open_tcp() {
  tcp_ = transport::tcp::make_tcp(
      {options_.self, options_.peers, options_.host, options_.authenticate});
}

std::string Networks::offer() const {
  return bootstrap::Writer().text(address_of(ucx_.get())).text(address_of(tcp_.get())).bytes();
}

std::unique_ptr<transport::Network> Networks::choose(const std::vector<std::string>& offers) {
  bool all_ucx = true, all_tcp = true;
  int without_ucx = -1, without_tcp = -1;
  for (std::size_t r = 0; r < offers.size(); ++r) {
    if (offers[r].empty()) continue;
    const Offer offer = read(offers[r]);
    if (offer.ucx.empty() && std::exchange(all_ucx, false)) without_ucx = static_cast<int>(r);
    if (offer.tcp.empty() && std::exchange(all_tcp, false)) without_tcp = static_cast<int>(r);
  }
  if (!all_ucx && !all_tcp) {
    throw Error(ErrorCode::kTransport, "init: no network that all ranks have: rank " +
                                           std::to_string(without_ucx) + " offers no UCX, rank " +
                                           std::to_string(without_tcp) +
                                           " no TCP; give all ranks the same SHOAL_NETWORK");
  }
  if (!all_ucx && ucx_ != nullptr) {
    reason_ = "rank " + std::to_string(without_ucx) + " has no RDMA device or no UCX with verbs";
  }
  std::unique_ptr<transport::Network> chosen;
  if (all_ucx) {
    registrar_ = ucx_.get();
    chosen = std::move(ucx_);
  } else {
    chosen = std::move(tcp_);
  }
  ucx_.reset();
  tcp_.reset();
  for (std::size_t r = 0; r < offers.size(); ++r) {
    if (offers[r].empty()) continue;
    const Offer offer = read(offers[r]);
    const std::string& address = all_ucx ? offer.ucx : offer.tcp;
    chosen->set_peer_address(static_cast<int>(r), std::as_bytes(std::span(address)));
  }
  return chosen;
}

std::vector<transport::RdmaPort> Networks::ports() const {
  std::vector<transport::RdmaPort> ports;
  if (registrar_ == nullptr) return ports;  // TCP
  for (transport::RdmaPort& port : transport::rdma_ports()) {
    if (port.active()) ports.push_back(std::move(port));
  }
  return ports;
}

}  // namespace shoal::comm
