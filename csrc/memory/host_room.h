/// How much memory this machine still gives to this process, and what sets the limit.
#pragma once

#include <cstdint>
#include <string>

namespace shoal::memory {

struct HostRoom {
  std::int64_t bytes = 0;  ///< may be taken before something gets killed; an estimate
  std::string limit;       ///< what sets it: "MemAvailable of the node", "memory.max of /sys/..."
};

/// The smallest of MemAvailable and the free part of every memory cgroup (v2 or v1) above this
/// process. Reads a few files, about 0.1 ms: for set-up and growth, not for the data path.
HostRoom host_room() noexcept;

}  // namespace shoal::memory
