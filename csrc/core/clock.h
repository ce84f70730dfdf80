#pragma once

#include <time.h>

#include <cstdint>

namespace shoal {

/// Monotonic time in nanoseconds, comparable between the processes of one node.
inline std::int64_t now_ns() noexcept {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

inline constexpr std::int64_t kNsPerMs = 1'000'000;

/// A point in time after which a wait ends. any thread, immutable.
class Deadline {
 public:
  static Deadline after_ms(std::int64_t ms) noexcept { return Deadline(now_ns() + ms * kNsPerMs); }
  static Deadline at_ns(std::int64_t ns) noexcept { return Deadline(ns); }

  [[nodiscard]] bool passed() const noexcept { return now_ns() >= at_ns_; }
  [[nodiscard]] std::int64_t remaining_ms() const noexcept {
    const std::int64_t left = at_ns_ - now_ns();
    return left <= 0 ? 0 : (left + kNsPerMs - 1) / kNsPerMs;
  }
  [[nodiscard]] std::int64_t at_ns() const noexcept { return at_ns_; }

 private:
  explicit Deadline(std::int64_t at_ns) noexcept : at_ns_(at_ns) {}
  std::int64_t at_ns_;
};

}  // namespace shoal
