#include "transport/rail/split.h"

#include <algorithm>

#include "core/assert.h"

namespace shoal::transport::rail {

namespace {

constexpr bool is_in(std::uint32_t set, int rail) noexcept { return (set >> rail & 1) != 0; }

}  // namespace

Split::Split(std::span<const double> nominal) noexcept : rails_(static_cast<int>(nominal.size())) {
  SHOAL_ASSERT(rails_ >= 1 && rails_ <= kMaxRails);
  // Where one does not say what it can, none is believed: their proportion is all that counts.
  const bool all_say = std::ranges::all_of(nominal, [](double rate) { return rate > 0; });
  for (int r = 0; r < rails_; ++r) rates_[at(r)] = all_say ? nominal[at(r)] : 1.0;
}

void Split::note(int rail, std::int64_t bytes, std::int64_t ns) noexcept {
  if (bytes < kMinPartBytes || ns <= 0) return;
  const double measured = static_cast<double>(bytes) / static_cast<double>(ns);
  rates_[at(rail)] += kSmoothing * (measured - rates_[at(rail)]);
}

int Split::fastest(std::uint32_t live) const noexcept {
  int best = -1;
  for (int r = 0; r < rails_; ++r) {
    if (is_in(live, r) && (best < 0 || rates_[at(r)] > rates_[at(best)])) best = r;
  }
  SHOAL_ASSERT(best >= 0);
  return best;
}

Cut Split::cut(std::int64_t bytes, std::uint32_t live) const noexcept {
  double total = 0;
  for (int r = 0; r < rails_; ++r) total += is_in(live, r) ? rates_[at(r)] : 0;
  Cut cut{};
  std::int64_t offset = 0;
  for (int r = 0; r < rails_; ++r) {
    if (!is_in(live, r)) continue;
    const double share = std::max(rates_[at(r)] / total, kMinShare);
    std::int64_t part = static_cast<std::int64_t>(static_cast<double>(bytes) * share);
    part = std::min(part / kPartAlignment * kPartAlignment, bytes - offset);
    if (part < kMinPartBytes) continue;
    cut[at(r)] = {offset, part};
    offset += part;
  }
  // What rounding and rails too slow for a part have left goes with the fastest one: its part is
  // moved to the end of the message.
  const int last = fastest(live);
  Range& rest = cut[at(last)];
  for (int r = last + 1; r < rails_; ++r) {
    if (cut[at(r)].bytes > 0) cut[at(r)].offset -= rest.bytes;
  }
  rest.offset = offset - rest.bytes;
  rest.bytes = bytes - rest.offset;
  return cut;
}

}  // namespace shoal::transport::rail
