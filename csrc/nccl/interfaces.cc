#include "nccl/interfaces.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "shoal/error.h"

namespace shoal::nccl {

namespace {

bool is_link_local(const sockaddr& address) noexcept {
  if (address.sa_family != AF_INET6) return false;
  return IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
}

}  // namespace

std::vector<Interface> interfaces() {
  ifaddrs* raw = nullptr;
  if (::getifaddrs(&raw) != 0) {
    throw Error(ErrorCode::kSystem, std::string("nccl: getifaddrs: ") + std::strerror(errno));
  }
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> list(raw, &::freeifaddrs);
  std::vector<Interface> found;
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* entry = list.get(); entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != family) continue;
      if ((entry->ifa_flags & IFF_UP) == 0 || is_link_local(*entry->ifa_addr)) continue;
      const auto known = [&](const Interface& one) { return one.name == entry->ifa_name; };
      if (std::ranges::any_of(found, known)) continue;
      const socklen_t length = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
      std::array<char, NI_MAXHOST> host{};
      ::getnameinfo(entry->ifa_addr, length, host.data(), host.size(), nullptr, 0, NI_NUMERICHOST);
      found.push_back({entry->ifa_name, host.data(), (entry->ifa_flags & IFF_LOOPBACK) != 0});
    }
  }
  return found;
}

bool is_wanted(std::string_view list, std::string_view name) noexcept {
  if (list.empty()) return true;
  const bool unwanted = list.front() == '^';
  if (unwanted) list.remove_prefix(1);
  const bool whole = !list.empty() && list.front() == '=';
  if (whole) list.remove_prefix(1);
  const std::string_view without_port = name.substr(0, name.find(':'));
  bool found = false;
  while (!list.empty()) {
    const std::string_view entry = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), entry.size() + 1));
    if (entry.empty()) continue;
    const bool same = entry == name || entry == without_port;
    found = found || same || (!whole && name.starts_with(entry));
  }
  return found != unwanted;
}

}  // namespace shoal::nccl
