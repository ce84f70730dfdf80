#include "transport/ucx/context.h"

#include <stdio.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <sstream>
#include <string_view>
#include <utility>

#include "core/log.h"
#include "transport/rdma_devices.h"
#include "transport/ucx/rdma_limits.h"

namespace shoal::transport::ucx {
namespace {

struct ConfigDeleter {
  void operator()(ucp_config_t* config) const noexcept { ucp_config_release(config); }
};
using Config = std::unique_ptr<ucp_config_t, ConfigDeleter>;

constexpr int kQueueLength = 4096;  // UCX's, of RC and of UD
constexpr std::size_t kSegmentBytes = 8 << 10;

struct Setting {
  std::string_view name;
  const char* value;
};

/// What we set where the user has not. A message is either one segment, copied, or a rendezvous,
/// never a row of segments: UCX can neither cancel nor fail a receive whose segments stop coming.
constexpr Setting kSettings[] = {
    {"TLS", "^sm"},
    {"RNDV_THRESH", "256k"},
    {"TCP_TX_SEG_SIZE", "260k"},
    {"TCP_RX_SEG_SIZE", "512k"},
    // A PUT of a peer is written to the address that it names, also after the receive was cancelled
    // and its endpoint closed (openucx/ucx pull request 11918). Without it data passes our worker.
    {"TCP_PUT_ENABLE", "n"},
};

/// The same over verbs. Each is explained in docs/rdma.md.
constexpr Setting kVerbsSettings[] = {
    // Not TCP, that a job on RDMA devices does not fall back to it unnoticed. "rc" has UD with it,
    // for connecting only.
    {"TLS", "rc,dc,cuda,self"},
    {"RNDV_THRESH", "8000"},       // RC's segments have 8256 bytes, with UCX's header
    {"RNDV_SCHEME", "get_zcopy"},  // whoever receives reads: what it has cancelled is not written
    {"RC_RETRY_COUNT", "6"},       // 7, UCX's default, is for ever to some devices (Linux's rxe)
};

/// Before 1.19 UD looks for the address of a RoCE v2 packet over IPv4 where it is not, finds that
/// it is not ours, and drops every packet.
constexpr Setting kUdOverIpv4 = {"UD_ETH_DGID_CHECK", "n"};
constexpr unsigned kUdOverIpv4WorksSince = 19;

/// A version that does what may_be_closed() tells of, by itself too when UD gives up a peer that
/// does not answer: after 30 s, unless told to be patient. Keep-alive makes UD a way for messages,
/// of which may_be_closed() cannot tell; we watch peers by other means.
constexpr unsigned kVersionWithAssertions = 13;
constexpr Setting kSettingsOfThatVersion[] = {{"UD_TIMEOUT", "30m"}, {"KEEPALIVE_INTERVAL", "inf"}};

unsigned minor_version() {
  unsigned major = 0, minor = 0, release = 0;
  ucp_get_version(&major, &minor, &release);
  return minor;
}

/// The name by which this UCX's ucp_config_modify() finds a transport's setting: 1.13 looks for it
/// without the transport's prefix, and ignores what it does not find. (RC_ and UD_ are what several
/// transports share, and are part of the name.)
std::string name_to_modify(std::string_view name) {
  constexpr std::string_view kPrefix = "TCP_";
  if (minor_version() == 13 && name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  return std::string(name);
}

/// UCX_<name>; of what several transports share also that of one, UCX_RC_VERBS_RETRY_COUNT.
bool set_by_user(std::string_view name) {
  if (std::getenv(("UCX_" + std::string(name)).c_str()) != nullptr) return true;
  const std::size_t family = name.find('_') + 1;
  std::string begin("UCX_"), end("_");
  begin += name.substr(0, family);
  end += name.substr(family);
  if (begin != "UCX_RC_" && begin != "UCX_UD_") return false;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (text.starts_with(begin) && text.substr(0, text.find('=')).ends_with(end)) return true;
  }
  return false;
}

void set(ucp_config_t* config, const std::string& name, const char* value) {
  const ucs_status_t status = ucp_config_modify(config, name.c_str(), value);
  if (status != UCS_OK) {
    log(LogLevel::kInfo, "ucx: this version does not take %s=%s (%s)", name.c_str(), value,
        ucs_status_string(status));
  }
}

void set_unless_by_user(ucp_config_t* config, const Setting& setting) {
  if (!set_by_user(setting.name)) set(config, name_to_modify(setting.name), setting.value);
}

/// What the caller or the user has named; "": nothing.
std::string named_transports(const UcxOptions& options) {
  const char* variable = std::getenv("UCX_TLS");
  return !options.transports.empty() ? options.transports : variable != nullptr ? variable : "";
}

/// Of a rail, which another one can take over from: a dead one is seen in 0.6 to 2.4 seconds (the
/// adapter may wait up to four times as long as it was told) instead of 8 to 32, or never, as with
/// UCX's seven tries, which to some devices (rxe) means for ever.
constexpr Setting kRailSettings[] = {{"RC_TIMEOUT", "100ms"}, {"RC_RETRY_COUNT", "5"}};

/// The device is the caller's choice, also where the environment names several.
void apply_rail_settings(ucp_config_t* config, const std::string& device) {
  set(config, "NET_DEVICES", device.c_str());
  for (const Setting& setting : kRailSettings) set_unless_by_user(config, setting);
}

void apply_queue_settings(ucp_config_t* config, int length) {
  const std::string text = std::to_string(length);
  for (const char* name : {"RC_RX_QUEUE_LEN", "UD_RX_QUEUE_LEN"}) {
    set_unless_by_user(config, {name, text.c_str()});
  }
}

void apply_settings(ucp_config_t* config, const UcxOptions& options) {
  for (const Setting& setting : kSettings) set_unless_by_user(config, setting);
  if (options.verbs && may_use_rdma(named_transports(options))) {
    for (const Setting& setting : kVerbsSettings) set_unless_by_user(config, setting);
    if (minor_version() < kUdOverIpv4WorksSince) set_unless_by_user(config, kUdOverIpv4);
    if (minor_version() == kVersionWithAssertions) {
      for (const Setting& setting : kSettingsOfThatVersion) set_unless_by_user(config, setting);
    }
    if (options.receive_queue > 0) apply_queue_settings(config, options.receive_queue);
  }
  if (!options.transports.empty()) set(config, "TLS", options.transports.c_str());
  if (!options.device.empty()) apply_rail_settings(config, options.device);
}

/// What one of UCX's functions prints: no other call of the API says it.
template <class Print>
std::string printed(Print&& print) {
  char* text = nullptr;
  std::size_t bytes = 0;
  FILE* stream = ::open_memstream(&text, &bytes);
  if (stream == nullptr) return {};
  print(stream);
  ::fclose(stream);
  const std::unique_ptr<char, decltype(&std::free)> owner(text, &std::free);
  return {text, bytes};
}

/// UCX passes over devices that it cannot open.
bool lacks_verbs(ucp_context_h context) {
  const std::string found = resources(context);
  for (const char* transport : {"rc_", "ud_", "dc_"}) {
    if (found.find(transport) != std::string::npos) return false;
  }
  return !found.empty();  // else its print is not as we know it
}

/// Whether the queues of a device could be registered, where a limit is in force. UCX 1.13 tries
/// for ever when a queue of UD cannot.
bool may_pin_queues(ucp_context_h context, std::size_t bytes) {
  if (explain_rdma_limits().empty()) return true;
  const std::unique_ptr<std::byte[]> memory(new (std::nothrow) std::byte[bytes]);
  if (!memory) return false;
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  params.address = memory.get();
  params.length = bytes;
  ucp_mem_h handle = nullptr;
  if (ucp_mem_map(context, &params, &handle) != UCS_OK) return false;
  static_cast<void>(ucp_mem_unmap(context, handle));
  return true;
}

}  // namespace

Context open_context(const UcxOptions& options, std::string& error) {
  ucp_config_t* raw = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &raw);
  if (status != UCS_OK) {
    error = std::string("ucx: cannot read its configuration: ") + ucs_status_string(status) +
            "; check the UCX_* variables of the environment";
    return nullptr;
  }
  const Config config(raw);
  apply_settings(config.get(), options);

  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_ESTIMATED_NUM_EPS;
  params.features = UCP_FEATURE_TAG | UCP_FEATURE_WAKEUP;
  if (options.verbs) params.features |= UCP_FEATURE_RMA;
  params.estimated_num_eps = static_cast<std::size_t>(options.peers);
  ucp_context_h context = nullptr;
  // The oldest API that we are written to, not that of the headers: a newer one than the library's
  // makes UCX warn, though nothing of it is used.
  status = ucp_init_version(1, 13, &params, config.get(), &context);
  const std::string named = named_transports(options);
  if (status != UCS_OK) {
    error = std::string("ucx: ucp_init failed: ") + ucs_status_string(status) +
            "; transports asked for: " + (named.empty() ? "default" : named) +
            "; try UCX_TLS=tcp, or UCX_LOG_LEVEL=info for the reason";
    return nullptr;
  }
  Context owned(context);
  if (options.verbs && named.empty() && lacks_verbs(context)) {
    error = with_limits("ucx: this node has RDMA devices, but none that UCX can open and use");
    return nullptr;
  }
  const int length = options.receive_queue > 0 ? options.receive_queue : kQueueLength;
  const std::size_t queues = 2 * kSegmentBytes * static_cast<std::size_t>(length);
  if (options.verbs && !lacks_verbs(context) && !may_pin_queues(context, queues)) {
    error = with_limits("ucx: cannot register " + std::to_string(queues >> 20) +
                        " MiB of memory, as it takes for a device's queues");
    return nullptr;
  }
  return owned;
}

std::string resources(ucp_context_h context) {
  const std::string text = printed([&](FILE* stream) { ucp_context_print_info(context, stream); });
  std::string found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t name = line.find(" -- ");  // "# resource 1 : md 1 dev 1 flags -- tcp/eth0"
    if (name == std::string::npos) continue;
    if (!found.empty()) found += ' ';
    found.append(line, name + 4, std::string::npos);
  }
  return found;
}

bool is_one_rc(ucp_context_h context) {
  std::istringstream found(resources(context));
  std::string device;  // "rc_verbs/mlx5_0:1"
  for (std::string name; found >> name;) {
    if (name.starts_with("ud_") || name.starts_with("self/")) continue;
    const std::size_t slash = name.find('/');
    if (!name.starts_with("rc_") || slash == std::string::npos) return false;
    if (!device.empty() && device != name.substr(slash)) return false;
    device = name.substr(slash);
  }
  return !device.empty();
}

namespace {

std::string print_of(ucp_ep_h endpoint) {
  return printed([&](FILE* stream) { ucp_ep_print_info(endpoint, stream); });
}

/// A transport that is there to connect the others only is in use until they are: "wireup{ud_..}".
bool is_connecting(const std::string& print) { return print.find("wireup{") != std::string::npos; }

}  // namespace

PutOrder put_order(ucp_ep_h endpoint) {
  const std::string print = print_of(endpoint);
  if (is_connecting(print)) return PutOrder::kUnknown;
  int lanes = 0, rc_lanes = 0;
  std::istringstream lines(print);  // "#   lane[0]: 0:rc_verbs/rxe0:1.0 md[0] -> md[0]/ib rma am"
  for (std::string line; std::getline(lines, line);) {
    if (line.find("lane[") == std::string::npos) continue;
    ++lanes;
    rc_lanes += line.find(":rc_") != std::string::npos ? 1 : 0;
  }
  return lanes == 1 && rc_lanes == 1 ? PutOrder::kKept : PutOrder::kNone;
}

bool may_be_closed(ucp_ep_h endpoint) {
  return minor_version() != kVersionWithAssertions || !is_connecting(print_of(endpoint));
}

std::string with_limits(std::string text) {
  const std::string limits = explain_rdma_limits();
  if (!limits.empty()) return std::move(text) + "; limits here: " + limits;
  return std::move(text) +
         "; no limit of locked memory or of rdma.max is in force here: look at `ibv_devinfo` and "
         "`rdma resource`, and at UCX's own words with UCX_LOG_LEVEL=warn";
}

}  // namespace shoal::transport::ucx
