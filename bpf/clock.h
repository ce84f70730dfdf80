#pragma once

#include <time.h>

#include <cstdint>

namespace shoal::tracer {

inline uint64_t read_clock(clockid_t clock) noexcept {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

/// The clock of bpf_ktime_get_ns.
inline uint64_t now_ns() noexcept { return read_clock(CLOCK_MONOTONIC); }

}  // namespace shoal::tracer
