/// Ordered reductions over messages: the same bits however a message is split, whoever is late, and
/// in one node or many (they fold as the direct algorithms do).
#pragma once

#include "schedule/pairwise.h"

namespace shoal::schedule {

/// Every part (a slice of the block; for reduce_scatter a block) has an owner. The ranks send each
/// owner its part of their input, pairwise; the owner folds the P contributions in rank order with
/// one rounding. Then, for all_reduce, the owners exchange the results pairwise; for reduce, they
/// send them to the root. Cost: 2 (P - 1) exchanges of N/P (P - 1 for reduce_scatter), kWindow in
/// flight; scratch N. Source: the deterministic mode of shoal; pairwise exchange from Thakur et
/// al., IJHPCA 19(1), 2005.
class OrderedReduction {
 public:
  explicit constexpr OrderedReduction(const Shape& shape) noexcept
      : s_(shape), partners_{shape.rank, shape.ranks} {}

  constexpr int rounds() const noexcept { return collect_rounds() + 1 + spread_rounds(); }

  template <class Emit>
  constexpr void round(int t, Emit&& emit) const noexcept {
    if (t < collect_rounds()) return collect(t, emit);
    if (t == collect_rounds()) return fold(emit);
    spread(t - collect_rounds() - 1, emit);
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    return shape.ranks * OrderedReduction(shape).source(shape.rank).count;
  }

 private:
  constexpr int collect_rounds() const noexcept { return windowed_rounds(partners_.exchanges()); }
  constexpr int spread_rounds() const noexcept {
    return s_.collective == Collective::kReduceScatter ? 0 : collect_rounds();
  }

  template <class Emit>
  constexpr void collect(int t, Emit&& emit) const noexcept {
    windowed(
        t, partners_.exchanges(),
        [&](int k) {
          const Rank to = partners_.to(k), from = partners_.from(k);
          emit(Step::recv(from, contribution(from), recv_slot(k)));
          emit(Step::send(to, source(to), send_slot(k)));
          if (k == 0) emit(Step::copy(contribution(s_.rank), source(s_.rank)));
        },
        [&](int k) {
          emit(Step::wait(recv_slot(k)));
          emit(Step::wait(send_slot(k)));
        });
  }

  template <class Emit>
  constexpr void fold(Emit&& emit) const noexcept {
    emit(Step::fold(result(), contribution(0), s_.ranks, result().count, true));
  }

  /// The root (or, for all_reduce, everybody) has an output to be filled; the others only give.
  template <class Emit>
  constexpr void spread(int t, Emit&& emit) const noexcept {
    windowed(
        t, partners_.exchanges(),
        [&](int k) {
          const Rank to = partners_.to(k), from = partners_.from(k);
          if (has_output(s_.rank)) emit(Step::recv(from, slice_of_output(from), recv_slot(k)));
          if (has_output(to)) emit(Step::send(to, result(), send_slot(k)));
        },
        [&](int k) {
          if (has_output(s_.rank)) emit(Step::wait(recv_slot(k)));
          if (has_output(partners_.to(k))) emit(Step::wait(send_slot(k)));
        });
  }

  constexpr bool has_output(Rank rank) const noexcept {
    return s_.collective != Collective::kReduce || rank == s_.root;
  }
  constexpr Ref source(Rank part) const noexcept {
    if (s_.collective == Collective::kReduceScatter)
      return blocks_of(Space::kInput, s_.count, part);
    return parts_of(input(0, s_.count), {s_.count, s_.ranks}, part);
  }
  constexpr Ref slice_of_output(Rank part) const noexcept {
    return parts_of(output(0, s_.count), {s_.count, s_.ranks}, part);
  }
  constexpr Ref contribution(Rank of) const noexcept {
    return blocks_of(Space::kScratch, source(s_.rank).count, of);
  }
  /// Where the fold goes: for want of an output, onto the first contribution.
  constexpr Ref result() const noexcept {
    if (s_.collective == Collective::kReduceScatter) return output(0, s_.count);
    return has_output(s_.rank) ? slice_of_output(s_.rank) : contribution(0);
  }

  Shape s_;
  PairwisePartners partners_;
};

}  // namespace shoal::schedule
