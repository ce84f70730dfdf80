/// Hierarchical algorithms for buffers that are private to their ranks: staged in the node,
/// composed with the same messages over the network as in hierarchical.h, so that a node whose
/// ranks have private memory works with one whose ranks have not.
///
/// The part in the node is Staged, made for the ranks of the node; `InNode` maps its steps to those
/// of the whole. Source: shoal.
#pragma once

#include "schedule/hierarchical.h"
#include "schedule/staged.h"

namespace shoal::schedule {

/// Where the spaces of the part in the node lie: a region of this rank each.
struct InNode {
  Shape whole;
  Ref input{}, output{};
  std::int64_t scratch_offset = 0;
  bool finishes = true;  ///< its folds are complete

  constexpr Shape shape(Collective collective, std::int64_t count, Rank root = 0) const noexcept {
    return {.collective = collective,
            .rank = whole.local_rank(),
            .ranks = whole.node_ranks,
            .root = root,
            .node_ranks = whole.node_ranks,
            .count = count,
            .tile = whole.tile,
            .places = whole.places};
  }

  template <class Emit>
  constexpr void round(const Staged& staged, int k, Emit&& emit) const noexcept {
    staged.round(k, [&](Step step) {
      if (step.kind == StepKind::kAwait) step.peer = of_whole(step.peer);
      step.dst = place(step.dst), step.src = place(step.src);
      if (step.own_input) step.stride += input.offset;
      step.finish = step.finish && finishes;
      emit(step);
    });
  }

 private:
  constexpr Rank of_whole(Rank rank) const noexcept {
    return rank < 0 ? rank : whole.node() * whole.node_ranks + rank;
  }
  constexpr Ref place(const Ref& ref) const noexcept {
    const Ref& region = ref.space == Space::kInput ? input : output;
    if (ref.space == Space::kScratch)
      return ref.slice(scratch_offset, ref.count).of(of_whole(ref.rank));
    return {region.space, of_whole(ref.rank), region.offset + ref.offset, ref.count};
  }
};

/// Every rank puts the slices of its neighbours and folds its own from what they put; reduces it
/// over the network; puts the result, and takes its neighbours'. Tile by tile, in the node.
/// In place is safe: of a slice that is written others have taken what they read of it.
/// Cost: 2 flag rounds a tile and 3, 2 copies of N, and the network algorithm on N/L.
class HierarchicalStagedAllReduce {
 public:
  explicit constexpr HierarchicalStagedAllReduce(const Shape& shape) noexcept
      : s_(shape), net_{shape, slice(s_.local_rank()), slice(s_.local_rank()), staged_count()} {}

  constexpr int rounds() const noexcept { return 1 + 2 * passes() + network_rounds(); }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const int network = k - 1 - passes();
    if (k == 0) return meet_node(emit);
    if (network < 0) return fold_node(k - 1, emit);
    if (network >= network_rounds()) return gather_node(network - network_rounds(), emit);
    with_network_all_reduce(net_.shape(),
                            [&](const auto& algorithm) { net_.round(algorithm, network, emit); });
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    const HierarchicalStagedAllReduce whole(shape);
    const Shape network = whole.net_.shape();
    return whole.staged_count() +
           with_network_all_reduce(network, [&]<class Algorithm>(const Algorithm&) {
             return Algorithm::scratch(network);
           });
  }

 private:
  constexpr Partition slices() const noexcept { return {s_.count, s_.node_ranks}; }
  constexpr Ref slice(Rank local) const noexcept {
    return parts_of(output(0, s_.count), slices(), local);
  }
  /// Elements of one slice in a tile.
  constexpr std::int64_t part_count() const noexcept {
    return std::max<std::int64_t>(1, std::min(slices().largest(), s_.tile / s_.node_ranks));
  }
  constexpr int tiles() const noexcept {
    return static_cast<int>((slices().largest() + part_count() - 1) / part_count());
  }
  /// Flag rounds on either side of the network: one more than tiles.
  constexpr int passes() const noexcept { return tiles() + 1; }
  constexpr std::int64_t place_count() const noexcept { return part_count() * s_.node_ranks; }
  constexpr std::int64_t staged_count() const noexcept {
    return std::min<std::int64_t>(s_.places, tiles()) * place_count();
  }
  constexpr int network_rounds() const noexcept {
    return with_network_all_reduce(net_.shape(),
                                   [](const auto& algorithm) { return algorithm.rounds(); });
  }
  constexpr bool has(int tile) const noexcept { return 0 <= tile && tile < tiles(); }

  /// What tile `tile` has of the slice of `local`; may be nothing, where slices are uneven.
  constexpr Ref part(int tile, Rank local) const noexcept {
    const Ref whole = slice(local);
    const std::int64_t begin = std::min(whole.count, tile * part_count());
    return whole.slice(begin, std::min(part_count(), whole.count - begin));
  }
  constexpr Ref staged(int tile, Rank slice_of, std::int64_t count) const noexcept {
    return schedule::scratch(tile % s_.places * place_count() + slice_of * part_count(), count);
  }
  constexpr Rank at(Rank local) const noexcept { return s_.node() * s_.node_ranks + local; }

  template <class Emit>
  constexpr void fold_node(int t, Emit&& emit) const noexcept {
    const Rank me = s_.local_rank();
    if (has(t - 1)) {
      const Ref mine = part(t - 1, me);
      Step fold =
          Step::fold_staged(mine, staged(t - 1, me, mine.count), s_.node_ranks, mine.offset);
      fold.finish = false;
      emit(fold);
    }
    for (Rank i = 1; i < s_.node_ranks && has(t); ++i) {
      const Rank local = wrap(me + i, s_.node_ranks);
      const Ref theirs = part(t, local);
      emit(Step::copy(staged(t, local, theirs.count), input(theirs.offset, theirs.count)));
    }
    meet_node(emit);
  }

  template <class Emit>
  constexpr void gather_node(int t, Emit&& emit) const noexcept {
    const Rank me = s_.local_rank();
    for (Rank i = 1; i < s_.node_ranks && has(t - 1); ++i) {
      const Rank local = wrap(me + i, s_.node_ranks);
      const Ref theirs = part(t - 1, local);
      emit(Step::copy(theirs, staged(t - 1, local, theirs.count).of(at(local))));
    }
    if (has(t)) emit(Step::copy(staged(t, me, part(t, me).count), part(t, me)));
    meet_node(emit);
  }

  Shape s_;
  Network net_;
};

/// The leaders (hierarchical.h) broadcast over the network, then each to its node.
/// Cost: a flag round a tile and 2, a binomial broadcast of N over the nodes, N in and out.
class HierarchicalStagedBroadcast {
 public:
  explicit constexpr HierarchicalStagedBroadcast(const Shape& shape) noexcept
      : s_(shape), tree_(net().shape()) {}

  constexpr int rounds() const noexcept { return 1 + tree_.rounds() + staged().rounds(); }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const bool is_leader = s_.local_rank() == s_.root % s_.node_ranks;
    if (k == 0) return meet_node(emit);
    if (k > tree_.rounds()) return in_node().round(staged(), k - 1 - tree_.rounds(), emit);
    if (is_leader) net().round(tree_, k - 1, emit);
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    return Staged::scratch(HierarchicalStagedBroadcast(shape).node_shape());
  }

 private:
  constexpr Network net() const noexcept { return {s_, input(0, s_.count), output(0, s_.count)}; }
  /// From the leader's output.
  constexpr InNode in_node() const noexcept {
    return {s_, output(0, s_.count), output(0, s_.count)};
  }
  constexpr Shape node_shape() const noexcept {
    return in_node().shape(Collective::kBroadcast, s_.count, s_.root % s_.node_ranks);
  }
  constexpr Staged staged() const noexcept { return Staged(node_shape()); }

  Shape s_;
  BinomialBroadcast tree_;
};

/// Rank i of a node gathers, over the network, the blocks of the ranks that have position i in
/// their nodes; then the node gathers those of each node in turn.
/// Cost: M - 1 rounds of one block over M nodes, a flag round a tile, and N/L in and N out.
class HierarchicalStagedAllGather {
 public:
  explicit constexpr HierarchicalStagedAllGather(const Shape& shape) noexcept
      : s_(shape), gathered_(shape) {}

  constexpr int rounds() const noexcept {
    return 1 + gathered_.network_rounds() + s_.nodes() * passes();
  }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const int pass = k - 1 - gathered_.network_rounds();
    if (k == 0) return meet_node(emit);
    if (pass < 0) return gathered_.gather(k - 1, emit);
    const Rank first = pass / passes() * s_.node_ranks;
    const auto blocks = [&](Rank from, Rank n) {
      return blocks_of(Space::kOutput, s_.count, from, n);
    };
    const InNode node{s_, blocks(first + s_.local_rank(), 1), blocks(first, s_.node_ranks)};
    node.round(staged(), pass % passes(), emit);
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    return Staged::scratch(in_node(shape));
  }

 private:
  static constexpr Shape in_node(const Shape& shape) noexcept {
    return InNode{shape}.shape(Collective::kAllGather, shape.count);
  }
  constexpr Staged staged() const noexcept { return Staged(in_node(s_)); }
  /// Rounds for the blocks of one node.
  constexpr int passes() const noexcept { return staged().rounds(); }

  Shape s_;
  HierarchicalAllGather gathered_;
};

/// Rank i of a node folds the node's contributions to the blocks of all ranks that have position i
/// in their nodes, node by node, into scratch; these are reduced and scattered over the network.
/// Cost: a flag round a tile, N in, a fold of N/L, M - 1 exchanges of one block over M nodes.
class HierarchicalStagedReduceScatter {
 public:
  explicit constexpr HierarchicalStagedReduceScatter(const Shape& shape) noexcept
      : s_(shape), exchange_(net().shape()) {}

  constexpr int rounds() const noexcept { return 1 + s_.nodes() * passes() + exchange_.rounds(); }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const int pass = k - 1;
    if (k == 0) return meet_node(emit);
    if (pass >= s_.nodes() * passes()) {
      return net().round(exchange_, pass - s_.nodes() * passes(), emit);
    }
    const Rank n = pass / passes();
    const InNode node{s_, blocks_of(Space::kInput, s_.count, n * s_.node_ranks, s_.node_ranks),
                      partials().slice(n * s_.count, s_.count), network_count(), false};
    node.round(staged(), pass % passes(), emit);
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    const HierarchicalStagedReduceScatter whole(shape);
    return whole.network_count() + Staged::scratch(whole.node_shape());
  }

 private:
  constexpr Ref partials() const noexcept { return schedule::scratch(0, s_.nodes() * s_.count); }
  constexpr Network net() const noexcept {
    return {s_, partials(), output(0, s_.count), partials().count};
  }
  /// Scratch of everything but the part in the node, which lies behind it.
  constexpr std::int64_t network_count() const noexcept {
    return partials().count + PairwiseReduceScatter::scratch(net().shape());
  }
  constexpr Shape node_shape() const noexcept {
    return InNode{s_}.shape(Collective::kReduceScatter, s_.count);
  }
  constexpr Staged staged() const noexcept { return Staged(node_shape()); }
  /// Rounds for the blocks of one node.
  constexpr int passes() const noexcept { return staged().rounds(); }

  Shape s_;
  PairwiseReduceScatter exchange_;
};

}  // namespace shoal::schedule
