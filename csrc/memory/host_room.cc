#include "memory/host_room.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string_view>

namespace shoal::memory {
namespace {

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();
constexpr int kMaxCgroupDepth = 32;

/// A file that holds one number; "max" and a missing file are no limit.
std::int64_t read_number(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  return file >> value ? value : kNoLimit;
}

/// The number after `key` in a file of "key number" lines; 0 where there is none.
std::int64_t read_field(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  for (std::string name; file >> name; file.ignore(256, '\n')) {
    std::int64_t value = 0;
    if (name == key && file >> value) return value;
  }
  return 0;
}

/// Names of one version's files.
struct Hierarchy {
  const char* root;
  const char* limit;
  const char* usage;
  const char* reclaimable;  // key in memory.stat: page cache that goes before anything is killed
};
constexpr Hierarchy kV2{"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"};
constexpr Hierarchy kV1{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                        "total_inactive_file"};

void look_at_cgroup(const Hierarchy& files, const std::string& folder, HostRoom& room) {
  const std::int64_t limit = read_number(folder + "/" + files.limit);
  if (limit == kNoLimit) return;
  const std::int64_t usage = read_number(folder + "/" + files.usage);
  if (usage == kNoLimit) return;
  const std::int64_t cache = read_field(folder + "/memory.stat", files.reclaimable);
  const std::int64_t bytes = std::max<std::int64_t>(0, limit - usage + cache);
  if (bytes < room.bytes) room = {bytes, std::string(files.limit) + " of " + folder};
}

/// From the process's own cgroup up to the root: each level may set a limit. In a container the
/// path of /proc/self/cgroup may not exist; its root is then what the walk ends at.
void look_at_hierarchy(const Hierarchy& files, std::string path, HostRoom& room) {
  for (int depth = 0; depth < kMaxCgroupDepth; ++depth) {
    look_at_cgroup(files, files.root + path, room);
    const std::size_t slash = path.rfind('/');
    if (path.empty() || slash == std::string::npos) return;
    path.resize(slash);
  }
}

/// Lines are "id:controllers:path"; v2 has no controllers.
void look_at_cgroups(HostRoom& room) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers(1, ',');
    controllers.append(line, first + 1, second - first - 1).push_back(',');
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    if (controllers == ",,") look_at_hierarchy(kV2, path, room);
    if (controllers.find(",memory,") != std::string::npos) look_at_hierarchy(kV1, path, room);
  }
}

}  // namespace

HostRoom host_room() noexcept {
  HostRoom room{kNoLimit, "nothing known"};
  const std::int64_t available_kib = read_field("/proc/meminfo", "MemAvailable:");
  if (available_kib > 0) room = {available_kib * 1024, "MemAvailable of the node"};
  look_at_cgroups(room);
  return room;
}

}  // namespace shoal::memory
