/// Recursive doubling: fewest rounds, whole messages. Best for small ones.
/// Source: Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005, section 4.5.
#pragma once

#include "schedule/core_group.h"

namespace shoal::schedule {

/// In round k the ranks whose positions differ in bit k exchange all they have and both add it up:
/// after k rounds a rank has the sum of 2^k. All ranks add the same pairs, so all get the same
/// bits. Cost: log2 P rounds of N (two more if P is no power of two).
class RecursiveDoublingAllReduce {
 public:
  explicit constexpr RecursiveDoublingAllReduce(const Shape& shape) noexcept
      : s_(shape), core_(shape) {}

  constexpr int rounds() const noexcept { return core_.log2() + 2; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    if (k == 0) return core_.enter(emit);
    if (k == rounds() - 1) return core_.leave(emit);
    if (!core_.sits_out()) double_up(k - 1, emit);
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    return CoreGroup(shape).sits_out() ? 0 : shape.count;
  }

 private:
  template <class Emit>
  constexpr void double_up(int bit, Emit&& emit) const noexcept {
    const Ref sum = output(0, s_.count), theirs = schedule::scratch(0, s_.count);
    const Ref mine = bit == 0 ? core_.contribution() : sum;
    const Rank partner = core_.rank_at(core_.position() ^ (1 << bit));
    start_exchange(emit, partner, mine, partner, theirs);
    emit(Step::wait_all());
    emit(Step::combine(sum, mine, theirs, bit == core_.log2() - 1));
  }

  Shape s_;
  CoreGroup core_;
};

}  // namespace shoal::schedule
