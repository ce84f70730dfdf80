/// Hierarchical algorithms: direct in the node, composed with a message algorithm over the network.
///
/// The network part is the algorithm's own class, made for the nodes as ranks; ranks and spaces of
/// its steps are then mapped to those of the whole (`Network`). It runs among the ranks that have
/// the same position in their nodes. Every rank of a node posts as often as any other. Source:
/// shoal; Träff, Hunold, "Decomposing MPI collectives for exploiting multi-lane communication",
/// CLUSTER 2020.
#pragma once

#include "schedule/binomial.h"
#include "schedule/dissemination.h"
#include "schedule/pairwise.h"
#include "schedule/rabenseifner.h"
#include "schedule/recursive_doubling.h"
#include "schedule/ring.h"

namespace shoal::schedule {

/// Where the network part's spaces lie: a region of this rank each.
struct Network {
  Shape whole;
  Ref input{}, output{};
  std::int64_t scratch_offset = 0;

  constexpr Shape shape() const noexcept {
    return {.collective = whole.collective,
            .rank = whole.node(),
            .ranks = whole.nodes(),
            .root = whole.root / whole.node_ranks,
            .node_ranks = 1,
            .count = output.count};
  }

  /// Emits round k of an algorithm made for shape(), in terms of the whole.
  template <class Algorithm, class Emit>
  constexpr void round(const Algorithm& algorithm, int k, Emit&& emit) const noexcept {
    algorithm.round(k, [&](Step step) {
      step.peer = step.peer * whole.node_ranks + whole.local_rank();
      step.dst = place(step.dst), step.src = place(step.src);
      if (step.kind == StepKind::kCombine) step.stride += scratch_offset;
      emit(step);
    });
  }

 private:
  constexpr Ref place(const Ref& ref) const noexcept {
    switch (ref.space) {
      case Space::kInput:
        return input.slice(ref.offset, ref.count);
      case Space::kOutput:
        return output.slice(ref.offset, ref.count);
      case Space::kScratch:
        break;
    }
    return ref.slice(scratch_offset, ref.count);
  }
};

/// Every rank of the node has come this far. The first such round opens the node's buffers to one
/// another, the last one closes them.
template <class Emit>
constexpr void meet_node(Emit&& emit) noexcept {
  emit(Step::post());
  emit(Step::await(kEvery));
}

/// Up to so many elements a slice rounds are dearer than bytes.
inline constexpr std::int64_t kSmallSlice = 2048;
/// Between two nodes, where a round less costs no more bytes.
inline constexpr std::int64_t kPairSlice = 64 << 10;
/// Up to so many nodes the 2 (P - 1) rounds of a ring cost less than uneven steps of other
/// algorithms.
inline constexpr Rank kFewNodes = 8;

/// Calls use(algorithm) with the all_reduce for this many elements over this many nodes: a choice
/// from agreed values only, for all ranks must make the same.
template <class Use>
constexpr auto with_network_all_reduce(const Shape& network, Use&& use) noexcept {
  const std::int64_t small = network.ranks == 2 ? kPairSlice : kSmallSlice;
  if (network.count <= small) return use(RecursiveDoublingAllReduce(network));
  if (network.ranks <= kFewNodes) return use(RingAllReduce(network));
  return use(RabenseifnerAllReduce(network));
}

/// Rank i of a node folds slice i of the node's inputs into its output, reduces it over the network
/// with the ranks that have slice i in the other nodes, and writes the result to its neighbours'
/// outputs. Nobody else touches slice i of any buffer of the node, so in place needs no further
/// care. Cost: two flag rounds, and the network algorithm on N/L for L ranks a node: all of them
/// drive the network at once.
class HierarchicalAllReduce {
 public:
  explicit constexpr HierarchicalAllReduce(const Shape& shape) noexcept
      : s_(shape), net_{shape, slice(), slice()} {}

  constexpr int rounds() const noexcept { return network_rounds() + s_.node_ranks + 1; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const int pushes = k - network_rounds() - 1;
    if (k == 0) return fold_node(emit);
    if (pushes < 0) {
      return with_network_all_reduce(
          net_.shape(), [&](const auto& algorithm) { net_.round(algorithm, k - 1, emit); });
    }
    if (pushes < s_.node_ranks - 1) return push(pushes + 1, emit);
    meet_node(emit);  // the neighbours have written their slices here, and read ours
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    const Shape network = HierarchicalAllReduce(shape).net_.shape();
    return with_network_all_reduce(
        network, [&]<class Algorithm>(const Algorithm&) { return Algorithm::scratch(network); });
  }

 private:
  constexpr Ref slice() const noexcept {
    return parts_of(output(0, s_.count), {s_.count, s_.node_ranks}, s_.local_rank());
  }

  constexpr int network_rounds() const noexcept {
    return with_network_all_reduce(net_.shape(),
                                   [](const auto& algorithm) { return algorithm.rounds(); });
  }

  template <class Emit>
  constexpr void fold_node(Emit&& emit) const noexcept {
    meet_node(emit);
    const Ref mine = slice();
    emit(Step::fold(mine, Ref{Space::kInput, kEvery, mine.offset, mine.count}, s_.node_ranks, 0));
  }
  template <class Emit>
  constexpr void push(Rank distance, Emit&& emit) const noexcept {
    const Rank local = wrap(s_.local_rank() + distance, s_.node_ranks);
    emit(Step::copy(slice().of(s_.node() * s_.node_ranks + local), slice()));
  }

  Shape s_;
  Network net_;
};

/// Rank i of a node folds slice i of the node's inputs into scratch and reduces it over the network
/// to the root's node; there every rank writes its slice to the root's output. Cost: two flag
/// rounds, and a binomial reduce of N/L over the nodes; scratch 3 N/L.
class HierarchicalReduce {
 public:
  explicit constexpr HierarchicalReduce(const Shape& shape) noexcept
      : s_(shape), net_{shape, partial(), partial(), partial().count}, tree_(net_.shape()) {}

  constexpr int rounds() const noexcept { return tree_.rounds() + 2; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const Ref mine = slice(input(0, s_.count));
    if (k == 0) {
      meet_node(emit);
      emit(Step::fold(partial(), mine.of(kEvery), s_.node_ranks, 0));
    } else if (k <= tree_.rounds()) {
      net_.round(tree_, k - 1, emit);
    } else {
      const bool in_roots_node = s_.node() == s_.root / s_.node_ranks;
      if (in_roots_node) emit(Step::copy(slice(output(0, s_.count)).of(s_.root), partial()));
      meet_node(emit);
    }
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    const HierarchicalReduce whole(shape);
    return whole.partial().count + BinomialReduce::scratch(whole.net_.shape());
  }

 private:
  constexpr Ref slice(const Ref& block) const noexcept {
    return parts_of(block, {s_.count, s_.node_ranks}, s_.local_rank());
  }
  constexpr Ref partial() const noexcept {
    return schedule::scratch(0, slice(input(0, s_.count)).count);
  }

  Shape s_;
  Network net_;
  BinomialReduce tree_;
};

/// The leader of a node is the rank at the root's position in it. The leaders broadcast over the
/// network; the others copy from their leader's output.
/// Cost: three flag rounds, and a binomial broadcast of N over the nodes.
class HierarchicalBroadcast {
 public:
  explicit constexpr HierarchicalBroadcast(const Shape& shape) noexcept
      : s_(shape),
        net_{shape, input(0, shape.count), output(0, shape.count)},
        tree_(net_.shape()) {}

  constexpr int rounds() const noexcept { return tree_.rounds() + 2; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    if (k == 0) return meet_node(emit);
    if (s_.rank == leader()) {
      if (k < rounds() - 1) return net_.round(tree_, k - 1, emit);
      emit(Step::post());
      meet_node(emit);
    } else if (k == rounds() - 1) {
      const Ref block = output(0, s_.count);
      emit(Step::post());
      emit(Step::await(leader()));
      emit(Step::copy(block, block.of(leader())));
      emit(Step::post());
    }
  }

  static constexpr std::int64_t scratch(const Shape&) noexcept { return 0; }

 private:
  constexpr Rank leader() const noexcept {
    return s_.node() * s_.node_ranks + s_.root % s_.node_ranks;
  }

  Shape s_;
  Network net_;
  BinomialBroadcast tree_;
};

/// Rank i of a node gathers, over the network, the blocks of the ranks that have position i in
/// their nodes, each to its place; then every rank copies from each neighbour what that one has
/// gathered. Cost: three flag rounds, M - 1 rounds of one block over M nodes, and a copy of N.
class HierarchicalAllGather {
 public:
  explicit constexpr HierarchicalAllGather(const Shape& shape) noexcept
      : s_(shape), ring_(network(shape)) {}

  constexpr int rounds() const noexcept { return ring_.rounds() + copies() + 3; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const int copy = k - ring_.rounds() - 2;
    if (k == 0 || copy == -1 || copy == copies()) return meet_node(emit);
    if (copy < 0) return gather(k - 1, emit);
    const Rank neighbour = wrap(s_.local_rank() + 1 + copy / s_.nodes(), s_.node_ranks);
    const Ref block = blocks_of(Space::kOutput, s_.count, at(copy % s_.nodes(), neighbour));
    emit(Step::copy(block, block.of(at(s_.node(), neighbour))));
  }

  static constexpr std::int64_t scratch(const Shape&) noexcept { return 0; }

  constexpr int network_rounds() const noexcept { return ring_.rounds(); }
  /// Round k of the ring, whose block of node n is that of our position in node n.
  template <class Emit>
  constexpr void gather(int k, Emit&& emit) const noexcept {
    const auto place = [&](const Ref& ref) noexcept {
      if (ref.space != Space::kOutput || ref.count == 0) return ref;
      const Rank node = static_cast<Rank>(ref.offset / s_.count);
      return blocks_of(Space::kOutput, s_.count, at(node, s_.local_rank()));
    };
    ring_.round(k, [&](Step step) {
      step.peer = at(step.peer, s_.local_rank());
      step.dst = place(step.dst), step.src = place(step.src);
      emit(step);
    });
  }

 private:
  static constexpr Shape network(const Shape& shape) noexcept {
    return {.collective = shape.collective,
            .rank = shape.node(),
            .ranks = shape.nodes(),
            .count = shape.count};
  }
  constexpr int copies() const noexcept { return (s_.node_ranks - 1) * s_.nodes(); }
  constexpr Rank at(Rank node, Rank local) const noexcept { return node * s_.node_ranks + local; }

  Shape s_;
  RingAllGather ring_;
};

/// Rank i of a node folds the node's contributions to the blocks of all ranks that have position i
/// in their nodes into scratch; these blocks are then reduced and scattered over the network.
/// In place is safe: of the block that becomes this rank's output nobody else reads its input.
/// Cost: two flag rounds, a fold of N/L for L ranks a node, M - 1 exchanges of one block over M
/// nodes; scratch at most 2 M blocks.
class HierarchicalReduceScatter {
 public:
  explicit constexpr HierarchicalReduceScatter(const Shape& shape) noexcept
      : s_(shape),
        net_{shape, partials(), output(0, shape.count), partials().count},
        exchange_(net_.shape()) {}

  constexpr int rounds() const noexcept { return s_.nodes() + exchange_.rounds() + 2; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    if (k == 0) return meet_node(emit);
    if (k <= s_.nodes()) return fold(k - 1, emit);
    if (k < rounds() - 1) return net_.round(exchange_, k - 1 - s_.nodes(), emit);
    emit(Step::await(kEvery));  // the neighbours have read our input
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    const HierarchicalReduceScatter whole(shape);
    return whole.partials().count + PairwiseReduceScatter::scratch(whole.net_.shape());
  }

 private:
  constexpr Ref partials() const noexcept { return schedule::scratch(0, s_.nodes() * s_.count); }

  /// The block of node `n`, the last one says so to the neighbours.
  template <class Emit>
  constexpr void fold(Rank n, Emit&& emit) const noexcept {
    const Ref block = blocks_of(Space::kInput, s_.count, n * s_.node_ranks + s_.local_rank());
    emit(Step::fold(partials().slice(n * s_.count, s_.count), block.of(kEvery), s_.node_ranks, 0));
    if (n == s_.nodes() - 1) emit(Step::post());
  }

  Shape s_;
  Network net_;
  PairwiseReduceScatter exchange_;
};

/// Rank i of a node collects what the node has for the ranks of position i in another node, and
/// sends that as one message to the rank of position i there, for whom these are the blocks of all
/// ranks of the sending node, one behind the other. Within the node blocks are copied.
/// Cost: two flag rounds, copies of N, and one message of L blocks to each of M - 1 nodes.
class HierarchicalAllToAll {
 public:
  explicit constexpr HierarchicalAllToAll(const Shape& shape) noexcept
      : s_(shape), partners_{shape.node(), shape.nodes()} {}

  constexpr int rounds() const noexcept {
    return collected() + windowed_rounds(partners_.exchanges()) + s_.node_ranks + 2;
  }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const int exchange = k - 1 - collected();
    const int copy = exchange - windowed_rounds(partners_.exchanges());
    if (k == 0 || copy == s_.node_ranks) return meet_node(emit);
    if (exchange < 0) return collect((k - 1) / s_.node_ranks, (k - 1) % s_.node_ranks, emit);
    if (copy < 0) return start_or_complete(exchange, emit);
    const Rank neighbour = at(s_.node(), wrap(s_.local_rank() + copy, s_.node_ranks));
    emit(Step::copy(blocks_of(Space::kOutput, s_.count, neighbour), mine(s_.rank).of(neighbour)));
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    return (shape.nodes() - 1) * shape.node_ranks * shape.count;
  }

 private:
  constexpr Rank at(Rank node, Rank local) const noexcept { return node * s_.node_ranks + local; }
  constexpr Ref mine(Rank rank) const noexcept { return blocks_of(Space::kInput, s_.count, rank); }
  /// Steps that bring neighbours' blocks into scratch.
  constexpr int collected() const noexcept { return partners_.exchanges() * s_.node_ranks; }
  constexpr Ref parcel(int exchange) const noexcept {
    return blocks_of(Space::kScratch, s_.count, exchange * s_.node_ranks, s_.node_ranks);
  }

  template <class Emit>
  constexpr void collect(int exchange, Rank local, Emit&& emit) const noexcept {
    const Ref block = mine(at(partners_.to(exchange), s_.local_rank()));
    emit(Step::copy(parcel(exchange).slice(local * s_.count, s_.count),
                    block.of(at(s_.node(), local))));
  }

  template <class Emit>
  constexpr void start_or_complete(int t, Emit&& emit) const noexcept {
    windowed(
        t, partners_.exchanges(),
        [&](int k) {
          const Rank from = partners_.from(k);
          const Ref arriving = blocks_of(Space::kOutput, s_.count, at(from, 0), s_.node_ranks);
          emit(Step::recv(at(from, s_.local_rank()), arriving, recv_slot(k)));
          emit(Step::send(at(partners_.to(k), s_.local_rank()), parcel(k), send_slot(k)));
        },
        [&](int k) {
          emit(Step::wait(recv_slot(k)));
          emit(Step::wait(send_slot(k)));
        });
  }

  Shape s_;
  PairwisePartners partners_;
};

/// When all of a node have come, its first rank meets those of the other nodes, then releases its
/// own. Cost: two flag rounds, and a dissemination barrier over the nodes.
class HierarchicalBarrier {
 public:
  static constexpr bool kSignals = true;

  explicit constexpr HierarchicalBarrier(const Shape& shape) noexcept
      : s_(shape), net_{shape, input(0, 0), output(0, 0)}, barrier_(net_.shape()) {}

  constexpr int rounds() const noexcept { return barrier_.rounds() + 2; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const bool is_leader = s_.local_rank() == 0;
    if (k == 0) return meet_node(emit);
    if (k < rounds() - 1) {
      if (is_leader) net_.round(barrier_, k - 1, emit);
      return;
    }
    emit(Step::post());
    if (!is_leader) emit(Step::await(s_.node() * s_.node_ranks));
  }

  static constexpr std::int64_t scratch(const Shape&) noexcept { return 0; }

 private:
  Shape s_;
  Network net_;
  DisseminationBarrier barrier_;
};

}  // namespace shoal::schedule
