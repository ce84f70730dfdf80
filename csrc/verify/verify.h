/// Proves a schedule right for one shape, by running all ranks' steps on symbols instead of
/// numbers.
///
/// Schedules have no wildcard and no branch on data, so which send meets which receive does not
/// depend on time: one execution that goes on until nobody can decides about all executions. What
/// is proved, for P <= kMaxProvedRanks:
/// - result: every output element is the reduction of the right input element of every rank, each
///   exactly once, finished exactly once (copies: the right element of the right rank)
/// - defined: nothing is read that has not been written; inputs are not written (but as outputs)
/// - bounds: every reference lies in its space; slots, peers and sizes are valid; messages match
/// - blocks: where they may lie anywhere, no reference goes across the border of one
/// - deadlock: none, though a send completes only when its receive has been started
/// - in flight: nothing is touched that an unfinished operation writes, or written that one reads
/// - races: any two conflicting accesses of two ranks are ordered by happens-before (post to await,
///   send to receive; a receiver never orders its sender, since sends may be eager)
/// - puts: go to scratch that was offered; into a place of which the rank knows, by a message, that
///   nobody touches it any more; nobody touches it before the put has landed: a put may be written
///   from its step on, and completes only when its landing is awaited
/// - return: a rank's buffers are touched by others only after its entry and before its return
/// - posts: the ranks of a node post equally often
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "schedule/catalog.h"

namespace shoal::verify {

inline constexpr Rank kMaxProvedRanks = 128;

/// Which ranks call in place (where shape.h defines that for the collective and the rank).
enum class AliasMode : std::uint8_t { kNone, kAll, kOdd };
inline constexpr AliasMode kAliasModes[] = {AliasMode::kNone, AliasMode::kAll, AliasMode::kOdd};

/// Where the blocks of an input or output lie: one behind the other, or each somewhere else.
enum class BlockMode : std::uint8_t { kAdjacent, kAnywhere };

struct Verdict {
  bool ok = true;
  std::string what;  ///< if not ok: rank, step, and what is wrong with it

  explicit operator bool() const noexcept { return ok; }
};

/// What one rank runs, written out.
struct Program {
  std::vector<schedule::Step> steps;  ///< without the kEnd
  std::int64_t scratch = 0;
};

/// Every rank's program (`shape.rank` is ignored), each cut after kMaxSteps steps.
inline constexpr int kMaxSteps = 1 << 20;
std::vector<Program> programs_of(schedule::Algorithm algorithm, const schedule::Shape& shape);

/// `shape.rank` is ignored. The caller has checked supports(). An entry's blocks lie where its
/// algorithm says that they may.
Verdict verify(const schedule::Entry& entry, const schedule::Shape& shape, AliasMode alias);
Verdict verify(std::span<const Program> programs, const schedule::Shape& shape, AliasMode alias,
               BlockMode blocks = BlockMode::kAdjacent);
BlockMode block_mode(schedule::Algorithm algorithm) noexcept;

}  // namespace shoal::verify
