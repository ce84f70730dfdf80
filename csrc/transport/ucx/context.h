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

/// The transports and devices it works with, "rc_verbs/mlx5_0:1 ud_verbs/mlx5_0:1 self/memory".
std::string resources(ucp_context_h context);

/// Whether the endpoint may be closed by force. UCX 1.13 ends the process by an assertion (gone in
/// 1.14, commit 9ccaf31bb6) if the peer has not answered the endpoint's first message.
bool may_be_closed(ucp_ep_h endpoint);

/// `text` with the limits that may be behind an error of UCX where RDMA devices are used.
std::string with_limits(std::string text);

}  // namespace shoal::transport::ucx
