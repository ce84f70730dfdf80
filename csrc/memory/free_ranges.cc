#include "memory/free_ranges.h"

#include <algorithm>

#include "core/assert.h"

namespace shoal::memory {
namespace {

constexpr int kFitTries = 16;

constexpr std::int64_t align_up(std::int64_t value, std::int64_t alignment) noexcept {
  return (value + alignment - 1) & -alignment;
}

}  // namespace

void FreeRanges::insert(Offset begin, Offset end) {
  if (begin >= end) return;
  by_place_.emplace(begin, end - begin);
  by_size_.emplace(end - begin, begin);
}

FreeRanges::ByPlace::iterator FreeRanges::erase(ByPlace::iterator range) {
  by_size_.erase({range->second, range->first});
  return by_place_.erase(range);
}

Offset FreeRanges::take(std::int64_t bytes, std::int64_t alignment) {
  auto fit = by_size_.lower_bound({bytes, 0});
  for (int tries = 0; fit != by_size_.end(); ++tries, ++fit) {
    // Past the tries, jump to the first range that fits at any alignment.
    if (tries == kFitTries) fit = by_size_.lower_bound(std::max(*fit, {bytes + alignment, 0}));
    if (fit == by_size_.end()) break;
    const auto [size, range] = *fit;
    const Offset begin = align_up(range, alignment);
    if (begin + bytes > range + size) continue;
    erase(by_place_.find(range));
    insert(range, begin);
    insert(begin + bytes, range + size);
    return begin;
  }
  return kNoOffset;
}

void FreeRanges::give(Offset begin, std::int64_t bytes) {
  if (bytes <= 0) return;
  Offset end = begin + bytes;
  auto next = by_place_.lower_bound(begin);
  if (next != by_place_.begin()) {
    const auto previous = std::prev(next);
    const Offset previous_end = previous->first + previous->second;
    SHOAL_ASSERT(previous_end <= begin);
    if (previous_end == begin) {
      begin = previous->first;
      next = erase(previous);
    }
  }
  if (next != by_place_.end()) {
    SHOAL_ASSERT(end <= next->first);
    if (next->first == end) {
      end += next->second;
      erase(next);
    }
  }
  insert(begin, end);
}

void FreeRanges::remove(Offset begin, std::int64_t bytes) {
  const Offset end = begin + bytes;
  auto range = by_place_.upper_bound(begin);
  if (range != by_place_.begin()) --range;
  while (range != by_place_.end() && range->first < end) {
    const Offset range_begin = range->first;
    const Offset range_end = range_begin + range->second;
    if (range_end <= begin) {
      ++range;
      continue;
    }
    range = erase(range);  // what is inserted lies before it
    insert(range_begin, begin);
    insert(end, range_end);
  }
}

}  // namespace shoal::memory
