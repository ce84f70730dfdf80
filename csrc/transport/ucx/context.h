/// Move-only owners of UCX's context and of registered memory. Part of libshoal_ucx.so.
#pragma once

#include <ucp/api/ucp.h>

#include <cstdint>
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

/// Whether RC on one device is all that there is to carry messages by: then an endpoint's messages
/// and puts can take one queue pair.
bool is_one_rc(ucp_context_h context);

/// How what is put to an endpoint's peer and then told to it arrives.
enum class PutOrder : std::uint8_t {
  kUnknown,  ///< it is not connected yet, and what is sent now may take another way
  kNone,
  kKept,  ///< one RC queue pair carries everything: InfiniBand's order of WRITE and SEND
};
PutOrder put_order(ucp_ep_h endpoint);

/// Whether the endpoint may be closed by force. UCX 1.13 ends the process by an assertion (gone in
/// 1.14, commit 9ccaf31bb6) if the peer has not answered the endpoint's first message.
bool may_be_closed(ucp_ep_h endpoint);

/// `text` with the limits that may be behind an error of UCX where RDMA devices are used.
std::string with_limits(std::string text);

}  // namespace shoal::transport::ucx
