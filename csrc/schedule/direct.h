/// Direct algorithms: the ranks of a node read and write each other's buffers, so nothing is copied
/// in, and nothing is copied out.
///
/// All begin with post and await: from there on every buffer of the node may be touched (the
/// executor exchanges addresses and fingerprints in this first round). All end with a post, and
/// those whose buffers others touch await it, so that no peer touches a buffer after its owner has
/// returned. No step crosses the border of a block of `count` elements: the executor may run the
/// middle of a schedule tile by tile over any sub-ranges of a block.
#pragma once

#include "schedule/rounds.h"

namespace shoal::schedule {

/// Every collective in one node. With r this rank, from r on so that the ranks do not all read one
/// buffer at once:
///   broadcast       copies slice r of the root's input into every output: the root does its share
///   reduce          folds slice r of every input into slice r of the root's output
///   all_reduce      folds slice r of every input into slice r of every output
///   all_gather      copies every rank's input
///   reduce_scatter  folds block r of every input
///   all_to_all      copies block r of every input
///   gather          writes its input to block r of the root's output
///   scatter         copies block r of the root's input
/// In place is safe: a slice that is written is read by its writer only, and before.
/// Cost: two flag rounds; all_reduce reads N and writes N a rank.
/// Source: shoal; the slicing is that of Jain et al., "Framework for scalable intra-node
/// collective operations using shared memory", SC 2018.
class Direct {
 public:
  explicit constexpr Direct(const Shape& shape) noexcept : s_(shape) {}

  constexpr int rounds() const noexcept {
    return s_.collective == Collective::kBarrier ? 1 : 2 + pulls();
  }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    if (k == 0) {
      emit(Step::post());
      emit(Step::await(kEvery));
    } else if (k <= pulls()) {
      emit(pull(wrap(s_.rank + k - 1, s_.ranks)));
    } else {
      emit(Step::post());
      if (is_touched()) emit(Step::await(kEvery));
    }
  }

  static constexpr std::int64_t scratch(const Shape&) noexcept { return 0; }

 private:
  /// Steps between entry and end: one a peer where blocks of all of them are read.
  constexpr int pulls() const noexcept {
    switch (s_.collective) {
      case Collective::kBarrier:
        return 0;
      case Collective::kAllGather:
      case Collective::kAllToAll:
        return s_.ranks;
      default:
        return 1;
    }
  }

  /// Do other ranks read or write this rank's buffers?
  constexpr bool is_touched() const noexcept {
    switch (s_.collective) {
      case Collective::kGather:
      case Collective::kScatter:
        return s_.rank == s_.root;
      default:
        return true;
    }
  }

  constexpr Step pull(Rank peer) const noexcept {
    const Ref block = input(0, s_.count), mine = blocks_of(Space::kInput, s_.count, s_.rank);
    const Ref result = output(0, s_.count), from_peer = blocks_of(Space::kOutput, s_.count, peer);
    switch (s_.collective) {
      case Collective::kBroadcast:
        return Step::fold(slice(result).of(kEvery), slice(block).of(s_.root), 1, 0);
      case Collective::kReduce:
        return fold(slice(result).of(s_.root), slice(block));
      case Collective::kAllReduce:
        return fold(slice(result).of(kEvery), slice(block));
      case Collective::kAllGather:
        return Step::copy(from_peer, block.of(peer));
      case Collective::kReduceScatter:
        return fold(result, mine);
      case Collective::kAllToAll:
        return Step::copy(from_peer, mine.of(peer));
      case Collective::kGather:
        return Step::copy(blocks_of(Space::kOutput, s_.count, s_.rank).of(s_.root), block);
      case Collective::kScatter:
        return Step::copy(result, mine.of(s_.root));
      case Collective::kBarrier:
        break;
    }
    return Step::end();
  }

  constexpr Step fold(const Ref& dst, const Ref& src) const noexcept {
    return Step::fold(dst, src.of(kEvery), s_.ranks, 0, true);
  }
  constexpr Ref slice(const Ref& block) const noexcept {
    return parts_of(block, {s_.count, s_.ranks}, s_.rank);
  }

  Shape s_;
};

/// One rank alone: every collective but the barrier moves its input to its output.
class Alone {
 public:
  explicit constexpr Alone(const Shape& shape) noexcept : s_(shape) {}

  constexpr int rounds() const noexcept { return s_.collective == Collective::kBarrier ? 0 : 1; }

  template <class Emit>
  constexpr void round(int, Emit&& emit) const noexcept {
    const Ref from = input(0, s_.count), to = output(0, s_.count);
    emit(reduces(s_.collective) ? Step::fold(to, from, 1, 0, true) : Step::copy(to, from));
  }

  static constexpr std::int64_t scratch(const Shape&) noexcept { return 0; }

 private:
  Shape s_;
};

}  // namespace shoal::schedule
