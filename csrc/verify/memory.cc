#include "verify/memory.h"

#include <algorithm>

namespace shoal::verify {

void append(Pieces& pieces, const Piece& piece) {
  if (piece.length == 0) return;
  if (!pieces.empty()) {
    Piece& last = pieces.back();
    const bool both_undefined = !last.content.defined() && !piece.content.defined();
    if (both_undefined || last.content.further(last.length) == piece.content) {
      last.length += piece.length;
      return;
    }
  }
  pieces.push_back(piece);
}

Memory::Memory(std::int64_t size) : size_(size) {
  if (size > 0) stretches_.push_back({0, {}});
}

std::size_t Memory::index_of(std::int64_t element) const noexcept {
  const auto after =
      std::upper_bound(stretches_.begin(), stretches_.end(), element,
                       [](std::int64_t at, const Stretch& stretch) { return at < stretch.begin; });
  return static_cast<std::size_t>(after - stretches_.begin()) - 1;
}

std::int64_t Memory::end_of(std::size_t index) const noexcept {
  return index + 1 < stretches_.size() ? stretches_[index + 1].begin : size_;
}

void Memory::read(std::int64_t begin, std::int64_t count, Pieces& out) const {
  out.clear();
  const std::int64_t end = begin + count;
  for (std::size_t i = count > 0 ? index_of(begin) : 0; begin < end; ++i) {
    const std::int64_t until = std::min(end, end_of(i));
    append(out, {until - begin, stretches_[i].content.further(begin - stretches_[i].begin)});
    begin = until;
  }
}

void Memory::write(std::int64_t begin, const Pieces& pieces) {
  fresh_.clear();
  std::int64_t at = begin;
  for (const Piece& piece : pieces) {
    fresh_.push_back({at, piece.content});
    at += piece.length;
  }
  if (at == begin) return;
  const std::size_t first = index_of(begin), last = index_of(at - 1);
  const Stretch head = stretches_[first], tail = stretches_[last];
  if (head.begin < begin) fresh_.insert(fresh_.begin(), head);
  if (at < end_of(last)) fresh_.push_back({at, tail.content.further(at - tail.begin)});
  const auto from = stretches_.begin() + static_cast<std::ptrdiff_t>(first);
  const auto to = stretches_.begin() + static_cast<std::ptrdiff_t>(last) + 1;
  const auto kept = static_cast<std::ptrdiff_t>(std::min(fresh_.size(), last + 1 - first));
  std::copy_n(fresh_.begin(), kept, from);
  if (from + kept < to) {
    stretches_.erase(from + kept, to);
  } else {
    stretches_.insert(from + kept, fresh_.begin() + kept, fresh_.end());
  }
}

}  // namespace shoal::verify
