#include "transport/ucx/context.h"

#include <cstdlib>
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
    {"RNDV_THRESH", "128k"},
    {"TCP_TX_SEG_SIZE", "132k"},
    {"TCP_RX_SEG_SIZE", "256k"},
    // A PUT of a peer is written to the address that it names, also after the receive was cancelled
    // and its endpoint closed (openucx/ucx pull request 11918). Without it data passes our worker.
    {"TCP_PUT_ENABLE", "n"},
};

void set(ucp_config_t* config, const char* name, const char* value) {
  const ucs_status_t status = ucp_config_modify(config, name, value);
  if (status != UCS_OK) {
    log(LogLevel::kInfo, "ucx: this version does not take %s=%s (%s)", name, value,
        ucs_status_string(status));
  }
}

void apply_settings(ucp_config_t* config, const UcxOptions& options) {
  for (const auto& [name, value] : kSettings) {
    if (std::getenv(("UCX_" + std::string(name)).c_str()) == nullptr) set(config, name, value);
  }
  if (!options.transports.empty()) set(config, "TLS", options.transports.c_str());
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
    error = std::string("ucx: ucp_init failed: ") + ucs_status_string(status) +
            "; transports asked for: " +
            (options.transports.empty() ? "default" : options.transports) +
            "; try UCX_TLS=tcp, or UCX_LOG_LEVEL=info for the reason";
    return nullptr;
  }
  return Context(context);
}

}  // namespace shoal::transport::ucx
