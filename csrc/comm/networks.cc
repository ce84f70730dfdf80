#include "comm/networks.h"

#include <cstdlib>
#include <cstring>
#include <span>
#include <utility>

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

using Address = std::vector<std::byte>;

/// An offer is two addresses, each after its length; 0: not offered.
void append(std::string& offer, const transport::Network* network) {
  const Address none;
  const Address& address = network == nullptr ? none : network->address();
  const auto length = static_cast<std::uint32_t>(address.size());
  offer.append(reinterpret_cast<const char*>(&length), sizeof length);
  offer.append(reinterpret_cast<const char*>(address.data()), address.size());
}

struct Offer {
  std::span<const std::byte> ucx, tcp;
};

std::span<const std::byte> take(std::string_view& rest) {
  std::uint32_t length = 0;
  if (rest.size() < sizeof length) return {};
  std::memcpy(&length, rest.data(), sizeof length);
  rest.remove_prefix(sizeof length);
  const auto* const begin = reinterpret_cast<const std::byte*>(rest.data());
  const std::size_t bytes = std::min<std::size_t>(length, rest.size());
  rest.remove_prefix(bytes);
  return {begin, bytes};
}

Offer read(std::string_view offer) {
  const auto ucx = take(offer);
  return {ucx, take(offer)};
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
  std::string offer;
  append(offer, ucx_.get());
  append(offer, tcp_.get());
  return offer;
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
    chosen->set_peer_address(static_cast<int>(r), all_ucx ? offer.ucx : offer.tcp);
  }
  return chosen;
}

}  // namespace shoal::comm
