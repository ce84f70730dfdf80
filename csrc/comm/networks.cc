#include "comm/networks.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <span>
#include <utility>

#include "bootstrap/wire.h"
#include "transport/rail/rail_network.h"
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

/// What a rank offers: its addresses; "" or none: it does not.
struct Offer {
  std::vector<std::string> ucx;  ///< of each rail
  bool has_put = false;          ///< the first rail, if it is the only one
  std::string tcp;
};

Offer read(const std::string& bytes) {
  bootstrap::Reader reader(bytes);
  Offer offer;
  const auto rails = reader.number<std::uint8_t>();
  for (int i = 0; i < rails; ++i) offer.ucx.push_back(reader.text());
  offer.has_put = reader.number<std::uint8_t>() != 0;
  offer.tcp = reader.text();
  return offer;
}

std::string address_of(const transport::Network* network) {
  if (network == nullptr) return "";
  const std::vector<std::byte>& address = network->address();
  return {reinterpret_cast<const char*>(address.data()), address.size()};
}

std::string joined(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ",") + name;
  return list;
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
    if (!outlook.offers_tcp || error.code() == ErrorCode::kInvalidArgument) throw;
    reason_ = std::string("there is an RDMA device, but ") + error.what();
  }
}

void Networks::open_ucx() {
  const std::string devices = joined(options_.devices);
  const std::string only = options_.devices.size() == 1 ? devices : "";
  RailWishes wishes = rail_wishes();
  if (!devices.empty()) wishes.devices = devices;
  if (transport::ucx::find_ucx({options_.ucx_directory, {}}).verbs) {
    rails_ = choose_rails(transport::rdma_ports(), wishes);
  }
  ucx_.push_back(open_rail(0, rails_.ports.empty() ? only : rails_.ports[0].name()));
  try {
    while (ucx_.size() < rails_.ports.size()) {
      const auto next = static_cast<int>(ucx_.size());
      ucx_.push_back(open_rail(next, rails_.ports[ucx_.size()].name()));
    }
  } catch (const Error& error) {  // rail i reaches rail i of the others: those before it are of use
    rails_.reason = std::to_string(ucx_.size()) + " of " + std::to_string(rails_.ports.size()) +
                    " rails: " + error.what();
  }
}

/// `device`: "": whatever UCX finds.
std::unique_ptr<transport::ucx::UcxTransport> Networks::open_rail(int rail,
                                                                  const std::string& device) {
  transport::ucx::UcxOptions options;
  options.self = options_.self;
  options.peers = options_.peers;
  options.device = device;
  options.receive_queue = options_.ucx_receive_queue;
  options.registration = [registration = options_.registration, composed = composed_, rail](
                             const void* data, std::int64_t bytes) {
    void* const handle = registration(data, bytes);
    return *composed ? transport::rail::RailNetwork::handle_of(handle, rail) : handle;
  };
  return transport::ucx::make_ucx(options, {options_.ucx_directory, {}});
}

void Networks::open_tcp() {
  tcp_ = transport::tcp::make_tcp(
      {options_.self, options_.peers, options_.host, options_.authenticate});
}

std::string Networks::offer() const {
  bootstrap::Writer writer;
  writer.number(static_cast<std::uint8_t>(ucx_.size()));
  for (const auto& rail : ucx_) writer.text(address_of(rail.get()));
  writer.number(static_cast<std::uint8_t>(!ucx_.empty() && ucx_[0]->has_put() ? 1 : 0));
  return writer.text(address_of(tcp_.get())).bytes();
}

/// The first `rails` of those that are open. With one, nothing stands between it and its user.
std::unique_ptr<transport::Network> Networks::use_ucx(std::size_t rails) {
  ucx_.resize(rails);
  rails_.ports.resize(std::min(rails, rails_.ports.size()));
  if (rails == 1) {
    registrar_ = ucx_[0].get();
    return std::move(ucx_[0]);
  }
  *composed_ = true;
  std::vector<transport::rail::Rail> parts;
  for (std::size_t i = 0; i < rails; ++i) {
    const transport::RdmaPort& port = rails_.ports[i];
    transport::ucx::UcxTransport* const ucx = ucx_[i].get();
    parts.push_back({port.name(), std::move(ucx_[i]), port.gbits, ucx});
  }
  auto network = transport::rail::make_rail_network(std::move(parts), options_.peers);
  registrar_ = network.get();
  return network;
}

std::unique_ptr<transport::Network> Networks::choose(const std::vector<std::string>& offers) {
  std::size_t rails = std::numeric_limits<std::size_t>::max();
  bool all_tcp = true, all_put = true;
  int fewest_rails = -1, without_tcp = -1;
  for (std::size_t r = 0; r < offers.size(); ++r) {
    if (offers[r].empty()) continue;
    const Offer offer = read(offers[r]);
    if (offer.ucx.size() < rails) {
      rails = offer.ucx.size();
      fewest_rails = static_cast<int>(r);
    }
    all_put = all_put && offer.has_put;
    if (offer.tcp.empty() && std::exchange(all_tcp, false)) without_tcp = static_cast<int>(r);
  }
  const bool all_ucx = rails > 0;
  if (!all_ucx && !all_tcp) {
    throw Error(ErrorCode::kTransport, "init: no network that all ranks have: rank " +
                                           std::to_string(fewest_rails) + " offers no UCX, rank " +
                                           std::to_string(without_tcp) +
                                           " no TCP; give all ranks the same SHOAL_NETWORK");
  }
  if (!all_ucx && !ucx_.empty()) {
    reason_ = "rank " + std::to_string(fewest_rails) + " has no RDMA device or no UCX with verbs";
  } else if (all_ucx && rails < ucx_.size()) {
    reason_ += "; " + std::to_string(rails) + " of " + std::to_string(ucx_.size()) +
               " rails: rank " + std::to_string(fewest_rails) + " has no more";
  } else if (all_ucx && !rails_.reason.empty()) {
    reason_ += "; " + rails_.reason;
  }
  for (std::size_t r = 0; r < offers.size(); ++r) {
    if (offers[r].empty()) continue;
    const int peer = static_cast<int>(r);
    const Offer offer = read(offers[r]);
    for (std::size_t i = 0; i < rails; ++i) {
      ucx_[i]->set_peer_address(peer, std::as_bytes(std::span(offer.ucx[i])));
    }
    if (!all_ucx) tcp_->set_peer_address(peer, std::as_bytes(std::span(offer.tcp)));
  }
  auto chosen = all_ucx ? use_ucx(rails) : std::move(tcp_);
  has_put_ = all_put && chosen->has_put();
  ucx_.clear();
  tcp_.reset();
  return chosen;
}

std::vector<transport::RdmaPort> Networks::ports() const {
  std::vector<transport::RdmaPort> ports = rails_.ports;
  if (registrar_ == nullptr) return {};  // TCP
  if (!ports.empty()) return ports;
  for (transport::RdmaPort& port : transport::rdma_ports()) {
    if (port.active()) ports.push_back(std::move(port));
  }
  return ports;
}

}  // namespace shoal::comm
