/// Non-blocking TCP sockets for bulk data.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/fd.h"

namespace shoal::transport::tcp {

/// Where a peer listens; goes over the wire as it is (of one job, so of one kind of machine).
struct Endpoint {
  sockaddr_storage address{};
  socklen_t length = 0;
};

/// A listener on the host's address `at` (a number or a name), any port. Throws Error(kTransport).
[[nodiscard]] Fd listen_at(const std::string& at);
/// The first address of a network device. Throws Error(kInvalidArgument) naming those that exist.
[[nodiscard]] std::string address_of_device(const std::string& device);
[[nodiscard]] Endpoint local_endpoint(int socket) noexcept;
[[nodiscard]] std::string host_in(const Endpoint& endpoint);
[[nodiscard]] std::string to_text(const Endpoint& endpoint);  ///< with the port

/// A connection that is being made; invalid, with errno, where that is hopeless.
[[nodiscard]] Fd start_connecting(const Endpoint& to) noexcept;
/// The next one that somebody has made; invalid: none is waiting.
[[nodiscard]] Fd accept_one(int listener) noexcept;

enum class Outcome : std::uint8_t { kMoved, kNothingYet, kLost };
struct Moved {
  Outcome outcome = Outcome::kNothingYet;
  std::int64_t bytes = 0;
  int error = 0;  ///< of kLost; 0: the peer has closed
};
[[nodiscard]] Moved send_some(int socket, std::span<const iovec> spaces) noexcept;
[[nodiscard]] Moved receive_some(int socket, std::span<const iovec> spaces) noexcept;

/// No more is sent; what has come unread is thrown away, since closing with it would make the
/// kernel throw away what is still under way to the peer.
void close_gently(Fd socket) noexcept;

}  // namespace shoal::transport::tcp
