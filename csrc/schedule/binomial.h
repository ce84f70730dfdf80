/// Binomial trees: ceil(log2 P) rounds. Best for small messages, and for broadcasts over few nodes.
/// Source: Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005, sections 4.2 and 4.6.
#pragma once

#include "schedule/rounds.h"

namespace shoal::schedule {

/// Ranks are numbered from the root on: v = rank - root (mod P). The parent of v is v without its
/// lowest set bit; the children of v are v + 2^j for every 2^j below that bit (the root: every 2^j)
/// that is a rank. The subtree of v is the ranks v, v + 1, ... v + subtree(v) - 1.
class BinomialTree {
 public:
  explicit constexpr BinomialTree(const Shape& shape) noexcept
      : ranks_(shape.ranks), root_(shape.root), v_(wrap(shape.rank - shape.root, shape.ranks)) {}

  constexpr bool is_root() const noexcept { return v_ == 0; }
  constexpr Rank v() const noexcept { return v_; }
  constexpr Rank rank_of(Rank v) const noexcept { return wrap(v + root_, ranks_); }
  constexpr Rank parent() const noexcept { return rank_of(v_ & (v_ - 1)); }
  constexpr bool is_child_of_root() const noexcept { return !is_root() && (v_ & (v_ - 1)) == 0; }

  constexpr int levels() const noexcept { return doublings(ranks_); }
  constexpr bool has_child(int level) const noexcept { return has_child(v_, level); }
  constexpr bool has_children() const noexcept { return has_child(0); }
  /// In the round of this level v and its parent talk.
  constexpr bool meets_parent(int level) const noexcept { return low_bit(v_) == Rank{1} << level; }

  constexpr Rank subtree(Rank v) const noexcept { return std::min(low_bit(v), ranks_ - v); }
  constexpr Rank child(int level) const noexcept { return v_ + (Rank{1} << level); }

 private:
  constexpr Rank low_bit(Rank v) const noexcept {
    return v == 0 ? static_cast<Rank>(std::bit_ceil(static_cast<std::uint32_t>(ranks_))) : v & -v;
  }
  constexpr bool has_child(Rank v, int level) const noexcept {
    const Rank distance = Rank{1} << level;
    return distance < low_bit(v) && v + distance < ranks_;
  }

  Rank ranks_, root_, v_;
};

/// A rank receives from its parent, then sends to its children, the largest subtree first.
/// Cost: ceil(log2 P) rounds of N.
class BinomialBroadcast {
 public:
  explicit constexpr BinomialBroadcast(const Shape& shape) noexcept : s_(shape), tree_(shape) {}

  constexpr int rounds() const noexcept { return tree_.levels() + 2; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    const Ref block = tree_.is_root() ? input(0, s_.count) : output(0, s_.count);
    if (k == 0 && !tree_.is_root()) return receive(block, emit);
    if (k == rounds() - 1) return finish(emit);
    const int level = tree_.levels() - k, slot = k % kMaxSlots;
    if (k == 0 || !tree_.has_child(level)) return;
    emit(Step::wait(slot));
    emit(Step::send(tree_.rank_of(tree_.child(level)), block, slot));
  }

  static constexpr std::int64_t scratch(const Shape&) noexcept { return 0; }

 private:
  template <class Emit>
  constexpr void receive(const Ref& block, Emit&& emit) const noexcept {
    emit(Step::recv(tree_.parent(), block, 0));
    emit(Step::wait(0));
  }
  template <class Emit>
  constexpr void finish(Emit&& emit) const noexcept {
    if (tree_.is_root()) emit(Step::copy(output(0, s_.count), input(0, s_.count)));
    emit(Step::wait_all());
  }

  Shape s_;
  BinomialTree tree_;
};

/// The broadcast's tree the other way: a rank adds up what its children send, the smallest subtree
/// first, and sends the sum to its parent. A leaf sends its input, another rank sums in scratch (it
/// has no output), the root in its output.
/// Cost: ceil(log2 P) rounds of N; scratch at most 2 N.
class BinomialReduce {
 public:
  explicit constexpr BinomialReduce(const Shape& shape) noexcept : s_(shape), tree_(shape) {}

  constexpr int rounds() const noexcept { return tree_.levels(); }

  template <class Emit>
  constexpr void round(int level, Emit&& emit) const noexcept {
    if (tree_.has_child(level)) return add_child(level, emit);
    if (!tree_.meets_parent(level)) return;
    emit(Step::send(tree_.parent(), tree_.has_children() ? sum() : input(0, s_.count), 1));
    emit(Step::wait_all());
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    const BinomialTree tree(shape);
    if (tree.is_root()) return shape.count;
    return (tree.has_child(0) + tree.has_child(1)) * shape.count;
  }

 private:
  constexpr Ref sum() const noexcept {
    return tree_.is_root() ? output(0, s_.count) : schedule::scratch(0, s_.count);
  }

  template <class Emit>
  constexpr void add_child(int level, Emit&& emit) const noexcept {
    const bool first = level == 0, last = tree_.is_root() && level == tree_.levels() - 1;
    const Ref arriving = schedule::scratch(first || tree_.is_root() ? 0 : s_.count, s_.count);
    emit(Step::recv(tree_.rank_of(tree_.child(level)), arriving, 0));
    if (first && tree_.is_root()) emit(Step::copy(sum(), input(0, s_.count)));
    emit(Step::wait_all());
    // Off the root the first child's sum lands where the sum is made: no copy of the input.
    emit(Step::reduce(sum(), arriving == sum() ? input(0, s_.count) : arriving, last));
  }

  Shape s_;
  BinomialTree tree_;
};

/// What gather and scatter share: a message holds the blocks of a whole subtree. At the root those
/// stand in rank order, where a subtree that runs past rank P - 1 is two pieces: root and child
/// then use two messages, instead of a rotated copy of everything. Elsewhere they stand in scratch,
/// from the rank's own block on.
class BinomialBlocks {
 public:
  BinomialTree tree;
  Rank ranks;
  std::int64_t count;

  /// Calls each(piece index, blocks at this rank) for the messages between this rank and its
  /// parent.
  template <class Each>
  constexpr void to_parent(const Ref& lone_block, Each&& each) const noexcept {
    const Rank n = tree.subtree(tree.v());
    if (!tree.is_child_of_root()) return each(0, own_tree(lone_block, 0, n));
    Rank from = 0;
    ring_pieces(tree.rank_of(tree.v()), n, ranks, [&](int piece, Rank, Rank length) {
      each(piece, own_tree(lone_block, from, length));
      from += length;
    });
  }

  /// The same between this rank and its child of a level; the root's blocks are in `root_space`.
  template <class Each>
  constexpr void to_child(Space root_space, int level, Each&& each) const noexcept {
    const Rank child = tree.child(level), n = tree.subtree(child);
    if (!tree.is_root()) return each(0, blocks_of(Space::kScratch, count, child - tree.v(), n));
    ring_pieces(tree.rank_of(child), n, ranks, [&](int piece, Rank first, Rank length) {
      each(piece, blocks_of(root_space, count, first, length));
    });
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    const BinomialTree tree(shape);
    return tree.is_root() || !tree.has_children() ? 0 : tree.subtree(tree.v()) * shape.count;
  }

  /// Two slots a level; the levels that share them are far apart.
  static constexpr int slot(int level, int piece) noexcept { return 2 * (level % kWindow) + piece; }

 private:
  constexpr Ref own_tree(const Ref& lone_block, Rank from, Rank n) const noexcept {
    if (!tree.has_children()) return lone_block.slice(from * count, n * count);
    return blocks_of(Space::kScratch, count, from, n);
  }
};

/// Cost: ceil(log2 P) rounds, N (P - 1)/P of the result into the root; scratch a subtree's blocks.
class BinomialGather {
 public:
  explicit constexpr BinomialGather(const Shape& shape) noexcept
      : s_(shape), blocks_{BinomialTree(shape), shape.ranks, shape.count} {}

  constexpr int rounds() const noexcept { return blocks_.tree.levels() + 2; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    if (k < blocks_.tree.levels()) return receive(k, emit);
    if (k == rounds() - 2) return keep_own(emit);
    if (!blocks_.tree.is_root()) send(emit);
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    return BinomialBlocks::scratch(shape);
  }

 private:
  template <class Emit>
  constexpr void receive(int level, Emit&& emit) const noexcept {
    if (!blocks_.tree.has_child(level)) return;
    const Rank child = blocks_.tree.rank_of(blocks_.tree.child(level));
    blocks_.to_child(Space::kOutput, level, [&](int piece, const Ref& place) {
      const int slot = BinomialBlocks::slot(level, piece);
      emit(Step::wait(slot));
      emit(Step::recv(child, place, slot));
    });
  }
  template <class Emit>
  constexpr void keep_own(Emit&& emit) const noexcept {
    const Ref own = input(0, s_.count);
    if (blocks_.tree.is_root())
      emit(Step::copy(blocks_of(Space::kOutput, s_.count, s_.rank), own));
    else if (blocks_.tree.has_children())
      emit(Step::copy(schedule::scratch(0, s_.count), own));
    emit(Step::wait_all());
  }
  template <class Emit>
  constexpr void send(Emit&& emit) const noexcept {
    blocks_.to_parent(input(0, s_.count), [&](int piece, const Ref& blocks) {
      emit(Step::send(blocks_.tree.parent(), blocks, piece));
    });
    emit(Step::wait_all());
  }

  Shape s_;
  BinomialBlocks blocks_;
};

/// Cost: ceil(log2 P) rounds, N (P - 1)/P of the input out of the root; scratch a subtree's blocks.
class BinomialScatter {
 public:
  explicit constexpr BinomialScatter(const Shape& shape) noexcept
      : s_(shape), blocks_{BinomialTree(shape), shape.ranks, shape.count} {}

  constexpr int rounds() const noexcept { return blocks_.tree.levels() + 2; }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    if (k == rounds() - 1) return keep_own(emit);
    if (k > 0) return send(blocks_.tree.levels() - k, emit);
    if (!blocks_.tree.is_root()) receive(emit);
  }

  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    return BinomialBlocks::scratch(shape);
  }

 private:
  template <class Emit>
  constexpr void receive(Emit&& emit) const noexcept {
    blocks_.to_parent(output(0, s_.count), [&](int piece, const Ref& blocks) {
      emit(Step::recv(blocks_.tree.parent(), blocks, piece));
    });
    emit(Step::wait_all());
  }
  template <class Emit>
  constexpr void send(int level, Emit&& emit) const noexcept {
    if (!blocks_.tree.has_child(level)) return;
    const Rank child = blocks_.tree.rank_of(blocks_.tree.child(level));
    blocks_.to_child(Space::kInput, level, [&](int piece, const Ref& blocks) {
      const int slot = BinomialBlocks::slot(level, piece);
      emit(Step::wait(slot));
      emit(Step::send(child, blocks, slot));
    });
  }
  template <class Emit>
  constexpr void keep_own(Emit&& emit) const noexcept {
    const Ref own = output(0, s_.count);
    if (blocks_.tree.is_root())
      emit(Step::copy(own, blocks_of(Space::kInput, s_.count, s_.rank)));
    else if (blocks_.tree.has_children())
      emit(Step::copy(own, schedule::scratch(0, s_.count)));
    emit(Step::wait_all());
  }

  Shape s_;
  BinomialBlocks blocks_;
};

}  // namespace shoal::schedule
