#include "transport/tcp/socket.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "shoal/error.h"

namespace shoal::transport::tcp {

namespace {

constexpr int kBacklog = 4096;  // the kernel takes what it allows (somaxconn)

Fd open_socket(int family) noexcept {
  return Fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

void send_at_once(int socket) noexcept {
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

socklen_t length_of(const sockaddr& address) noexcept {
  return address.sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

Moved moved(ssize_t result) noexcept {
  if (result > 0) return {Outcome::kMoved, result, 0};
  if (result == 0) return {Outcome::kLost, 0, 0};
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return {};
  return {Outcome::kLost, 0, errno};
}

msghdr message_of(std::span<const iovec> spaces) noexcept {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(spaces.data());
  message.msg_iovlen = spaces.size();
  return message;
}

}  // namespace

Fd listen_at(const std::string& at) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* raw = nullptr;
  const int unresolved = ::getaddrinfo(at.c_str(), "0", &hints, &raw);
  if (unresolved != 0) {
    throw Error(ErrorCode::kTransport, "tcp: cannot resolve this host's address \"" + at +
                                           "\": " + ::gai_strerror(unresolved));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> list(raw, &::freeaddrinfo);
  int error = 0;
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) {
    Fd socket = open_socket(entry->ai_family);
    if (socket.valid() && ::bind(socket.get(), entry->ai_addr, entry->ai_addrlen) == 0 &&
        ::listen(socket.get(), kBacklog) == 0) {
      return socket;
    }
    error = errno;
  }
  throw Error(ErrorCode::kTransport, "tcp: cannot listen on " + at + ": " + std::strerror(error) +
                                         "; SHOAL_TCP_DEVICE names another network device");
}

std::string address_of_device(const std::string& device) {
  ifaddrs* raw = nullptr;
  if (::getifaddrs(&raw) != 0) {
    throw Error(ErrorCode::kSystem, std::string("tcp: getifaddrs: ") + std::strerror(errno));
  }
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> list(raw, &::freeifaddrs);
  std::string others;
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* entry = list.get(); entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != family) continue;
      std::array<char, NI_MAXHOST> host{};
      ::getnameinfo(entry->ifa_addr, length_of(*entry->ifa_addr), host.data(), host.size(), nullptr,
                    0, NI_NUMERICHOST);
      if (device == entry->ifa_name) return host.data();
      others += std::string(others.empty() ? "" : ", ") + entry->ifa_name;
    }
  }
  throw Error(ErrorCode::kInvalidArgument, "SHOAL_TCP_DEVICE=" + device +
                                               ": no network device of this name has an address "
                                               "here; there are " +
                                               others);
}

Endpoint local_endpoint(int socket) noexcept {
  Endpoint endpoint;
  endpoint.length = sizeof endpoint.address;
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&endpoint.address), &endpoint.length);
  return endpoint;
}

std::string host_in(const Endpoint& endpoint) {
  std::array<char, NI_MAXHOST> host{};
  ::getnameinfo(reinterpret_cast<const sockaddr*>(&endpoint.address), endpoint.length, host.data(),
                host.size(), nullptr, 0, NI_NUMERICHOST);
  return host.data();
}

std::string to_text(const Endpoint& endpoint) {
  std::array<char, NI_MAXSERV> port{};
  ::getnameinfo(reinterpret_cast<const sockaddr*>(&endpoint.address), endpoint.length, nullptr, 0,
                port.data(), port.size(), NI_NUMERICSERV);
  return host_in(endpoint) + " port " + port.data();
}

Fd start_connecting(const Endpoint& to) noexcept {
  Fd socket = open_socket(to.address.ss_family);
  if (!socket.valid()) return socket;
  send_at_once(socket.get());
  const int result =
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&to.address), to.length);
  if (result == 0 || errno == EINPROGRESS || errno == EINTR) return socket;
  const int error = errno;
  socket.reset();
  errno = error;
  return socket;
}

Fd accept_one(int listener) noexcept {
  Fd socket(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (socket.valid()) send_at_once(socket.get());
  return socket;
}

Moved send_some(int socket, std::span<const iovec> spaces) noexcept {
  constexpr int kFlags = MSG_NOSIGNAL | MSG_DONTWAIT;
  if (spaces.size() == 1) {
    return moved(::send(socket, spaces[0].iov_base, spaces[0].iov_len, kFlags));
  }
  const msghdr message = message_of(spaces);
  return moved(::sendmsg(socket, &message, kFlags));
}

Moved receive_some(int socket, std::span<const iovec> spaces) noexcept {
  if (spaces.size() == 1) {
    return moved(::recv(socket, spaces[0].iov_base, spaces[0].iov_len, MSG_DONTWAIT));
  }
  msghdr message = message_of(spaces);
  return moved(::recvmsg(socket, &message, MSG_DONTWAIT));
}

void close_gently(Fd socket) noexcept {
  if (!socket.valid()) return;
  ::shutdown(socket.get(), SHUT_WR);
  std::array<char, 64 << 10> unread;
  // Bounded: as many bytes as a socket holds at most.
  for (int i = 0; i < 1024; ++i) {
    if (::recv(socket.get(), unread.data(), unread.size(), MSG_DONTWAIT) <= 0) return;
  }
}

}  // namespace shoal::transport::tcp
