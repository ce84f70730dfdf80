/// How an algorithm is written down: as a function from a round's number to the steps of the round.
///
///   struct SomeAlgorithm {
///     int rounds() const noexcept;                       // how many rounds this rank has
///     void round(int k, Emit&& emit) const noexcept;     // calls emit(Step) for each step of
///     round k static std::int64_t scratch(const Shape&) noexcept;
///   };
///
/// Nothing is remembered between rounds, so an algorithm is its shape, two algorithms compose by
/// calling one from the other, and the position in it is two integers.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

#include "schedule/shape.h"
#include "schedule/step.h"

namespace shoal::schedule {

/// Makes a generator of an algorithm, which writes kBatch steps at a time. Rounds are short (a
/// handful of steps), so nearly all are evaluated once: that is what keeps the state O(1) and a
/// step cheap. What does not fit a batch is left for the next one; for it the round is evaluated
/// again.
///
/// Steps that move or combine nothing (or copy a place onto itself) are left out, at both ends
/// alike because both compute the same sizes, and so are the waits for them. An algorithm whose
/// messages are signals (barriers) says so by `kSignals`.
template <class Algorithm>
class Rounds {
 public:
  explicit constexpr Rounds(const Shape& shape) noexcept : algorithm_(shape) {}

  /// Writes the next steps, at least one, and says how many. The last one of all is kEnd, and the
  /// only one from then on.
  // flatten: an emit() that is inlined is a few stores, and its filter is decided at compile time.
  [[gnu::flatten]] int fill(Step* batch) noexcept {
    const int rounds = algorithm_.rounds();
    int filled = 0;
    int longest = 0;
    std::uint32_t busy = busy_;
    while (round_ < rounds && (filled == 0 || filled + longest <= kBatch)) {
      const int room = kBatch - filled;
      int index = -done_;
      algorithm_.round(round_, [&](const Step& step) noexcept {
        if (static_cast<unsigned>(index++) >= static_cast<unsigned>(room)) return;
        if (matters(step, busy)) put(batch[filled++], step);
      });
      longest = std::max(longest, index);
      const bool fits = index <= room;
      round_ += fits ? 1 : 0;
      done_ = fits ? 0 : done_ + room;
    }
    busy_ = busy;
    if (filled == 0) batch[filled++] = Step::end();
    return filled;
  }

 private:
  static constexpr bool kSignals = requires { Algorithm::kSignals; };

  /// Those fields that the kind has, one by one: copied as a whole, a step would be put together on
  /// the stack by small stores and read back by wide loads, which wait until the stores have left
  /// the core.
  static constexpr void put(Step& to, const Step& step) noexcept {
    to.kind = step.kind;
    switch (step.kind) {
      case StepKind::kSend:
        to.slot = step.slot, to.peer = step.peer;
        return put(to.src, step.src);
      case StepKind::kRecv:
      case StepKind::kLand:
        to.slot = step.slot, to.peer = step.peer;
        return put(to.dst, step.dst);
      case StepKind::kPut:
        to.slot = step.slot, to.peer = step.peer;
        put(to.dst, step.dst);
        return put(to.src, step.src);
      case StepKind::kOffer:
      case StepKind::kAccept:
        to.slot = step.slot, to.peer = step.peer;
        return;
      case StepKind::kWait:
        to.slot = step.slot;
        return;
      case StepKind::kAwait:
        to.peer = step.peer;
        return;
      case StepKind::kFold:
        to.own_input = step.own_input, to.own_output = step.own_output;
        [[fallthrough]];
      case StepKind::kCopy:
      case StepKind::kReduce:
      case StepKind::kCombine:
        to.finish = step.finish, to.blocks = step.blocks, to.stride = step.stride;
        put(to.dst, step.dst);
        return put(to.src, step.src);
      default:
        return;
    }
  }
  static constexpr void put(Ref& to, const Ref& ref) noexcept {
    to.space = ref.space, to.rank = ref.rank, to.offset = ref.offset, to.count = ref.count;
  }

  /// `busy`: bit s: slot s is in use.
  static constexpr bool matters(const Step& step, std::uint32_t& busy) noexcept {
    switch (step.kind) {
      case StepKind::kSend:
      case StepKind::kPut:
        return starts(step.slot, step.src.count, busy);
      case StepKind::kRecv:
      case StepKind::kLand:
        return starts(step.slot, step.dst.count, busy);
      case StepKind::kOffer:
      case StepKind::kAccept:
        busy |= 1U << step.slot;
        return true;
      case StepKind::kWait:
        return ends(1U << step.slot, busy);
      case StepKind::kWaitAll:
        return ends(~0U, busy);
      case StepKind::kCopy:
        return step.dst.count > 0 && step.dst != step.src;
      case StepKind::kReduce:
      case StepKind::kCombine:
      case StepKind::kFold:
        return step.dst.count > 0;
      default:
        return true;
    }
  }
  static constexpr bool starts(int slot, std::int64_t count, std::uint32_t& busy) noexcept {
    if (count == 0 && !kSignals) return false;
    busy |= 1U << slot;
    return true;
  }
  static constexpr bool ends(std::uint32_t slots, std::uint32_t& busy) noexcept {
    return (std::exchange(busy, busy & ~slots) & slots) != 0;
  }

  Algorithm algorithm_;
  int round_ = 0;           ///< the next one
  int done_ = 0;            ///< steps of it that have been looked at
  std::uint32_t busy_ = 0;  ///< of the steps written so far
};

/// Rank r of a ring of `ranks`, for -ranks <= r < 2 * ranks.
constexpr Rank wrap(Rank r, Rank ranks) noexcept {
  return r < 0 ? r + ranks : r < ranks ? r : r - ranks;
}

/// Rounds in which a distance doubles until it reaches `ranks`: ceil(log2(ranks)).
constexpr int doublings(Rank ranks) noexcept {
  return std::bit_width(static_cast<std::uint32_t>(ranks - 1));
}

/// Parts [first, first + n) of a partition of `whole`.
constexpr Ref parts_of(const Ref& whole, const Partition& partition, Rank first,
                       Rank n = 1) noexcept {
  const std::int64_t begin = partition.begin(first);
  return whole.slice(begin, partition.begin(first + n) - begin);
}

/// Blocks [first, first + n) of `count` elements each.
constexpr Ref blocks_of(Space space, std::int64_t count, Rank first, Rank n = 1) noexcept {
  return {space, kSelf, first * count, n * count};
}

/// Starts a receive and a send. The receive goes first, so that the message finds it waiting.
template <class Emit>
constexpr void start_exchange(Emit&& emit, Rank to, const Ref& src, Rank from,
                              const Ref& dst) noexcept {
  emit(Step::recv(from, dst, 0));
  emit(Step::send(to, src, 1));
}

template <class Emit>
constexpr void exchange(Emit&& emit, Rank to, const Ref& src, Rank from, const Ref& dst) noexcept {
  start_exchange(emit, to, src, from, dst);
  emit(Step::wait_all());
}

/// A run of blocks [first, first + n) on a ring of `ranks` blocks is one or two contiguous pieces:
/// calls piece(0, first piece) and piece(1, second piece), empty ones too.
template <class Piece>
constexpr void ring_pieces(Rank first, Rank n, Rank ranks, Piece&& piece) noexcept {
  const Rank ahead = std::min(n, ranks - first);
  piece(0, first, ahead);
  piece(1, Rank{0}, n - ahead);
}

/// A row of exchanges that do not depend on one another, kWindow of them in flight: exchange k
/// receives in slot k % kWindow and sends in the slot kWindow further.
inline constexpr int kWindow = kMaxSlots / 2;

constexpr int windowed_rounds(int exchanges) noexcept {
  return exchanges == 0 ? 0 : exchanges + kWindow;
}
constexpr int recv_slot(int exchange) noexcept { return exchange % kWindow; }
constexpr int send_slot(int exchange) noexcept { return kWindow + exchange % kWindow; }

/// Round t completes exchange t - kWindow, then starts exchange t.
template <class Start, class Complete>
constexpr void windowed(int t, int exchanges, Start&& start, Complete&& complete) noexcept {
  if (kWindow <= t && t - kWindow < exchanges) complete(t - kWindow);
  if (t < exchanges) start(t);
}

}  // namespace shoal::schedule
