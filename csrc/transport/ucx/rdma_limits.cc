#include "transport/ucx/rdma_limits.h"

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string_view>

namespace shoal::transport::ucx {
namespace {

namespace fs = std::filesystem;

constexpr int kCapIpcLock = 14;  // linux/capability.h: no limit of locked memory holds

/// The words after `name` on its line of `file`; "": there is no such line.
std::string line_of(const fs::path& file, std::string_view name) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name)) return line.substr(name.size());
  }
  return {};
}

/// The number at the beginning of a line that the kernel has written.
std::int64_t number(const std::string& text) { return std::strtoll(text.c_str(), nullptr, 10); }

std::string kib(std::int64_t bytes) { return std::to_string(bytes / 1024) + " KiB"; }

bool may_lock_any_memory(const fs::path& status) {
  const std::string capabilities = line_of(status, "CapEff:");
  return (std::strtoull(capabilities.c_str(), nullptr, 16) >> kCapIpcLock & 1) != 0;
}

/// What devices pin is held against the limit of locked memory, but counted on its own (VmPin).
std::string explain_locked_memory(const fs::path& process) {
  const std::string limit = line_of(process / "limits", "Max locked memory");
  if (limit.empty() || limit.find_first_not_of(' ') == limit.find("unlimited")) return {};
  if (may_lock_any_memory(process / "status")) return {};
  const std::int64_t pinned_kib = number(line_of(process / "status", "VmPin:"));
  return "this process may lock " + kib(number(limit)) + " of memory and has pinned " +
         kib(pinned_kib * 1024) +
         "; UCX pins some 64 MiB for a device's queues, and the pool's memory that "
         "it reads and writes: raise the limit (`ulimit -l unlimited`; LimitMEMLOCK=infinity for a "
         "service; --ulimit memlock=-1 for a container)";
}

/// "rxe0 hca_handle=2 hca_object=max": what has a number there.
std::string explain_cgroup(const fs::path& cgroup) {
  std::string text;
  std::ifstream limits(cgroup / "rdma.max");
  for (std::string line; std::getline(limits, line);) {
    std::istringstream words(line);
    std::string device, entry, finite;
    words >> device;
    while (words >> entry) {
      if (!entry.ends_with("=max")) finite += (finite.empty() ? "" : " ") + entry;
    }
    if (finite.empty()) continue;
    std::string used = line_of(cgroup / "rdma.current", device);
    used.resize(used.find_last_not_of(' ') + 1);
    text += (text.empty() ? "" : "; ") + (cgroup / "rdma.max").string() + " allows " + finite +
            " of " + device + ", in use now:" + used;
  }
  return text;
}

/// Those of the process's cgroup and of all above it. In both layouts: v2, and v1's own tree.
std::string explain_cgroups(const fs::path& root) {
  std::string text;
  std::ifstream memberships(root / "proc/self/cgroup");
  for (std::string line; std::getline(memberships, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && controllers != "rdma") continue;
    const fs::path top = root / "sys/fs/cgroup" / controllers;
    for (fs::path path = line.substr(second + 1);; path = path.parent_path()) {
      const std::string found = explain_cgroup(top / path.relative_path());
      if (!found.empty()) text += (text.empty() ? "" : "; ") + found;
      if (!path.has_relative_path()) break;
    }
  }
  if (text.empty()) return {};
  return text +
         "; a rank needs one hca_handle and some ten hca_object of each device, and one more "
         "object "
         "for each peer: write a higher number or max there, or ask your job scheduler for more";
}

}  // namespace

std::string explain_rdma_limits(const fs::path& root) {
  std::string text = explain_locked_memory(root / "proc/self");
  const std::string cgroups = explain_cgroups(root);
  if (!text.empty() && !cgroups.empty()) text += "; ";
  return text + cgroups;
}

}  // namespace shoal::transport::ucx
