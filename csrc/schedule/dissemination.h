/// Dissemination barrier.
/// Source: Hensgen, Finkel, Manber, IJPP 17(1), 1988.
#pragma once

#include "schedule/rounds.h"

namespace shoal::schedule {

/// In round k rank r signals r + 2^k and awaits the signal of r - 2^k (mod P): after k rounds it
/// has heard, directly or not, of the 2^k ranks to its left. A signal is a message without
/// elements. Cost: ceil(log2 P) rounds.
class DisseminationBarrier {
 public:
  static constexpr bool kSignals = true;

  explicit constexpr DisseminationBarrier(const Shape& shape) noexcept : s_(shape) {}

  constexpr int rounds() const noexcept { return doublings(s_.ranks); }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const Rank distance = 1 << k;
    exchange(emit, wrap(s_.rank + distance, s_.ranks), input(0, 0),
             wrap(s_.rank - distance, s_.ranks), output(0, 0));
  }

  static constexpr std::int64_t scratch(const Shape&) noexcept { return 0; }

 private:
  Shape s_;
};

}  // namespace shoal::schedule
