/// Staged algorithms: the ranks of a node see one another's scratch and nothing else, so buffers
/// may lie in memory that is private to their rank. What a rank has for the others it puts into its
/// scratch, tile by tile, each small enough to be read out of a cache; who needs it takes it there.
///
/// All begin with post and await, as the direct algorithms do (direct.h): from there on the scratch
/// of every rank may be read. All end with a post, which those whose scratch is read await.
#pragma once

#include "schedule/rounds.h"

namespace shoal::schedule {

/// Every collective with buffers in one node. With r this rank:
///   broadcast, scatter     the root puts, the others take
///   gather                 all but the root put, the root takes
///   all_gather, all_to_all every rank puts, and takes what it needs from each other
///   reduce_scatter         every rank puts a part of each block, and folds the parts of block r
///   all_reduce, reduce     2 ranks: every rank puts, and who needs the result folds;
///                          more: rank r folds slice r of what all have put into its scratch, and
///                          who needs the result takes the slices there
/// Two tiles of scratch take turns: a rank that puts tile t + 2 has awaited tile t + 1 of all who
/// read tile t, and they post that after they have read.
/// In place is safe: a block of a tile is written after the rank has put it.
/// Cost: one flag round a tile (two where slices are folded), one copy of N in and one out.
/// Source: Graham, Shipman, "MPI support for multi-core architectures: optimized shared memory
/// collectives", EuroPVM/MPI 2008 (fan-in and fan-out over shared segments); the slicing is
/// shoal's.
class Staged {
 public:
  explicit constexpr Staged(const Shape& shape) noexcept : s_(shape) {}

  constexpr int rounds() const noexcept { return 2 + static_cast<int>(tiles()); }

  template <class Emit>
  constexpr void round(int k, Emit&& emit) const noexcept {
    if (k == 0) {
      emit(Step::post());
      emit(Step::await(kEvery));
    } else if (k <= tiles()) {
      const Tile tile = tile_at(k - 1);
      if (puts()) put(tile, emit);
      meet(emit);
      if (is_sliced()) {
        fold_slice(tile, emit);
        meet(emit);
      }
      take(tile, emit);
    } else {
      meet(emit);
    }
  }

  /// Two tiles, or a tile and what is folded of it; nothing where nothing is put.
  static constexpr std::int64_t scratch(const Shape& shape) noexcept {
    const Staged staged(shape);
    const std::int64_t places = staged.is_sliced() ? 2 : std::min<std::int64_t>(2, staged.tiles());
    return staged.puts() ? places * staged.tile_count() * staged.parts() : 0;
  }

 private:
  /// Elements [begin, begin + count) of a block, and where a tile of its parity lies in scratch.
  struct Tile {
    std::int64_t begin, count, place;
  };

  constexpr bool is_root() const noexcept { return s_.rank == s_.root; }
  constexpr bool is_sliced() const noexcept {
    return s_.ranks > 2 &&
           (s_.collective == Collective::kAllReduce || s_.collective == Collective::kReduce);
  }
  constexpr bool puts() const noexcept {
    if (s_.count == 0) return false;
    return is_one_to_all(s_.collective) ? is_root()
                                        : s_.collective != Collective::kGather || !is_root();
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
  constexpr Tile tile_at(std::int64_t index) const noexcept {
    const std::int64_t begin = index * tile_count();
    return {begin, std::min(tile_count(), s_.count - begin),
            is_sliced() ? 0 : index % 2 * tile_count() * parts()};
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
  /// Slice of rank `rank`: of the tile, and where its fold is put.
  constexpr Ref slice(const Tile& tile, Rank rank) const noexcept {
    return parts_of(staged(tile), {tile.count, s_.ranks}, rank);
  }
  constexpr Ref folded(const Tile& tile, Rank rank) const noexcept {
    return parts_of(scratch_at(tile_count(), tile.count), {tile.count, s_.ranks}, rank);
  }

  template <class Emit>
  constexpr void put(const Tile& tile, Emit&& emit) const noexcept {
    for (Rank part = 0; part < parts(); ++part) {
      // What only this rank reads need not be put, but for a fold, which reads every rank's.
      if (parts() > 1 && part == s_.rank && !reduces(s_.collective)) continue;
      emit(Step::copy(staged(tile, part), input_block(tile, part)));
    }
  }

  template <class Emit>
  constexpr void fold_slice(const Tile& tile, Emit&& emit) const noexcept {
    emit(Step::fold(folded(tile, s_.rank), slice(tile, s_.rank).of(kEvery), s_.ranks, 0, true));
  }

  template <class Emit>
  constexpr void take(const Tile& tile, Emit&& emit) const noexcept {
    const bool rooted = has_root(s_.collective) && !is_one_to_all(s_.collective);
    if (rooted && !is_root()) return;
    switch (s_.collective) {
      case Collective::kBroadcast:
        emit(Step::copy(output_block(tile),
                        is_root() ? input_block(tile) : staged(tile).of(s_.root)));
        return;
      case Collective::kScatter:
        emit(Step::copy(output_block(tile), is_root() ? input_block(tile, s_.rank)
                                                      : staged(tile, s_.rank).of(s_.root)));
        return;
      case Collective::kReduce:
      case Collective::kAllReduce:
        if (!is_sliced()) {
          emit(Step::fold(output_block(tile), staged(tile).of(kEvery), s_.ranks, 0, true));
          return;
        }
        for (Rank k = 0; k < s_.ranks; ++k) {
          const Rank from = wrap(s_.rank + k, s_.ranks);
          emit(Step::copy(parts_of(output_block(tile), {tile.count, s_.ranks}, from),
                          folded(tile, from).of(from == s_.rank ? kSelf : from)));
        }
        return;
      case Collective::kReduceScatter:
        emit(Step::fold(output_block(tile), staged(tile, s_.rank).of(kEvery), s_.ranks, 0, true));
        return;
      case Collective::kAllGather:
      case Collective::kGather:
      case Collective::kAllToAll:
        for (Rank k = 0; k < s_.ranks; ++k) take_from(tile, wrap(s_.rank + k, s_.ranks), emit);
        return;
      case Collective::kBarrier:
        return;
    }
  }

  template <class Emit>
  constexpr void take_from(const Tile& tile, Rank from, Emit&& emit) const noexcept {
    const Rank part = parts() > 1 ? s_.rank : 0;
    emit(Step::copy(output_block(tile, from),
                    from == s_.rank ? input_block(tile, part) : staged(tile, part).of(from)));
  }

  Shape s_;
};

}  // namespace shoal::schedule
