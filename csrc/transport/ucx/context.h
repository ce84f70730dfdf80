/// Move-only owners of UCX's context and of registered memory. Part of libshoal_ucx.so.
#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>
#include <type_traits>

#include "transport/ucx/ucx_transport.h"

namespace shoal::transport::ucx {

struct ContextDeleter {
  void operator()(ucp_context_h context) const noexcept { ucp_cleanup(context); }
};
using Context = std::unique_ptr<std::remove_pointer_t<ucp_context_h>, ContextDeleter>;

/// Opens UCX with our settings, each of which the environment's UCX_<name> overrides. Empty:
/// `error` says why.
Context open_context(const UcxOptions& options, std::string& error);

}  // namespace shoal::transport::ucx
