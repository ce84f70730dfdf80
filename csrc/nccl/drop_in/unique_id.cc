#include "nccl/drop_in/unique_id.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "shoal/error.h"

namespace shoal::nccl {

namespace {

constexpr char kMagic[] = "shoal-1";  // with its zero: 8 bytes
constexpr std::size_t kSecretBytes = 32;
constexpr std::size_t kJobBytes = 8;

/// As it lies in the 128 bytes.
struct Layout {
  char magic[8];
  unsigned char secret[kSecretBytes];
  unsigned char job[kJobBytes];
  char store[128 - 8 - kSecretBytes - kJobBytes];  // text, ended by zero
};
static_assert(sizeof(Layout) == sizeof(ncclUniqueId));

[[noreturn]] void fail(const std::string& what) {
  throw Error(ErrorCode::kSystem, "ncclGetUniqueId: " + what + ": " + std::strerror(errno));
}

std::string hex(const unsigned char* bytes, std::size_t count) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

std::string text_of(const sockaddr* address) {
  char text[INET_ADDRSTRLEN] = "";
  const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
  ::inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
  return text;
}

/// Whether NCCL_SOCKET_IFNAME names the interface: "eth0,ib" by how names begin, "=eth0" exactly,
/// "^docker" all but those.
bool is_wanted(const std::string& interface, std::string wanted) {
  if (wanted.empty()) return true;
  const bool all_but = wanted.front() == '^';
  if (all_but) wanted.erase(0, 1);
  const bool exactly = !wanted.empty() && wanted.front() == '=';
  if (exactly) wanted.erase(0, 1);
  bool found = false;
  for (std::size_t begin = 0; begin <= wanted.size();) {
    const std::size_t end = std::min(wanted.find(',', begin), wanted.size());
    const std::string name = wanted.substr(begin, end - begin);
    found |= exactly ? interface == name : !name.empty() && interface.starts_with(name);
    begin = end + 1;
  }
  return found != all_but;
}

/// The IPv4 address that other hosts may reach this one by: SHOAL_HOST; else of the first interface
/// that is up and that NCCL_SOCKET_IFNAME does not leave out; a loopback one only where there is no
/// other.
std::string own_address() {
  const char* given = std::getenv("SHOAL_HOST");
  if (given != nullptr && *given != '\0') return given;
  const char* wanted = std::getenv("NCCL_SOCKET_IFNAME");
  ifaddrs* interfaces = nullptr;
  if (::getifaddrs(&interfaces) != 0) fail("interfaces");
  std::string found = "127.0.0.1";
  for (const ifaddrs* i = interfaces; i != nullptr; i = i->ifa_next) {
    const bool usable = i->ifa_addr != nullptr && i->ifa_addr->sa_family == AF_INET &&
                        (i->ifa_flags & IFF_UP) != 0 && (i->ifa_flags & IFF_LOOPBACK) == 0;
    if (!usable || !is_wanted(i->ifa_name, wanted == nullptr ? "" : wanted)) continue;
    found = text_of(i->ifa_addr);
    break;
  }
  ::freeifaddrs(interfaces);
  return found;
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

/// A communicator's number is all that its users hand to ncclCommInitRank(), so what belongs to it
/// in this process is found by that.
struct Listeners {
  std::mutex mutex;
  std::map<std::string, int> by_job;  // mutex
};
Listeners& listeners() {
  static Listeners all;
  return all;
}

}  // namespace

ncclUniqueId make_unique_id() {
  Layout layout{};
  std::memcpy(layout.magic, kMagic, sizeof kMagic);
  if (::getrandom(layout.secret, sizeof layout.secret, 0) != kSecretBytes ||
      ::getrandom(layout.job, sizeof layout.job, 0) != kJobBytes) {
    fail("random bytes");
  }
  const Listening listening = listen_anywhere(own_address());
  std::memcpy(layout.store, listening.store.data(), listening.store.size());
  ncclUniqueId id;
  std::memcpy(&id, &layout, sizeof id);
  const std::lock_guard lock(listeners().mutex);
  listeners().by_job[read_unique_id(id).job] = listening.socket;
  return id;
}

bool is_unique_id(const ncclUniqueId& id) noexcept {
  return std::memcmp(id.internal, kMagic, sizeof kMagic) == 0;
}

MeetingPlace read_unique_id(const ncclUniqueId& id) {
  if (!is_unique_id(id)) {
    throw Error(ErrorCode::kInvalidArgument,
                "ncclCommInitRank: the unique id was not made by shoal's ncclGetUniqueId(): start "
                "all ranks with `shoal run --nccl`");
  }
  Layout layout{};
  std::memcpy(&layout, &id, sizeof layout);
  layout.store[sizeof layout.store - 1] = '\0';
  return {layout.store, "nccl-" + hex(layout.job, kJobBytes), hex(layout.secret, kSecretBytes)};
}

int take_listener(const MeetingPlace& place) noexcept {
  const std::lock_guard lock(listeners().mutex);
  const auto found = listeners().by_job.find(place.job);
  if (found == listeners().by_job.end()) return -1;
  const int socket = found->second;
  listeners().by_job.erase(found);
  return socket;
}

}  // namespace shoal::nccl
