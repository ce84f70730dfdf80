/// What lies in the header of each slice: the node's shared control memory.
/// Fixed sizes: every rank of a node computes the same addresses from (local rank, local ranks).
#pragma once

#include <atomic>
#include <cstdint>

#include "memory/arena.h"

namespace shoal::transport::shm {

inline constexpr int kMaxLocalRanks = 512;
inline constexpr int kCacheLine = 64;

/// Rings one rank's bell. Writers: any local rank; sleeper: its owner.
struct alignas(kCacheLine) Doorbell {
  std::atomic<std::uint32_t> rings{0};     // futex word
  std::atomic<std::uint32_t> sleepers{0};  // > 0: somebody sleeps on `rings`
};

}  // namespace shoal::transport::shm
