/// Makes a power of two of any number of ranks, for the algorithms that need one.
///
/// With C the largest power of two <= P and E = P - C ranks too many, the first 2 E ranks pair up:
/// the even one of a pair hands its input to the odd one, sits out, and gets the result at the end.
/// The odd ones and the ranks from 2 E on are the core group, numbered 0..C-1.
/// Cost: two more messages of N for P that are no power of two.
/// Source: Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005, section 4.5.
#pragma once

#include "schedule/rounds.h"

namespace shoal::schedule {

class CoreGroup {
 public:
  explicit constexpr CoreGroup(const Shape& shape) noexcept : s_(shape) {}

  constexpr Rank size() const noexcept {
    return static_cast<Rank>(std::bit_floor(static_cast<std::uint32_t>(s_.ranks)));
  }
  constexpr int log2() const noexcept {
    return std::bit_width(static_cast<std::uint32_t>(size())) - 1;
  }
  constexpr bool sits_out() const noexcept { return s_.rank < 2 * extra() && s_.rank % 2 == 0; }
  constexpr bool absorbs() const noexcept { return s_.rank < 2 * extra() && s_.rank % 2 == 1; }

  /// Position of this rank in the core group, if it does not sit out.
  constexpr Rank position() const noexcept {
    return s_.rank < 2 * extra() ? s_.rank / 2 : s_.rank - extra();
  }
  constexpr Rank rank_at(Rank position) const noexcept {
    return position < extra() ? 2 * position + 1 : position + extra();
  }

  /// Where a rank's contribution stands when the core group begins: those that have absorbed
  /// another's have it in the output, the others still in the input.
  constexpr Ref contribution() const noexcept {
    return absorbs() ? output(0, s_.count) : input(0, s_.count);
  }

  template <class Emit>
  constexpr void enter(Emit&& emit) const noexcept {
    if (sits_out()) {
      emit(Step::send(s_.rank + 1, input(0, s_.count), 1));
      emit(Step::wait_all());
    } else if (absorbs()) {
      emit(Step::recv(s_.rank - 1, scratch(0, s_.count), 0));
      emit(Step::wait_all());
      emit(Step::combine(output(0, s_.count), input(0, s_.count), scratch(0, s_.count)));
    }
  }

  template <class Emit>
  constexpr void leave(Emit&& emit) const noexcept {
    if (sits_out()) emit(Step::recv(s_.rank + 1, output(0, s_.count), 0));
    if (absorbs()) emit(Step::send(s_.rank - 1, output(0, s_.count), 1));
    if (sits_out() || absorbs()) emit(Step::wait_all());
  }

 private:
  constexpr Rank extra() const noexcept { return s_.ranks - size(); }

  Shape s_;
};

}  // namespace shoal::schedule
