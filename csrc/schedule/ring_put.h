/// The ring (ring.h) by puts: what a rank passes on is written straight to its place at the right
/// neighbour. A large message has to ask for its place first, once a round; here all of a rank's
/// places are offered at once, before the first round.
#pragma once

#include "schedule/rounds.h"

namespace shoal::schedule {

/// all_reduce: parts are reduced on their way to their owners, then gathered; reduce_scatter is the
/// first half of it, all_gather the second. In round t of all, what arrives from the left lands at
/// place t of the scratch and leaves from there to the right in the round after. No place is used
/// twice, so the offer is the only leave that a put needs.
/// Cost: P - 1 rounds of one part for each half, behind one message of latency; a place of scratch
/// for each, and a copy of what is gathered.
class RingPut {
 public:
  explicit constexpr RingPut(const Shape& shape) noexcept
      : s_(shape), slices_(shape.count, shape.ranks) {}

  constexpr int rounds() const noexcept {
    return reducing_rounds() + (gathers() ? s_.ranks - 1 : 0);
  }

  template <class Emit>
  constexpr void round(int t, Emit&& emit) const noexcept {
    const Rank arriving = arriving_at(t);
    const Ref place = place_of(t, arriving);
    if (t == 0) meet_neighbours(emit);
    emit(Step::wait(put_slot(t)));
    emit(Step::land(left(), place, kLandSlot));
    emit(Step::put(right(), place_of(t, leaving_at(t)), source(t), put_slot(t)));
    if (is_gathering(t)) keep(t - 1, emit);
    emit(Step::wait(kLandSlot));
    if (!is_gathering(t)) add(place, arriving, emit);
    if (t + 1 < rounds()) return;
    if (gathers()) keep(t, emit);
    emit(Step::wait_all());
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    const RingPut ring(shape);
    return ring.rounds() * ring.largest();
  }

 private:
  /// A put takes its slot until the round that needs it again.
  static constexpr int kLandSlot = 0, kOfferSlot = 1, kFirstPutSlot = 2;
  static constexpr int put_slot(int t) noexcept {
    return kFirstPutSlot + t % (kMaxSlots - kFirstPutSlot);
  }

  constexpr Rank right() const noexcept { return wrap(s_.rank + 1, s_.ranks); }
  constexpr Rank left() const noexcept { return wrap(s_.rank - 1, s_.ranks); }
  constexpr bool reduces() const noexcept { return s_.collective != Collective::kAllGather; }
  constexpr bool gathers() const noexcept { return s_.collective != Collective::kReduceScatter; }
  constexpr int reducing_rounds() const noexcept { return reduces() ? s_.ranks - 1 : 0; }
  constexpr bool is_gathering(int t) const noexcept { return gathers() && t >= reducing_rounds(); }

  template <class Emit>
  constexpr void meet_neighbours(Emit&& emit) const noexcept {
    emit(Step::offer(left(), kOfferSlot));
    emit(Step::accept(right(), kLandSlot));
    emit(Step::wait(kLandSlot));
  }

  /// This rank's contribution to what has arrived; the last one is its own part.
  template <class Emit>
  constexpr void add(const Ref& place, Rank part, Emit&& emit) const noexcept {
    if (part != s_.rank) return emit(Step::reduce(place, input_part(part)));
    const Ref target = gathers() ? output_part(part) : output(0, s_.count);
    emit(Step::combine(target, input_part(part), place, true));
  }

  /// Copies what arrived in round t, or is there from the start, to the output, while the network
  /// is at work on the next one.
  template <class Emit>
  constexpr void keep(int t, Emit&& emit) const noexcept {
    if (!is_gathering(t)) {
      if (!reduces()) emit(Step::copy(output_part(s_.rank), input(0, s_.count)));
      return;
    }
    // In place, what the first put sends lies where the first part is copied to.
    if (t == reducing_rounds() && reduces()) emit(Step::wait(put_slot(0)));
    const Rank part = arriving_at(t);
    emit(Step::copy(output_part(part), place_of(t, part)));
  }

  /// The part that the left neighbour puts in round t.
  constexpr Rank arriving_at(int t) const noexcept { return wrap(leaving_at(t) - 1, s_.ranks); }
  constexpr Rank leaving_at(int t) const noexcept {
    if (!is_gathering(t)) return wrap(s_.rank - t - 1, s_.ranks);
    return wrap(s_.rank - (t - reducing_rounds()), s_.ranks);
  }
  constexpr Ref source(int t) const noexcept {
    const Rank part = leaving_at(t);
    if (t == 0) return reduces() ? input_part(part) : input(0, s_.count);
    return t == reducing_rounds() ? output_part(part) : place_of(t - 1, part);
  }

  /// A part is a block, or a slice of the only block (all_reduce).
  constexpr bool has_slices() const noexcept { return s_.collective == Collective::kAllReduce; }
  constexpr std::int64_t largest() const noexcept {
    return has_slices() ? slices_.largest() : s_.count;
  }
  constexpr Ref part_of(Space space, Rank part) const noexcept {
    if (!has_slices()) return blocks_of(space, s_.count, part);
    return parts_of({space, kSelf, 0, s_.count}, slices_, part);
  }
  constexpr Ref input_part(Rank part) const noexcept { return part_of(Space::kInput, part); }
  constexpr Ref output_part(Rank part) const noexcept { return part_of(Space::kOutput, part); }
  constexpr Ref place_of(int t, Rank part) const noexcept {
    return schedule::scratch(t * largest(), input_part(part).count);
  }

  Shape s_;
  Partition slices_;
};

}  // namespace shoal::schedule
