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

/// Makes a generator of an algorithm. A round is evaluated once, and kKept of its steps are kept;
/// once more for each kKept further ones. Rounds are short (a handful of steps), so this is what
/// keeps the state O(1) and a step cheap.
///
/// Steps that move or combine nothing (or copy a place onto itself) are left out, at both ends
/// alike because both compute the same sizes, and so are the waits for them. An algorithm whose
/// messages are signals (barriers) says so by `kSignals`.
template <class Algorithm>
class Rounds {
 public:
  explicit constexpr Rounds(const Shape& shape) noexcept : algorithm_(shape) {}

  Step next() noexcept {
    while (index_ < steps_ || begin_round()) {
      if (index_ == first_kept_ + kKept) keep_from(index_);
      const Step& step = kept_[index_++ - first_kept_];
      if (matters(step)) return step;
    }
    return Step::end();
  }

 private:
  static constexpr bool kSignals = requires { Algorithm::kSignals; };
  static constexpr int kKept = 4;

  /// Goes on to a round that has steps; false: there is none.
  bool begin_round() noexcept {
    const int rounds = algorithm_.rounds();
    while (round_ + 1 < rounds) {
      ++round_;
      keep_from(index_ = 0);
      if (steps_ > 0) return true;
    }
    return false;
  }

  void keep_from(int first) noexcept {
    first_kept_ = first;
    steps_ = 0;
    algorithm_.round(round_, [&](const Step& step) noexcept {
      const int place = steps_++ - first;
      if (place >= 0 && place < kKept) kept_[place] = step;
    });
  }

  bool matters(const Step& step) noexcept {
    switch (step.kind) {
      case StepKind::kSend:
        return starts(step.slot, step.src.count);
      case StepKind::kRecv:
        return starts(step.slot, step.dst.count);
      case StepKind::kWait:
        return ends(1U << step.slot);
      case StepKind::kWaitAll:
        return ends(~0U);
      case StepKind::kCopy:
        return step.dst.count > 0 && step.dst != step.src;
      case StepKind::kReduce:
      case StepKind::kFold:
        return step.dst.count > 0;
      default:
        return true;
    }
  }
  bool starts(int slot, std::int64_t count) noexcept {
    if (count == 0 && !kSignals) return false;
    busy_ |= 1U << slot;
    return true;
  }
  bool ends(std::uint32_t slots) noexcept { return std::exchange(busy_, busy_ & ~slots) & slots; }

  Algorithm algorithm_;
  int round_ = -1;  ///< the one that index_ counts in
  int index_ = 0;
  int steps_ = 0;           ///< of this round
  int first_kept_ = 0;      ///< kept_[0] is this one of them
  std::uint32_t busy_ = 0;  ///< bit s: slot s is in use
  Step kept_[kKept];
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
