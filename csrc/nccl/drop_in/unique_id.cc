#include "nccl/drop_in/unique_id.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>

#include "core/environment.h"
#include "nccl/interfaces.h"
#include "shoal/error.h"

namespace shoal::nccl {

namespace {

constexpr char kMagic[] = "shoal-1";  // with its zero: 8 bytes
constexpr std::size_t kSecretBytes = 32;

/// As it lies in the 128 bytes.
struct Layout {
  char magic[8];
  char secret[kSecretBytes];
  char store[128 - 8 - kSecretBytes];  // text, ended by zero
};
static_assert(sizeof(Layout) == sizeof(ncclUniqueId));

[[noreturn]] void fail(const std::string& what) {
  throw Error(ErrorCode::kSystem, "ncclGetUniqueId: " + what + ": " + std::strerror(errno));
}

/// The IPv4 address that other hosts may reach this one by: SHOAL_HOST; else of the first interface
/// that is up and that NCCL_SOCKET_IFNAME does not leave out; a loopback one only where there is no
/// other.
std::string own_address() {
  if (std::string given = environment("SHOAL_HOST"); !given.empty()) return given;
  const std::string list = environment("NCCL_SOCKET_IFNAME");
  for (const Interface& one : interfaces()) {
    const bool is_v4 = one.host.find(':') == std::string::npos;
    if (is_v4 && !one.loopback && is_wanted(list, one.name)) return one.host;
  }
  return "127.0.0.1";
}

struct Listening {
  int socket;
  std::string store;
};

Listening listen_anywhere(const std::string& host) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  if (::inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) {
    throw Error(ErrorCode::kInvalidArgument,
                "ncclGetUniqueId: SHOAL_HOST=" + host + " is not an IPv4 address");
  }
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  socklen_t length = sizeof address;
  auto* at = reinterpret_cast<sockaddr*>(&address);
  if (::bind(fd, at, length) != 0 || ::listen(fd, SOMAXCONN) != 0 ||
      ::getsockname(fd, at, &length) != 0) {
    const int error = errno;
    ::close(fd);
    errno = error;
    fail("listening at " + host);
  }
  return {fd, host + ":" + std::to_string(ntohs(address.sin_port))};
}

/// An id is all that its users hand to ncclCommInitRank(), so what belongs to it in this process is
/// found by that.
struct Listeners {
  std::mutex mutex;
  std::map<std::string, int> by_store;  // mutex
};
Listeners& listeners() {
  static Listeners all;
  return all;
}

}  // namespace

ncclUniqueId make_unique_id() {
  Layout layout{};
  std::memcpy(layout.magic, kMagic, sizeof kMagic);
  if (::getrandom(layout.secret, kSecretBytes, 0) != kSecretBytes) fail("random bytes");
  const Listening listening = listen_anywhere(own_address());
  std::memcpy(layout.store, listening.store.data(), listening.store.size());
  ncclUniqueId id;
  std::memcpy(&id, &layout, sizeof id);
  const std::lock_guard lock(listeners().mutex);
  listeners().by_store[listening.store] = listening.socket;
  return id;
}

MeetingPlace read_unique_id(const ncclUniqueId& id) {
  if (std::memcmp(id.internal, kMagic, sizeof kMagic) != 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "ncclCommInitRank: the unique id was not made by shoal's ncclGetUniqueId(): start "
                "all ranks with `shoal run --nccl`");
  }
  Layout layout{};
  std::memcpy(&layout, &id, sizeof layout);
  layout.store[sizeof layout.store - 1] = '\0';
  return {layout.store, {layout.secret, kSecretBytes}};
}

int take_listener(const MeetingPlace& place) noexcept {
  const std::lock_guard lock(listeners().mutex);
  const auto found = listeners().by_store.find(place.store);
  if (found == listeners().by_store.end()) return -1;
  const int socket = found->second;
  listeners().by_store.erase(found);
  return socket;
}

}  // namespace shoal::nccl
