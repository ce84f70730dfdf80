/// One step of a schedule. Pure data: no pointers, no transport, no time.
///
/// A schedule addresses elements, not bytes, in three spaces of each rank:
///   kInput    what the user gave      (blocks_in  x count elements, see shape.h)
///   kOutput   what the user receives  (blocks_out x count elements)
///   kScratch  `scratch_count` elements, uninitialised; ranks of the node may read it
/// Input may alias Output where the collective defines an in-place form; schedules need not know:
/// the executor turns a copy onto itself into nothing, and the verifier proves both forms.
#pragma once

#include <cstdint>
#include <utility>

namespace shoal::schedule {

enum class Space : std::uint8_t { kInput, kOutput, kScratch };

/// In Ref::rank: the buffer of the rank that runs the step / of every rank of the node group.
inline constexpr std::int32_t kSelf = -1;
inline constexpr std::int32_t kEvery = -2;

/// `count` elements from `offset` in one space of one rank, or of every rank of the node.
struct Ref {
  Space space = Space::kInput;
  std::int32_t rank = kSelf;
  std::int64_t offset = 0;
  std::int64_t count = 0;

  [[nodiscard]] constexpr Ref slice(std::int64_t from, std::int64_t n) const noexcept {
    return {space, rank, offset + from, n};
  }
  [[nodiscard]] constexpr Ref of(std::int32_t owner) const noexcept {
    return {space, owner, offset, count};
  }
  friend constexpr bool operator==(const Ref&, const Ref&) = default;
};

constexpr Ref input(std::int64_t offset, std::int64_t count) noexcept {
  return {Space::kInput, kSelf, offset, count};
}
constexpr Ref output(std::int64_t offset, std::int64_t count) noexcept {
  return {Space::kOutput, kSelf, offset, count};
}
constexpr Ref scratch(std::int64_t offset, std::int64_t count) noexcept {
  return {Space::kScratch, kSelf, offset, count};
}

enum class StepKind : std::uint8_t {
  kEnd,     ///< the schedule is complete; every later next() returns kEnd again
  kSend,    ///< start sending src to peer; completes by wait(slot)
  kRecv,    ///< start receiving dst from peer; completes by wait(slot)
  kOffer,   ///< tell peer that it may put to this rank's scratch; completes by wait(slot)
  kAccept,  ///< await the peer's offer: from wait(slot) on this rank may put to it, and to no other
  kPut,     ///< start writing src straight to dst, a place in the peer's scratch, and then raising
            ///<   the flag that says so; completes by wait(slot): src may change
  kLand,    ///< await the flag of the peer's put to dst; by wait(slot) all of it is there
  kWait,    ///< the operation in `slot` is complete
  kWaitAll,  ///< every started operation is complete
  kCopy,     ///< dst = src; both have the same count
  kReduce,   ///< dst = dst op src, in this operand order
  kCombine,  ///< dst = src op addend(), in this operand order; all of them this rank's own. dst may
             ///<   be src exactly. What kCopy and kReduce do, in one pass
  kFold,     ///< dst = src[0] op src[1] op ...: `blocks` blocks of src in order, rounded once.
             ///<   src.rank == kEvery: block k is node rank k's src; else block k starts at
             ///<   src.offset + k * stride. dst may be one of the blocks exactly.
             ///<   dst.rank == kEvery: the result is stored to every node rank's dst.
             ///<   See own_input, own_output.
  kPost,     ///< tell every rank of the node that this rank has come so far (its next phase)
  kAwait,    ///< rank `peer` (or kEvery) of the node has posted as often as this rank has
};

/// Steps are executed in order. Only what has a slot goes on in the background, from its step to
/// the wait that names the slot; meanwhile its Ref must not be written (send, put) or touched
/// (recv, land). Between two ranks, messages match in the order in which they were started: a send
/// with a recv, an offer with an accept, a put with a land of the same place.
///
/// A put is one-sided: it may write from its step on, whatever the peer is doing. That its place is
/// free the rank must have learnt from the peer: by its offer, where each place is written once, or
/// by a later message. Places are in scratch and nowhere else: where an error has ended an
/// operation, a late put finds memory that nobody uses any more, and never a user's buffer.
///
/// Another rank's spaces (Ref::rank >= 0 or kEvery) may be touched only between the first
/// kAwait on that rank, and the last kPost that lets it return.
///
/// What a kind does not use may hold anything.
struct Step {
  StepKind kind = StepKind::kEnd;
  std::uint8_t slot = 0;  ///< of messages and kWait: 0 <= slot < kMaxSlots
  bool finish = false;    ///< kReduce, kCombine, kFold: dst becomes complete (kAvg divides now)
  /// kFold with src.rank == kEvery: of this rank own_block() is read instead of its src.
  bool own_input = false;
  /// kFold: the result is stored to own_result() too.
  bool own_output = false;
  std::int32_t peer = 0;    ///< of messages: rank; kAwait: rank or kEvery
  std::int32_t blocks = 0;  ///< kFold
  /// kFold with src.rank == kSelf: elements between blocks, else where own_block() and own_result()
  /// begin. kCombine: where addend() begins.
  std::int64_t stride = 0;
  Ref dst{};
  Ref src{};

  /// Of a kCombine: what is added to src lies in this rank's scratch.
  [[nodiscard]] constexpr Ref addend() const noexcept { return scratch(stride, dst.count); }
  /// Of a kFold: this rank's contribution, and where it wants the result.
  [[nodiscard]] constexpr Ref own_block() const noexcept { return input(stride, dst.count); }
  [[nodiscard]] constexpr Ref own_result() const noexcept { return output(stride, dst.count); }

  static constexpr Step end() noexcept { return {}; }
  static constexpr Step send(std::int32_t peer, Ref src, int slot) noexcept {
    Step s;
    s.kind = StepKind::kSend, s.peer = peer, s.src = src, s.slot = static_cast<std::uint8_t>(slot);
    return s;
  }
  static constexpr Step recv(std::int32_t peer, Ref dst, int slot) noexcept {
    Step s;
    s.kind = StepKind::kRecv, s.peer = peer, s.dst = dst, s.slot = static_cast<std::uint8_t>(slot);
    return s;
  }
  static constexpr Step offer(std::int32_t peer, int slot) noexcept {
    Step s;
    s.kind = StepKind::kOffer, s.peer = peer, s.slot = static_cast<std::uint8_t>(slot);
    return s;
  }
  static constexpr Step accept(std::int32_t peer, int slot) noexcept {
    Step s;
    s.kind = StepKind::kAccept, s.peer = peer, s.slot = static_cast<std::uint8_t>(slot);
    return s;
  }
  /// `place`: in the peer's scratch.
  static constexpr Step put(std::int32_t peer, Ref place, Ref src, int slot) noexcept {
    Step s = send(peer, src, slot);
    s.kind = StepKind::kPut, s.dst = place.of(peer);
    return s;
  }
  static constexpr Step land(std::int32_t peer, Ref place, int slot) noexcept {
    Step s = recv(peer, place, slot);
    s.kind = StepKind::kLand;
    return s;
  }
  static constexpr Step wait(int slot) noexcept {
    Step s;
    s.kind = StepKind::kWait, s.slot = static_cast<std::uint8_t>(slot);
    return s;
  }
  static constexpr Step wait_all() noexcept {
    Step s;
    s.kind = StepKind::kWaitAll;
    return s;
  }
  static constexpr Step copy(Ref dst, Ref src) noexcept {
    Step s;
    s.kind = StepKind::kCopy, s.dst = dst, s.src = src;
    return s;
  }
  static constexpr Step reduce(Ref dst, Ref src, bool finish = false) noexcept {
    Step s;
    s.kind = StepKind::kReduce, s.dst = dst, s.src = src, s.finish = finish;
    return s;
  }
  static constexpr Step combine(Ref dst, Ref src, Ref in_scratch, bool finish = false) noexcept {
    Step s;
    s.kind = StepKind::kCombine, s.dst = dst, s.src = src, s.finish = finish;
    s.stride = in_scratch.offset;
    return s;
  }
  static constexpr Step fold(Ref dst, Ref src, int blocks, std::int64_t stride,
                             bool finish = false) noexcept {
    Step s;
    s.kind = StepKind::kFold, s.dst = dst, s.src = src, s.finish = finish;
    s.blocks = blocks, s.stride = stride;
    return s;
  }
  /// Folds what the ranks of the node have in `staged`, but of this rank what it has in its input
  /// from `own` on.
  static constexpr Step fold_staged(Ref dst, Ref staged, int blocks, std::int64_t own) noexcept {
    Step s = fold(dst, staged.of(kEvery), blocks, own, true);
    s.own_input = true;
    return s;
  }
  static constexpr Step post() noexcept {
    Step s;
    s.kind = StepKind::kPost;
    return s;
  }
  static constexpr Step await(std::int32_t peer) noexcept {
    Step s;
    s.kind = StepKind::kAwait, s.peer = peer;
    return s;
  }
};

/// Slots of one schedule: 8 keep a pipeline full on every transport we have measured.
inline constexpr int kMaxSlots = 8;

/// Steps that are generated at a time. 32: to ask for a batch costs less than one of its steps.
inline constexpr int kBatch = 32;

}  // namespace shoal::schedule
