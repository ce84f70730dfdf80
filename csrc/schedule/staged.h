/// Staged algorithms: the ranks of a node see one another's scratch and nothing else, so buffers
/// may lie in memory that is private to their rank. What a rank has for the others it puts into its
/// scratch, tile by tile, each small enough to be read out of a cache; who needs it takes it there.
///
/// A rank puts its first tile before it posts for the first time, and awaits all: from there on the
/// scratch of every rank may be read. All end with a post, which those whose scratch is read await.
#pragma once

#include "schedule/rounds.h"

namespace shoal::schedule {

/// Every collective with buffers in one node. With r this rank:
///   broadcast, scatter     the root puts, the others take
///   gather                 all but the root put, the root takes
///   all_gather, all_to_all every rank puts, and takes what it needs from each other
///   reduce_scatter         every rank puts the others' blocks, and folds what they put for it with
///                          its own
///   all_reduce, reduce     every rank puts all slices of a tile but slice r, folds slice r, and
///                          takes the other slices from their owners, if it needs the result; of 2
///                          ranks (all_reduce: up to a tile) each puts all, and folds what it needs
/// A round puts tile t, and takes tile t - 1 (or folds it, and takes tile t - 2); then the ranks
/// meet.
/// Two tiles of scratch or more take turns: a rank that puts tile t + 2 has met those who read tile
/// t after that.
/// In place is safe: a rank writes what it has put, or what only it reads.
/// Cost: one flag round a tile, one copy of N in and one out.
/// Source: Graham, Shipman, "MPI support for multi-core architectures: optimized shared memory
/// collectives", EuroPVM/MPI 2008 (fan-in and fan-out over shared segments); the slicing is
/// shoal's.
class Staged {
 public:
  explicit constexpr Staged(const Shape& shape) noexcept : s_(shape) {}

  constexpr int rounds() const noexcept {
    return 1 + (s_.count == 0 ? 0 : static_cast<int>(tiles()) + (is_sliced() ? 1 : 0));
  }

  template <class Emit>
  constexpr void round(int t, Emit&& emit) const noexcept {
    if (is_sliced()) {
      if (has(t - 2)) take(tile_at(t - 2), emit);
      if (has(t - 1)) fold_slice(tile_at(t - 1), emit);
    } else {
      if (has(t - 1)) take(tile_at(t - 1), emit);
    }
    if (has(t) && puts()) put(tile_at(t), emit);
    if (t == 0) {
      emit(Step::post());
      emit(Step::await(kEvery));
    } else {
      meet(emit);
    }
    if (has(t)) keep(tile_at(t), emit);
  }

  /// Nothing where nothing is put.
  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    const Staged staged(shape);
    return staged.puts() ? std::min(shape.places, staged.tiles()) * staged.place_count() : 0;
  }

 private:
  /// Elements [begin, begin + count) of a block, and where they lie in scratch.
  struct Tile {
    std::int64_t begin, count, place;
  };

  constexpr bool is_root() const noexcept { return s_.rank == s_.root; }
  constexpr bool is_sliced() const noexcept {
    if (s_.collective == Collective::kReduce) return s_.ranks > 2;
    return s_.collective == Collective::kAllReduce && (s_.ranks > 2 || s_.count > s_.tile);
  }
  constexpr bool puts() const noexcept {
    if (s_.count == 0) return false;
    switch (s_.collective) {
      case Collective::kBroadcast:
      case Collective::kScatter:
        return is_root();
      case Collective::kGather:
        return !is_root();
      case Collective::kReduce:
        return is_sliced() || !is_root();
      default:
        return true;
    }
  }
  /// Blocks a tile has a part of.
  constexpr Rank parts() const noexcept {
    switch (s_.collective) {
      case Collective::kReduceScatter:
      case Collective::kAllToAll:
      case Collective::kScatter:
        return s_.ranks;
      default:
        return 1;
    }
  }
  /// Elements of one part.
  constexpr std::int64_t tile_count() const noexcept {
    return std::max<std::int64_t>(1, std::min(s_.count, s_.tile / parts()));
  }
  constexpr std::int64_t tiles() const noexcept {
    return (s_.count + tile_count() - 1) / tile_count();
  }
  constexpr bool has(std::int64_t tile) const noexcept { return tile >= 0 && tile < tiles(); }
  /// A tile, and what is folded of it.
  constexpr std::int64_t place_count() const noexcept {
    return tile_count() * (is_sliced() ? 2 : parts());
  }
  constexpr Tile tile_at(std::int64_t index) const noexcept {
    const std::int64_t begin = index * tile_count();
    return {begin, std::min(tile_count(), s_.count - begin), index % s_.places * place_count()};
  }

  /// Posts, and waits for those whose scratch this rank reads or who read this rank's.
  template <class Emit>
  constexpr void meet(Emit&& emit) const noexcept {
    const bool only_root =
        !is_root() && (is_one_to_all(s_.collective) || s_.collective == Collective::kGather);
    emit(Step::post());
    emit(Step::await(only_root ? s_.root : kEvery));
  }

  /// Part `part` of a tile in the scratch of whoever is asked.
  constexpr Ref staged(const Tile& tile, Rank part = 0) const noexcept {
    return scratch_at(tile.place + part * tile_count(), tile.count);
  }
  static constexpr Ref scratch_at(std::int64_t offset, std::int64_t count) noexcept {
    return {Space::kScratch, kSelf, offset, count};
  }
  constexpr Ref input_block(const Tile& tile, Rank block = 0) const noexcept {
    return input(block * s_.count + tile.begin, tile.count);
  }
  constexpr Ref output_block(const Tile& tile, Rank block = 0) const noexcept {
    return output(block * s_.count + tile.begin, tile.count);
  }
  /// Slice of rank `rank`: of a tile, and where its fold is put.
  constexpr Ref slice_of(const Ref& tile, Rank rank) const noexcept {
    return parts_of(tile, {tile.count, s_.ranks}, rank);
  }
  constexpr Ref slice(const Tile& tile, Rank rank) const noexcept {
    return slice_of(staged(tile), rank);
  }
  constexpr Ref folded(const Tile& tile, Rank rank) const noexcept {
    return slice_of(scratch_at(tile.place + tile_count(), tile.count), rank);
  }

  /// What others read.
  template <class Emit>
  constexpr void put(const Tile& tile, Emit&& emit) const noexcept {
    if (is_sliced()) {
      const Partition slices(tile.count, s_.ranks);
      const std::int64_t begin = slices.begin(s_.rank), end = slices.begin(s_.rank + 1);
      put_range(tile, 0, begin, emit);
      put_range(tile, end, tile.count - end, emit);
      return;
    }
    for (Rank part = 0; part < parts(); ++part) {
      if (parts() > 1 && part == s_.rank) continue;
      emit(Step::copy(staged(tile, part), input_block(tile, part)));
    }
  }
  template <class Emit>
  constexpr void put_range(const Tile& tile, std::int64_t begin, std::int64_t count,
                           Emit&& emit) const noexcept {
    if (count == 0) return;
    emit(Step::copy(staged(tile).slice(begin, count), input_block(tile).slice(begin, count)));
  }

  /// What this rank has for itself, while it is in a cache.
  template <class Emit>
  constexpr void keep(const Tile& tile, Emit&& emit) const noexcept {
    if (reduces(s_.collective) || (has_root(s_.collective) && !is_root())) return;
    const Rank in = parts() > 1 ? s_.rank : 0;
    const bool is_gathered = s_.collective == Collective::kGather ||
                             s_.collective == Collective::kAllGather ||
                             s_.collective == Collective::kAllToAll;
    emit(Step::copy(output_block(tile, is_gathered ? s_.rank : 0), input_block(tile, in)));
  }

  template <class Emit>
  constexpr void fold_slice(const Tile& tile, Emit&& emit) const noexcept {
    const Ref from = slice(tile, s_.rank), mine = slice_of(output_block(tile), s_.rank);
    const bool only_root = s_.collective == Collective::kReduce && is_root();
    Step fold =
        Step::fold_staged(only_root ? mine : folded(tile, s_.rank), from, s_.ranks, mine.offset);
    fold.own_output = s_.collective == Collective::kAllReduce;
    emit(fold);
  }

  template <class Emit>
  constexpr void take(const Tile& tile, Emit&& emit) const noexcept {
    const bool rooted = has_root(s_.collective) && !is_one_to_all(s_.collective);
    if (rooted && !is_root()) return;
    switch (s_.collective) {
      case Collective::kBroadcast:
      case Collective::kScatter:
        if (!is_root()) emit(Step::copy(output_block(tile), my_part(tile, s_.root)));
        return;
      case Collective::kReduce:
      case Collective::kAllReduce:
        if (!is_sliced()) {
          emit(Step::fold_staged(output_block(tile), staged(tile), s_.ranks, tile.begin));
          return;
        }
        for (Rank k = 1; k < s_.ranks; ++k) {
          const Rank from = wrap(s_.rank + k, s_.ranks);
          emit(Step::copy(slice_of(output_block(tile), from), folded(tile, from).of(from)));
        }
        return;
      case Collective::kReduceScatter:
        emit(Step::fold_staged(output_block(tile), staged(tile, s_.rank), s_.ranks,
                               input_block(tile, s_.rank).offset));
        return;
      case Collective::kAllGather:
      case Collective::kGather:
      case Collective::kAllToAll:
        for (Rank k = 1; k < s_.ranks; ++k) {
          const Rank from = wrap(s_.rank + k, s_.ranks);
          emit(Step::copy(output_block(tile, from), my_part(tile, from)));
        }
        return;
      case Collective::kBarrier:
        return;
    }
  }

  /// What `owner` has put for this rank.
  constexpr Ref my_part(const Tile& tile, Rank owner) const noexcept {
    return staged(tile, parts() > 1 ? s_.rank : 0).of(owner);
  }

  Shape s_;
};

}  // namespace shoal::schedule
