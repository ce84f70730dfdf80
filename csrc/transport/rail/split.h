/// How a large message is cut into one part for each rail, so that all of them arrive at once: in
/// proportion to what each rail has carried a nanosecond, measured on the parts of earlier
/// messages.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "transport/rail/wire.h"

namespace shoal::transport::rail {

/// A smaller part is not worth a question and an answer of its own.
inline constexpr std::int64_t kMinPartBytes = 64 << 10;
/// Parts begin where pages do, as seen from the message's begin.
inline constexpr std::int64_t kPartAlignment = 4096;
/// Of a rail that seems to be ever so slow: what shows that it has become faster.
inline constexpr double kMinShare = 1.0 / 32;
/// Weight of the newest measurement: after four of them a rail's rate has changed for two thirds.
inline constexpr double kSmoothing = 0.25;

/// The half-open range of a message that a rail carries.
struct Range {
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
};
using Cut = std::array<Range, kMaxRails>;

/// One peer's, as seen by the receiver. One thread.
class Split {
 public:
  /// `nominal`: bytes a nanosecond that the rails promise, or 0 where they do not.
  explicit Split(std::span<const double> nominal) noexcept;

  /// A part has taken so long. Of a short one that says nothing.
  void note(int rail, std::int64_t bytes, std::int64_t ns) noexcept;
  /// Bytes a nanosecond.
  [[nodiscard]] double rate(int rail) const noexcept { return rates_[at(rail)]; }

  /// Of those in `live`: a bit each, at least one.
  [[nodiscard]] int fastest(std::uint32_t live) const noexcept;
  /// The ranges are disjoint and together the message; of a rail that is not in `live`, or
  /// gets nothing, empty.
  [[nodiscard]] Cut cut(std::int64_t bytes, std::uint32_t live) const noexcept;

 private:
  static constexpr std::size_t at(int rail) noexcept { return static_cast<std::size_t>(rail); }

  int rails_;
  std::array<double, kMaxRails> rates_{};
};

}  // namespace shoal::transport::rail
