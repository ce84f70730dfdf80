/// The free part of an address range, by place (to join neighbours) and by size (to find a fit).
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "memory/arena.h"

namespace shoal::memory {

/// Pure bookkeeping: touches none of the memory. One thread.
class FreeRanges {
 public:
  /// Takes [result, result + bytes) from the smallest range that holds it at `alignment` (a power
  /// of two), or kNoOffset. O(log n) and at most kFitTries ranges that are too crooked.
  Offset take(std::int64_t bytes, std::int64_t alignment);
  /// Adds a range that is not free now, and joins it with its neighbours.
  void give(Offset begin, std::int64_t bytes);
  /// Takes out whatever is free of [begin, begin + bytes).
  void remove(Offset begin, std::int64_t bytes);

  [[nodiscard]] std::int64_t largest() const noexcept {
    return by_size_.empty() ? 0 : by_size_.rbegin()->first;
  }
  [[nodiscard]] std::size_t ranges() const noexcept { return by_place_.size(); }

 private:
  using ByPlace = std::map<Offset, std::int64_t>;
  void insert(Offset begin, Offset end);
  ByPlace::iterator erase(ByPlace::iterator range);

  ByPlace by_place_;                                   // begin -> bytes
  std::set<std::pair<std::int64_t, Offset>> by_size_;  // equal sizes: the lowest first
};

}  // namespace shoal::memory
