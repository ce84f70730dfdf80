/// Ring algorithms: every rank sends to its right neighbour only, so every link carries the same
/// and no message ever waits behind another. Best for large messages on few ranks. Source:
/// Patarasuk, Yuan, J. Parallel Distrib. Comput. 69(2), 2009.
#pragma once

#include "schedule/rounds.h"

namespace shoal::schedule {

/// Rank r is to own part r. In round k it sends the partial sum of part r - k - 1 to the right,
/// receives that of part r - k - 2 from the left, and adds its own contribution to it; after P - 1
/// rounds the part that arrives is its own and every other rank has added to it.
///
/// The partial sums travel through two alternating scratch parts and the input is only read: no
/// copy is made of it, and in place it is still whole when the last part has been summed.
/// Cost: P - 1 rounds of N/P.
class RingReduceScatter {
 public:
  explicit constexpr RingReduceScatter(const Shape& shape) noexcept
      : s_(shape), slices_(shape.count, shape.ranks), largest_(source(0).count) {}

  constexpr int rounds() const noexcept { return s_.ranks - 1; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const Rank sent = wrap(s_.rank - k - 1, s_.ranks), received = wrap(s_.rank - k - 2, s_.ranks);
    const Ref from_left = travelling(k, source(received).count);
    exchange(emit, right(), k == 0 ? source(sent) : travelling(k - 1, source(sent).count), left(),
             from_left);
    if (received != s_.rank) return emit(Step::reduce(from_left, source(received)));
    emit(Step::combine(target(), source(received), from_left, true));
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    return std::min<std::int64_t>(2, shape.ranks - 1) * RingReduceScatter(shape).largest_;
  }

 private:
  constexpr Rank right() const noexcept { return wrap(s_.rank + 1, s_.ranks); }
  constexpr Rank left() const noexcept { return wrap(s_.rank - 1, s_.ranks); }
  constexpr bool is_blocks() const noexcept { return s_.collective == Collective::kReduceScatter; }

  /// A part is a block of the input (reduce_scatter) or a slice of the only block (all_reduce).
  constexpr Ref source(Rank part) const noexcept {
    if (is_blocks()) return blocks_of(Space::kInput, s_.count, part);
    return parts_of(input(0, s_.count), slices_, part);
  }
  constexpr Ref target() const noexcept {
    if (is_blocks()) return output(0, s_.count);
    return parts_of(output(0, s_.count), slices_, s_.rank);
  }
  constexpr Ref travelling(int k, std::int64_t count) const noexcept {
    return schedule::scratch((k & 1) * largest_, count);
  }

  Shape s_;
  Partition slices_;
  std::int64_t largest_;  ///< elements of a part
};

/// In round k rank r passes part r - k, which it has got in the round before, to the right, and
/// receives part r - k - 1 from the left.
/// Cost: P - 1 rounds of one part each.
class RingAllGather {
 public:
  explicit constexpr RingAllGather(const Shape& shape) noexcept
      : s_(shape), slices_(shape.count, shape.ranks) {}

  constexpr int rounds() const noexcept { return s_.ranks - 1; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const Rank sent = wrap(s_.rank - k, s_.ranks), received = wrap(s_.rank - k - 1, s_.ranks);
    const bool from_input = k == 0 && is_blocks();
    start_exchange(emit, wrap(s_.rank + 1, s_.ranks), from_input ? input(0, s_.count) : part(sent),
                   wrap(s_.rank - 1, s_.ranks), part(received));
    if (from_input) emit(Step::copy(part(s_.rank), input(0, s_.count)));
    emit(Step::wait_all());
  }

  static constexpr std::int64_t scratch(const Shape&) noexcept { return 0; }

 private:
  constexpr bool is_blocks() const noexcept { return s_.collective == Collective::kAllGather; }
  constexpr Ref part(Rank r) const noexcept {
    if (is_blocks()) return blocks_of(Space::kOutput, s_.count, r);
    return parts_of(output(0, s_.count), slices_, r);
  }

  Shape s_;
  Partition slices_;
};

/// Reduces each slice at its owner, then gathers the slices.
/// Cost: 2 (P - 1) rounds of N/P: the least bytes any algorithm can move.
class RingAllReduce {
 public:
  explicit constexpr RingAllReduce(const Shape& shape) noexcept : reduce_(shape), gather_(shape) {}

  constexpr int rounds() const noexcept { return reduce_.rounds() + gather_.rounds(); }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    if (k < reduce_.rounds()) return reduce_.round(k, emit);
    gather_.round(k - reduce_.rounds(), emit);
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    return RingReduceScatter::scratch(shape);
  }

 private:
  RingReduceScatter reduce_;
  RingAllGather gather_;
};

}  // namespace shoal::schedule
