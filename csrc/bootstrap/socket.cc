#include "bootstrap/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <limits>
#include <memory>

#include "shoal/error.h"

namespace shoal::bootstrap {
namespace {

constexpr std::int64_t kDialAttemptMs = 5000;

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

struct Resolved {
  AddressList list{nullptr, &::freeaddrinfo};
  int error = 0;
};

Resolved resolve(const Address& address, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  Resolved resolved;
  resolved.error =
      ::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  resolved.list.reset(found);
  return resolved;
}

void set_option(int socket, int level, int option, int value) noexcept {
  ::setsockopt(socket, level, option, &value, sizeof value);
}

// Small frames leave at once; a host that vanished without a FIN is noticed after about 15 s if
// nothing is in flight to it.
void tune(int socket) noexcept {
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, 5);
  set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, 2);
  set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, 5);
}

Fd open_socket(const addrinfo& at) {
  return Fd(::socket(at.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, at.ai_protocol));
}

// 0, or the errno of a connect() that failed or did not finish in time.
int connect_within(int socket, const addrinfo& to, Deadline deadline) {
  if (::connect(socket, to.ai_addr, to.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  pollfd entry{socket, POLLOUT, 0};
  if (poll_until({&entry, 1}, deadline) == 0) return ETIMEDOUT;
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length);
  return error;
}

Address numeric(const sockaddr_storage& raw, socklen_t length) {
  char host[NI_MAXHOST] = "?";
  char port[NI_MAXSERV] = "0";
  ::getnameinfo(reinterpret_cast<const sockaddr*>(&raw), length, host, sizeof host, port,
                sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
  return {host, static_cast<std::uint16_t>(std::strtoul(port, nullptr, 10))};
}

}  // namespace

std::string to_text(const Address& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return (v6 ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

Address parse_address(const std::string& text, const std::string& what) {
  const std::size_t colon = text.rfind(':');
  unsigned port = 0;
  if (colon != std::string::npos && colon > 0) {
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data() + colon + 1, end, port);
    if (parsed.ec != std::errc{} || parsed.ptr != end) port = 0;
  }
  if (port == 0 || port > 65535) {
    throw Error(ErrorCode::kBootstrap, what + " is \"" + text + "\"; expected host:port");
  }
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return {host, static_cast<std::uint16_t>(port)};
}

Fd listen_tcp(const Address& at) {
  const Resolved resolved = resolve(at, AI_PASSIVE);
  if (resolved.error != 0 || at.host.empty()) {
    throw Error(ErrorCode::kBootstrap, "bootstrap: cannot resolve \"" + at.host +
                                           "\" to bind to: " + ::gai_strerror(resolved.error));
  }
  int error = 0;
  for (const addrinfo* entry = resolved.list.get(); entry != nullptr; entry = entry->ai_next) {
    Fd socket = open_socket(*entry);
    // A store that ended a moment ago leaves connections in TIME_WAIT on this port.
    if (socket.valid()) set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (socket.valid() && ::bind(socket.get(), entry->ai_addr, entry->ai_addrlen) == 0 &&
        ::listen(socket.get(), SOMAXCONN) == 0) {
      return socket;
    }
    error = errno;
  }
  const char* advice = error == EADDRINUSE ? "; is another job's store there? set SHOAL_STORE_PORT"
                       : error == EADDRNOTAVAIL ? "; it is no address of this host"
                                                : "";
  throw Error(ErrorCode::kBootstrap,
              "bootstrap: cannot listen on " + to_text(at) + ": " + std::strerror(error) + advice);
}

Dialled dial_tcp(const Address& to, Deadline deadline) {
  const Resolved resolved = resolve(to, 0);
  Dialled result;
  if (resolved.error != 0) {
    result.error = std::string("cannot resolve the name: ") + ::gai_strerror(resolved.error);
    result.hopeless = resolved.error != EAI_AGAIN;
    return result;
  }
  for (const addrinfo* entry = resolved.list.get(); entry != nullptr; entry = entry->ai_next) {
    Fd socket = open_socket(*entry);
    const std::int64_t limit_ms = std::min(kDialAttemptMs, deadline.remaining_ms());
    const int error =
        socket.valid() ? connect_within(socket.get(), *entry, Deadline::after_ms(limit_ms)) : errno;
    if (error == 0) {
      tune(socket.get());
      result.socket = std::move(socket);
      return result;
    }
    result.error = std::strerror(error);
  }
  return result;
}

Fd accept_tcp(int listener) {
  Fd socket(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (socket.valid()) tune(socket.get());
  return socket;
}

void bound_retransmission(int socket) noexcept {
  set_option(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, 30'000);
}

Address local_address(int socket) {
  sockaddr_storage raw{};
  socklen_t length = sizeof raw;
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&raw), &length);
  return numeric(raw, length);
}

Address remote_address(int socket) {
  sockaddr_storage raw{};
  socklen_t length = sizeof raw;
  ::getpeername(socket, reinterpret_cast<sockaddr*>(&raw), &length);
  return numeric(raw, length);
}

std::string host_name() {
  char name[256] = "?";
  ::gethostname(name, sizeof name - 1);
  return name;
}

int poll_until(std::span<pollfd> entries, Deadline deadline) {
  for (;;) {  // bounded by the deadline
    constexpr std::int64_t kLongest = std::numeric_limits<int>::max();
    const int limit_ms = static_cast<int>(std::min(deadline.remaining_ms(), kLongest));
    const int ready = ::poll(entries.data(), entries.size(), limit_ms);
    if (ready > 0) return ready;
    if (ready < 0 && errno != EINTR) {
      throw Error(ErrorCode::kSystem, std::string("bootstrap: poll: ") + std::strerror(errno));
    }
    if (deadline.passed()) return 0;
  }
}

Fd make_event() {
  Fd event(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!event.valid()) {
    throw Error(ErrorCode::kSystem, std::string("bootstrap: eventfd: ") + std::strerror(errno) +
                                        "; raise the limit of open files (ulimit -n)");
  }
  return event;
}

void raise_event(int event) noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written =
      ::write(event, &one, sizeof one);  // full: already raised
}

void clear_event(int event) noexcept {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t taken = ::read(event, &count, sizeof count);
}

}  // namespace shoal::bootstrap
