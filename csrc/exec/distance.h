/// How far the ranks that read a rank's lines are: whether they share a cache with it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/clock.h"
#include "reduce/reduce.h"
#include "transport/shm/layout.h"

namespace shoal::exec {

/// Lines that somebody has read are taken back from that rank's caches when they are written again.
/// Where they come from another last-level cache, a store past the caches, which asks for no line,
/// is 2 to 3 times as fast until the bytes are read; else half as fast. One thread.
class Distance {
 public:
  static constexpr std::int64_t kProbeBytes = 16 * transport::shm::kCacheLine;

  /// For `bytes` at `lines`, which will be written all; measured once every few calls, as a rank
  /// may move: the time that the first lines need to come. Few bytes are not worth it.
  [[nodiscard]] reduce::Stores stores_to(std::byte* lines, std::int64_t bytes) noexcept {
    if (bytes < kProbeBytes) return reduce::Stores::kCached;
    if (!assumed_ && calls_++ % kEvery == 0) measure(lines);
    return stores_;
  }
  /// From now on, instead of measuring: for tests.
  void assume(reduce::Stores stores) noexcept { stores_ = stores, assumed_ = true; }

 private:
  /// A line of 16 asked for at once (EPYC): 5 to 8 ns from a cache shared with who has read it, 20
  /// and more from another core complex.
  static constexpr std::int64_t kFarLineNs = 13;
  static constexpr unsigned kEvery = 8;

  void measure(std::byte* lines) noexcept {
    const std::int64_t start = now_ns();
    for (std::int64_t at = 0; at < kProbeBytes; at += transport::shm::kCacheLine) {
      *static_cast<volatile std::byte*>(lines + at) = std::byte{0};
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);  // the stores have their lines
    const std::int64_t limit = kProbeBytes / transport::shm::kCacheLine * kFarLineNs;
    stores_ = now_ns() - start > limit ? reduce::Stores::kStreaming : reduce::Stores::kCached;
  }

  reduce::Stores stores_ = reduce::Stores::kCached;
  unsigned calls_ = 0;
  bool assumed_ = false;
};

}  // namespace shoal::exec
