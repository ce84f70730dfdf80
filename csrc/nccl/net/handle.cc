#include "nccl/net/handle.h"

#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "bootstrap/auth.h"
#include "shoal/error.h"

namespace shoal::nccl {

Handle make_handle(const transport::tcp::Endpoint& at) {
  Handle handle;
  handle.family = at.address.ss_family;
  if (at.address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(at.address);
    handle.port = v6.sin6_port;
    std::memcpy(handle.address.data(), &v6.sin6_addr, sizeof v6.sin6_addr);
  } else {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(at.address);
    handle.port = v4.sin_port;
    std::memcpy(handle.address.data(), &v4.sin_addr, sizeof v4.sin_addr);
  }
  std::ranges::copy(bootstrap::random_bytes(handle.listener.size()), handle.listener.begin());
  std::ranges::copy(bootstrap::random_bytes(handle.secret.size()), handle.secret.begin());
  return handle;
}

Handle read_handle(const void* bytes) {
  Handle handle;
  std::memcpy(&handle, bytes, sizeof handle);
  const bool known = handle.family == AF_INET || handle.family == AF_INET6;
  if (handle.magic == Handle::kMagic && handle.version == Handle{}.version && known) return handle;
  throw Error(ErrorCode::kInvalidArgument,
              "NET/shoal: connect: the handle is not one of this plug-in's; do all ranks have the "
              "same NCCL_NET_PLUGIN and the same version of shoal?");
}

void write_handle(const Handle& handle, void* bytes) noexcept {
  std::memset(bytes, 0, abi::kHandleBytes);
  std::memcpy(bytes, &handle, sizeof handle);
}

transport::tcp::Endpoint endpoint_of(const Handle& handle) noexcept {
  transport::tcp::Endpoint endpoint;
  endpoint.address.ss_family = handle.family;
  if (handle.family == AF_INET6) {
    auto& v6 = reinterpret_cast<sockaddr_in6&>(endpoint.address);
    v6.sin6_port = handle.port;
    std::memcpy(&v6.sin6_addr, handle.address.data(), sizeof v6.sin6_addr);
    endpoint.length = sizeof v6;
  } else {
    auto& v4 = reinterpret_cast<sockaddr_in&>(endpoint.address);
    v4.sin_port = handle.port;
    std::memcpy(&v4.sin_addr, handle.address.data(), sizeof v4.sin_addr);
    endpoint.length = sizeof v4;
  }
  return endpoint;
}

}  // namespace shoal::nccl
