/// How long probes stay off, so that what they cost stays below a bound. Pure.
#pragma once

#include <algorithm>
#include <cstdint>

namespace shoal::tracer {

constexpr uint64_t kHitNs = 500;         // one hit of a USDT probe on a 1-byte nop
constexpr uint64_t kCostPercent = 1;     // of one core
constexpr uint64_t kMostOffTimes = 999;  // at least 0.1 % of the time on

/// Probes were on for `on_ns` and were hit `hits` times in it; to put them on and take them off
/// again takes `switch_ns` of a core. Returns for how long they are to be off now; 0: they may
/// stay.
constexpr uint64_t time_off_ns(uint64_t on_ns, uint64_t hits, uint64_t switch_ns) {
  const uint64_t hits_ns = hits * kHitNs;
  if (hits_ns * 100 <= on_ns * kCostPercent) return 0;
  const uint64_t period_ns = (hits_ns + switch_ns) * 100 / kCostPercent;
  return std::clamp(period_ns, on_ns, on_ns * (kMostOffTimes + 1)) - on_ns;
}

}  // namespace shoal::tracer
