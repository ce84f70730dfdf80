/// Bruck's algorithms: ceil(log2 P) rounds for any P. Best for small blocks.
/// Source: Bruck, Ho, Kipnis, Upfal, Weathersby, IEEE TPDS 8(11), 1997.
#pragma once

#include "schedule/rounds.h"

namespace shoal::schedule {

/// Before round k rank r has blocks r, r + 1, ... r + 2^k - 1 (mod P). It sends them (or as many as
/// are still missing) to r - 2^k and receives as many from r + 2^k.
///
/// The blocks stand where they belong in the output from the start. A run that passes block P - 1
/// is two messages at once, where the paper works on a rotated copy and rotates it back at the end.
/// Cost: ceil(log2 P) rounds, N (P - 1)/P in all.
class BruckAllGather {
 public:
  explicit constexpr BruckAllGather(const Shape& shape) noexcept : s_(shape) {}

  constexpr int rounds() const noexcept { return doublings(s_.ranks); }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const Rank distance = 1 << k, blocks = std::min(distance, s_.ranks - distance);
    const Rank to = wrap(s_.rank - distance, s_.ranks), from = wrap(s_.rank + distance, s_.ranks);
    ring_pieces(from, blocks, s_.ranks, [&](int piece, Rank first, Rank n) {
      emit(Step::recv(from, blocks_of(Space::kOutput, s_.count, first, n), piece));
    });
    if (k == 0) {
      emit(Step::send(to, input(0, s_.count), 2));
      emit(Step::copy(blocks_of(Space::kOutput, s_.count, s_.rank), input(0, s_.count)));
    } else {
      ring_pieces(s_.rank, blocks, s_.ranks, [&](int piece, Rank first, Rank n) {
        emit(Step::send(to, blocks_of(Space::kOutput, s_.count, first, n), 2 + piece));
      });
    }
    emit(Step::wait_all());
  }

  static constexpr std::int64_t scratch(const Shape&) noexcept { return 0; }

 private:
  Shape s_;
};

/// A block for rank r + i (mod P) travels by the binary digits of i. All blocks are first laid out
/// by i; in phase k those whose i has bit k set move on by 2^k ranks. When all digits are done the
/// block at i is the one that rank r - i has sent.
///
/// The blocks with bit k set come in runs of 2^k; they are packed run by run, one run a round.
/// Cost: ceil(log2 P) messages of about N/2 each; scratch 2 N.
class BruckAllToAll {
 public:
  explicit constexpr BruckAllToAll(const Shape& shape) noexcept : s_(shape) {}

  /// One round to lay out, then the phases (pack, exchange, unpack), then one round a block.
  constexpr int rounds() const noexcept {
    int rounds = 1 + s_.ranks;
    for (int bit = 0; bit < doublings(s_.ranks); ++bit) rounds += phase_rounds(bit);
    return rounds;
  }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    if (k-- == 0) return lay_out(emit);
    for (int bit = 0; bit < doublings(s_.ranks); k -= phase_rounds(bit++)) {
      if (k < phase_rounds(bit)) return phase(bit, k, emit);
    }
    emit(Step::copy(blocks_of(Space::kOutput, s_.count, wrap(s_.rank - k, s_.ranks)), laid_out(k)));
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    return (shape.ranks + shape.ranks / 2 * 2) * shape.count;
  }

 private:
  template <class Emit>
  constexpr void lay_out(Emit&& emit) const noexcept {
    Rank place = 0;
    ring_pieces(s_.rank, s_.ranks, s_.ranks, [&](int, Rank first, Rank n) {
      emit(Step::copy(laid_out(place, n), blocks_of(Space::kInput, s_.count, first, n)));
      place += n;
    });
  }

  template <class Emit>
  constexpr void phase(int bit, int k, Emit&& emit) const noexcept {
    const int n = runs(bit), run = k % (n + 1);
    if (k == n) return move(bit, emit);
    const Ref in_place = laid_out(run_begin(bit, run), run_length(bit, run));
    const Rank packed = run << bit;
    if (k < n) {
      emit(Step::copy(sending(packed, run_length(bit, run)), in_place));
    } else {
      emit(Step::copy(in_place, receiving(packed, run_length(bit, run))));
    }
  }

  template <class Emit>
  constexpr void move(int bit, Emit&& emit) const noexcept {
    const Rank distance = 1 << bit, last = runs(bit) - 1;
    const Rank n = (last << bit) + run_length(bit, last);
    exchange(emit, wrap(s_.rank + distance, s_.ranks), sending(0, n),
             wrap(s_.rank - distance, s_.ranks), receiving(0, n));
  }

  /// Run j of a bit is the numbers i < P that have the bit set and j above it.
  constexpr int phase_rounds(int bit) const noexcept { return 2 * runs(bit) + 1; }
  constexpr int runs(int bit) const noexcept {
    return (s_.ranks - (1 << bit) + (2 << bit) - 1) >> (bit + 1);
  }
  constexpr Rank run_begin(int bit, int run) const noexcept { return (2 * run + 1) << bit; }
  constexpr Rank run_length(int bit, int run) const noexcept {
    return std::min(Rank{1} << bit, s_.ranks - run_begin(bit, run));
  }

  constexpr Ref laid_out(Rank first, Rank n = 1) const noexcept {
    return blocks_of(Space::kScratch, s_.count, first, n);
  }
  constexpr Ref sending(Rank first, Rank n) const noexcept {
    return blocks_of(Space::kScratch, s_.count, s_.ranks + first, n);
  }
  constexpr Ref receiving(Rank first, Rank n) const noexcept {
    return blocks_of(Space::kScratch, s_.count, s_.ranks + s_.ranks / 2 + first, n);
  }

  Shape s_;
};

}  // namespace shoal::schedule
