/// What a schedule is generated from: the problem as one rank sees it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "shoal/types.h"

namespace shoal::schedule {

/// `count` is elements of one block. A rank's buffers are, in blocks of `count`:
///
///   collective      input            output           in place means
///   barrier         0                0                -
///   broadcast       1 (root only)    1                input == output (root)
///   reduce          1                1 (root only)    input == output (root)
///   all_reduce      1                1                input == output
///   all_gather      1                ranks            input == output block `rank`
///   reduce_scatter  ranks            1                output == input block `rank`
///   all_to_all      ranks            ranks            not defined
///   gather          1                ranks (root)     input == output block root (root)
///   scatter         ranks (root)     1                output == input block root (root)
struct Shape {
  Collective collective = Collective::kBarrier;
  Rank rank = 0;
  Rank ranks = 1;
  Rank root = 0;
  /// Ranks of one node. Node n holds ranks [n * node_ranks, (n + 1) * node_ranks); always divides
  /// `ranks`. 1: nothing is known of locality; == ranks: all in one node.
  Rank node_ranks = 1;
  std::int64_t count = 0;
  /// Elements a rank hands to the others at a time where an algorithm goes tile by tile (kStaged).
  std::int64_t tile = 16 << 10;
  /// Tiles of scratch that take turns there, at least 2.
  std::int64_t places = 2;

  [[nodiscard]] constexpr Rank node() const noexcept { return rank / node_ranks; }
  [[nodiscard]] constexpr Rank nodes() const noexcept { return ranks / node_ranks; }
  [[nodiscard]] constexpr Rank local_rank() const noexcept { return rank % node_ranks; }
};

constexpr int input_blocks(const Shape& s) noexcept {
  switch (s.collective) {
    case Collective::kBarrier:
      return 0;
    case Collective::kBroadcast:
      return s.rank == s.root ? 1 : 0;
    case Collective::kReduceScatter:
    case Collective::kAllToAll:
      return s.ranks;
    case Collective::kScatter:
      return s.rank == s.root ? s.ranks : 0;
    default:
      return 1;
  }
}

constexpr int output_blocks(const Shape& s) noexcept {
  switch (s.collective) {
    case Collective::kBarrier:
      return 0;
    case Collective::kReduce:
      return s.rank == s.root ? 1 : 0;
    case Collective::kAllGather:
    case Collective::kAllToAll:
      return s.ranks;
    case Collective::kGather:
      return s.rank == s.root ? s.ranks : 0;
    default:
      return 1;
  }
}

/// Of the largest buffer that any rank gives to a call.
constexpr int largest_blocks(Shape s) noexcept {
  s.rank = s.root;  // no other has a larger one
  return std::max(input_blocks(s), output_blocks(s));
}

/// Splits `count` elements into `parts` contiguous, nearly equal ranges that start at multiples of
/// 16 elements where there are enough (so that ranks do not share cache lines).
class Partition {
 public:
  constexpr Partition(std::int64_t count, std::int64_t parts) noexcept
      : count_(count),
        grain_(count >= 16 * parts ? 16 : 1),
        whole_((count + grain_ - 1) / grain_ / parts * grain_),
        rest_((count + grain_ - 1) / grain_ % parts) {}

  [[nodiscard]] constexpr std::int64_t begin(std::int64_t part) const noexcept {
    return std::min(count_, part * whole_ + std::min(part, rest_) * grain_);
  }
  [[nodiscard]] constexpr std::int64_t size(std::int64_t part) const noexcept {
    return begin(part + 1) - begin(part);
  }
  [[nodiscard]] constexpr std::int64_t largest() const noexcept { return size(0); }

 private:
  // Divided once: a schedule asks for parts in every round. The first `rest_` parts have a grain
  // more than `whole_` elements.
  std::int64_t count_, grain_, whole_, rest_;
};

}  // namespace shoal::schedule
