/// Rabenseifner's all_reduce: the bytes of a ring in the rounds of a tree.
/// Source: Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005, section 4.5.
#pragma once

#include "schedule/core_group.h"

namespace shoal::schedule {

/// Recursive halving, then recursive doubling. The block is cut into as many slices as the core
/// group has positions. A rank begins with all slices; in each halving round it keeps the half that
/// its own slice lies in, gives the other half to the partner across the cut, and adds what the
/// partner gives of its half. It ends with its own slice, complete. The doubling rounds go the same
/// way back: partners exchange all the complete slices they have.
///
/// Contributions that are still in the input are sent and combined from there. Cost: 2 log2 P
/// rounds, 2 N (P - 1)/P in all (2 N more if P is no power of two).
class RabenseifnerAllReduce {
 public:
  explicit constexpr RabenseifnerAllReduce(const Shape& shape) noexcept
      : s_(shape), core_(shape), slices_{shape.count, core_.size()} {}

  constexpr int rounds() const noexcept { return 2 * core_.log2() + 2; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const int halvings = core_.log2();
    if (k == 0) return core_.enter(emit);
    if (k == rounds() - 1) return core_.leave(emit);
    if (core_.sits_out()) return;
    if (k <= halvings) return halve(k, emit);
    double_up(k - halvings - 1, emit);
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    const CoreGroup core(shape);
    if (core.sits_out()) return 0;
    return core.absorbs() ? shape.count
                          : Partition{shape.count, core.size()}.begin(core.size() / 2);
  }

 private:
  /// The `n` slices (a power of two) among which position p's own lies, in `whole`.
  constexpr Ref around(const Ref& whole, Rank p, Rank n) const noexcept {
    return parts_of(whole, slices_, p & ~(n - 1), n);
  }

  template <class Emit>
  constexpr void halve(int k, Emit&& emit) const noexcept {
    const Rank half = core_.size() >> k, across = core_.position() ^ half;
    const Ref mine = k == 1 ? core_.contribution() : output(0, s_.count);
    const Ref kept = around(output(0, s_.count), core_.position(), half);
    const Ref theirs = schedule::scratch(0, kept.count);
    const Rank partner = core_.rank_at(across);
    start_exchange(emit, partner, around(mine, across, half), partner, theirs);
    emit(Step::wait_all());
    emit(Step::combine(kept, around(mine, core_.position(), half), theirs, half == 1));
  }

  template <class Emit>
  constexpr void double_up(int k, Emit&& emit) const noexcept {
    const Rank have = 1 << k, across = core_.position() ^ have;
    const Ref all = output(0, s_.count);
    const Rank partner = core_.rank_at(across);
    exchange(emit, partner, around(all, core_.position(), have), partner,
             around(all, across, have));
  }

  Shape s_;
  CoreGroup core_;
  Partition slices_;
};

}  // namespace shoal::schedule
