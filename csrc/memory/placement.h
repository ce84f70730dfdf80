/// Which pages an arena gets: huge ones, and near the rank that owns them. Both are wishes: where
/// the system refuses them the same memory is slower, and `shoal info` says what to change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "shoal/export.h"

namespace shoal::memory {

enum class Access : std::uint8_t { kRead, kReadWrite };

/// Maps a file, shared, at an address where its slabs can be huge pages (the kernel itself aligns
/// so only under some settings). nullptr: errno.
std::byte* map_by_slab(int fd, std::int64_t bytes, Access access = Access::kReadWrite) noexcept;

/// Pages that the range is given from now on come from the NUMA node of the calling thread, also if
/// its process interleaves what it allocates (numactl), and whoever touches them first.
bool prefer_local_node(std::byte* begin, std::int64_t bytes) noexcept;

/// NUMA node whose memory holds the page, which has been touched; where the system does not say (as
/// in most containers), the node of the calling thread, which prefer_local_node() has asked for.
/// nullptr: that one. -1: unknown.
SHOAL_API int node_of_page(const void* page) noexcept;

/// Gives one huge page to each whole slab of a file's range; `begin` is where map_by_slab() has put
/// its `offset`. To be followed by fallocate(), which gives the range what it still lacks. Costs no
/// more than that alone and saves most page faults: 64 MiB take 7.5 ms and 4.7 ms at the first
/// touch, small pages 7.9 ms and 29 ms. False: not all of it.
bool commit_huge(int fd, std::byte* begin, std::int64_t offset, std::int64_t bytes) noexcept;

/// What a trial says that this machine grants.
struct Grant {
  bool granted = false;
  std::string advice;  ///< for `shoal info`: where refused, the setting to change
};
SHOAL_API Grant huge_pages() noexcept;
SHOAL_API Grant local_pages() noexcept;

}  // namespace shoal::memory
