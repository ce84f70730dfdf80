/// Sockets as the bootstrap uses them: non-blocking, close-on-exec, never SIGPIPE.
#pragma once

#include <poll.h>

#include <cstdint>
#include <span>
#include <string>

#include "core/clock.h"
#include "core/fd.h"

namespace shoal::bootstrap {

struct Address {
  std::string host;  ///< name or number
  std::uint16_t port = 0;
};

[[nodiscard]] std::string to_text(const Address& address);  ///< "host:port", "[v6]:port"
/// Throws Error(kBootstrap) saying `what` if `text` is not "host:port".
[[nodiscard]] Address parse_address(const std::string& text, const std::string& what);

/// Listens on the first address `at.host` resolves to that can be bound; on no other.
/// Throws Error(kBootstrap) with what to try.
[[nodiscard]] Fd listen_tcp(const Address& at);

struct Dialled {
  Fd socket;              ///< invalid: see error
  std::string error;      ///< "Connection refused"
  bool hopeless = false;  ///< trying again will not help
};
/// One attempt at each address `to.host` resolves to, at most 5 s each. Does not throw.
[[nodiscard]] Dialled dial_tcp(const Address& to, Deadline deadline);

/// The next connection, or an invalid Fd with errno (EAGAIN: none is waiting).
[[nodiscard]] Fd accept_tcp(int listener);

/// Gives a connection up when its data has not been taken for 30 s (a vanished host; without this
/// 15 minutes). Not for connections whose reader may be busy elsewhere for longer.
void bound_retransmission(int socket) noexcept;

[[nodiscard]] Address local_address(int socket);
[[nodiscard]] Address remote_address(int socket);
[[nodiscard]] std::string host_name();

/// poll() until something is ready or the deadline; EINTR and deadlines far away are handled.
/// Returns the number of ready entries.
int poll_until(std::span<pollfd> entries, Deadline deadline);

[[nodiscard]] Fd make_event();  ///< a non-blocking eventfd
void raise_event(int event) noexcept;
void clear_event(int event) noexcept;

}  // namespace shoal::bootstrap
