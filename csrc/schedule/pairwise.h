/// Pairwise exchange: every rank talks to every other one directly, each time to another partner,
/// so that nobody is everybody's partner at once. Fewest bytes; best for large blocks.
/// Source: Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005, sections 4.3 and 4.4.
#pragma once

#include "schedule/rounds.h"

namespace shoal::schedule {

/// In exchange k rank r sends to r + k + 1 and receives from r - k - 1 (mod P).
struct PairwisePartners {
  Rank rank, ranks;
  constexpr int exchanges() const noexcept { return ranks - 1; }
  constexpr Rank to(int k) const noexcept { return wrap(rank + k + 1, ranks); }
  constexpr Rank from(int k) const noexcept { return wrap(rank - k - 1, ranks); }
};

/// Cost: P - 1 exchanges of one block, kWindow in flight.
class PairwiseAllToAll {
 public:
  explicit constexpr PairwiseAllToAll(const Shape& shape) noexcept
      : s_(shape), partners_{shape.rank, shape.ranks} {}

  constexpr int rounds() const noexcept { return windowed_rounds(partners_.exchanges()); }

  template <class Emit>
  constexpr void round(int t, Emit&& emit) const noexcept {
    windowed(
        t, partners_.exchanges(),
        [&](int k) {
          const Rank to = partners_.to(k), from = partners_.from(k);
          emit(Step::recv(from, blocks_of(Space::kOutput, s_.count, from), recv_slot(k)));
          emit(Step::send(to, blocks_of(Space::kInput, s_.count, to), send_slot(k)));
          if (k == 0) keep_own(emit);
        },
        [&](int k) {
          emit(Step::wait(recv_slot(k)));
          emit(Step::wait(send_slot(k)));
        });
  }

  static constexpr std::int64_t scratch(const Shape&) noexcept { return 0; }

 private:
  template <class Emit>
  constexpr void keep_own(Emit&& emit) const noexcept {
    emit(Step::copy(blocks_of(Space::kOutput, s_.count, s_.rank),
                    blocks_of(Space::kInput, s_.count, s_.rank)));
  }

  Shape s_;
  PairwisePartners partners_;
};

/// Every rank receives its own block from each other rank and adds it up as it comes.
/// Cost: P - 1 exchanges of N/P, kWindow in flight; scratch kWindow blocks.
class PairwiseReduceScatter {
 public:
  explicit constexpr PairwiseReduceScatter(const Shape& shape) noexcept
      : s_(shape), partners_{shape.rank, shape.ranks} {}

  constexpr int rounds() const noexcept { return windowed_rounds(partners_.exchanges()); }

  template <class Emit>
  constexpr void round(int t, Emit&& emit) const noexcept {
    const Ref sum = output(0, s_.count);
    windowed(
        t, partners_.exchanges(),
        [&](int k) {
          const Rank to = partners_.to(k);
          emit(Step::recv(partners_.from(k), arriving(k), recv_slot(k)));
          emit(Step::send(to, blocks_of(Space::kInput, s_.count, to), send_slot(k)));
        },
        [&](int k) {
          emit(Step::wait(recv_slot(k)));
          const Ref so_far = k == 0 ? blocks_of(Space::kInput, s_.count, s_.rank) : sum;
          emit(Step::combine(sum, so_far, arriving(k), k == partners_.exchanges() - 1));
          emit(Step::wait(send_slot(k)));
        });
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    return std::min<std::int64_t>(kWindow, shape.ranks - 1) * shape.count;
  }

 private:
  constexpr Ref arriving(int k) const noexcept {
    return blocks_of(Space::kScratch, s_.count, recv_slot(k));
  }

  Shape s_;
  PairwisePartners partners_;
};

}  // namespace shoal::schedule
