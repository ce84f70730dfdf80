#include "transport/ucx/context.h"

#include <cstdlib>
#include <string_view>
#include <utility>

#include "core/log.h"

namespace shoal::transport::ucx {
namespace {

struct ConfigDeleter {
  void operator()(ucp_config_t* config) const noexcept { ucp_config_release(config); }
};
using Config = std::unique_ptr<ucp_config_t, ConfigDeleter>;

/// What we set where the user has not. A message is either one segment, copied, or a rendezvous,
/// never a row of segments: UCX can neither cancel nor fail a receive whose segments stop coming.
constexpr std::pair<const char*, const char*> kSettings[] = {
    {"TLS", "^sm"},
    {"RNDV_THRESH", "256k"},
    {"TCP_TX_SEG_SIZE", "260k"},
    {"TCP_RX_SEG_SIZE", "512k"},
    // A PUT of a peer is written to the address that it names, also after the receive was cancelled
    // and its endpoint closed (openucx/ucx pull request 11918). Without it data passes our worker.
    {"TCP_PUT_ENABLE", "n"},
};

/// The name by which this UCX's ucp_config_modify() finds a transport's setting: 1.13 looks for it
/// without the transport's prefix, and ignores what it does not find.
const char* name_to_modify(const char* name) {
  unsigned major = 0, minor = 0, release = 0;
  ucp_get_version(&major, &minor, &release);
  constexpr std::string_view kPrefix = "TCP_";
  return minor == 13 && std::string_view(name).starts_with(kPrefix) ? name + kPrefix.size() : name;
}

void set(ucp_config_t* config, const char* name, const char* value) {
  const ucs_status_t status = ucp_config_modify(config, name, value);
  if (status != UCS_OK) {
    log(LogLevel::kInfo, "ucx: this version does not take %s=%s (%s)", name, value,
        ucs_status_string(status));
  }
}

/// Of a rail, which another one can take over from: a dead one is seen in 0.6 to 2.4 seconds (the
/// adapter may wait up to four times as long as it was told) instead of 8 to 32, or never, as with
/// UCX's seven tries, which to some devices (rxe) means for ever.
constexpr std::pair<const char*, const char*> kRailSettings[] = {
    {"RC_TIMEOUT", "100ms"},
    {"RC_RETRY_COUNT", "5"},
};

/// The device is the caller's choice, also where the environment names several.
void apply_rail_settings(ucp_config_t* config, const std::string& device) {
  set(config, "NET_DEVICES", device.c_str());
  for (const auto& [name, value] : kRailSettings) {
    if (std::getenv(("UCX_" + std::string(name)).c_str()) == nullptr) set(config, name, value);
  }
}

void apply_settings(ucp_config_t* config, const UcxOptions& options) {
  for (const auto& [name, value] : kSettings) {
    if (std::getenv(("UCX_" + std::string(name)).c_str()) == nullptr)
      set(config, name_to_modify(name), value);
  }
  if (!options.transports.empty()) set(config, "TLS", options.transports.c_str());
  if (!options.device.empty()) apply_rail_settings(config, options.device);
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
  params.estimated_num_eps = static_cast<std::size_t>(options.peers);
  ucp_context_h context = nullptr;
  // The oldest API that we are written to, not that of the headers: a newer one than the library's
  // makes UCX warn, though nothing of it is used.
  status = ucp_init_version(1, 13, &params, config.get(), &context);
  if (status != UCS_OK) {
    error =
        std::string("ucx: ucp_init failed: ") + ucs_status_string(status) +
        "; transports asked for: " + (options.transports.empty() ? "default" : options.transports) +
        "; try UCX_TLS=tcp, or UCX_LOG_LEVEL=info for the reason";
    return nullptr;
  }
  return Context(context);
}

}  // namespace shoal::transport::ucx
