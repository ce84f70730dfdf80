/// What is to be done, worked out once per shape and kept.
#pragma once

#include <cstdint>
#include <vector>

#include "schedule/catalog.h"
#include "shoal/types.h"

namespace shoal::exec {

/// Everything all ranks must agree on, and nothing else: no address, no in-place. POD.
struct PlanKey {
  Collective collective = Collective::kBarrier;
  DataType dtype = DataType::kUint8;
  ReduceOp op = ReduceOp::kSum;
  bool deterministic = false;
  bool device = false;  ///< buffers are CUDA memory
  std::uint16_t root = 0;
  std::int64_t count = 0;  ///< elements of one block, see schedule/shape.h

  friend bool operator==(const PlanKey&, const PlanKey&) = default;
};

/// 2^36 elements in one block; what a fingerprint can hold.
inline constexpr std::int64_t kMaxCount = (std::int64_t{1} << 36) - 1;
inline constexpr Rank kMaxRoot = (1 << 15) - 1;

static_assert(kCollectives <= 1 << 4 && kDataTypes <= 1 << 4 && kReduceOps <= 1 << 3);
/// All of a key in 64 bits, so that a mismatch can name both sides:
/// collective 4 | dtype 4 | op 3 | deterministic 1 | device 1 | root 15 | count 36.
constexpr std::uint64_t fingerprint(const PlanKey& key) noexcept {
  return std::uint64_t(key.collective) << 60 | std::uint64_t(key.dtype) << 56 |
         std::uint64_t(key.op) << 53 | std::uint64_t(key.deterministic) << 52 |
         std::uint64_t(key.device) << 51 | std::uint64_t(key.root) << 36 |
         static_cast<std::uint64_t>(key.count);
}

constexpr PlanKey key_of(std::uint64_t fingerprint) noexcept {
  PlanKey key;
  key.collective = static_cast<Collective>(fingerprint >> 60 & 0xf);
  key.dtype = static_cast<DataType>(fingerprint >> 56 & 0xf);
  key.op = static_cast<ReduceOp>(fingerprint >> 53 & 0x7);
  key.deterministic = (fingerprint >> 52 & 1) != 0;
  key.device = (fingerprint >> 51 & 1) != 0;
  key.root = static_cast<std::uint16_t>(fingerprint >> 36 & 0x7fff);
  key.count = static_cast<std::int64_t>(fingerprint & kMaxCount);
  return key;
}

/// The part of a fingerprint that travels in every message: a mix, so that any difference shows
/// with probability 1 - 2^-12.
constexpr std::uint16_t short_fingerprint(std::uint64_t fingerprint) noexcept {
  std::uint64_t x = fingerprint;
  x = (x ^ (x >> 31)) * 0x7fb5d329728ea185;
  x = (x ^ (x >> 27)) * 0x81dadef4bc2dd44d;
  return static_cast<std::uint16_t>((x ^ (x >> 33)) & 0xfff);
}

/// The steps of one schedule at this rank.
struct Program {
  schedule::Algorithm algorithm = schedule::Algorithm::kDirect;
  schedule::Shape shape;
  std::int64_t scratch_bytes = 0;
  /// All of them, the kEnd included, so that a repeated call does not generate them again; empty if
  /// there are more than kKeptSteps: then they are generated as they are needed.
  std::vector<schedule::Step> steps;
};
inline constexpr int kKeptSteps = 256;

/// Memory that takes turns where buffers are staged, within an operation and from one to the next.
/// To write a line that another core has read, and still has in its cache, costs several times what
/// the copy costs (EPYC: 9 GB/s against 41): it must have fallen out of that cache. Twice the
/// largest second-level cache of today.
inline constexpr std::int64_t kStagingBytes = 4 << 20;

/// How a collective runs. All but kSchedule are opaque steps; their specification is `direct`.
enum class Form : std::uint8_t {
  kSchedule,
  kInLine,   ///< every rank's whole input fits its entry line, which is the whole operation
  kOneShot,  ///< it goes into a slot of the rank's pool, which the others read; one flag round
};

/// Whose entry a rank awaits within its node. The lines of the others are compared later, by the
/// next operation that awaits them.
enum class Entries : std::uint8_t {
  kEvery,
  kRoot,    ///< a small input goes to all by line or slot: they need it, its rank needs nobody
  kNobody,  ///< messages only, which name what they belong to
};

/// Where a job's ranks are, as far as plans depend on it. The same on all ranks of a node.
struct Layout {
  bool one_node = false;
  bool crowded = false;  ///< more ranks than cores
};

/// Immutable once made.
struct Plan {
  PlanKey key;
  std::uint64_t fingerprint = 0;
  schedule::Shape shape;  ///< as this rank sees it
  std::int64_t element_bytes = 1;
  std::int64_t input_bytes = 0;  ///< of this rank's buffers
  std::int64_t output_bytes = 0;
  std::int64_t payload_bytes = 0;  ///< the larger of the two: what this rank's page counts
  Form form = Form::kSchedule;
  /// Of the slots for inputs; 0: they are too large. Of a kSchedule too: where no rank's memory is
  /// in the arena, it runs as a kOneShot.
  std::int64_t slot_bytes = 0;
  Entries entries = Entries::kEvery;
  bool shares_buffers = false;  ///< ranks of a node touch one another's
  bool streams = false;         ///< outputs are too large to stay in a cache
  Program program;
  /// Instead of `program` where the memory of a rank is not in the arena. kDirect: there is none,
  /// and it goes through pool blocks as a whole.
  Program staged;

  /// The schedule itself sees to memory that is not in the arena.
  [[nodiscard]] bool takes_private_memory() const noexcept {
    return schedule::is_staged(staged.algorithm);
  }
  /// A side of one block a rank may be a list of blocks that lie anywhere. Where all is small, one
  /// copy to have them together costs less.
  [[nodiscard]] bool takes_lists() const noexcept {
    return form == Form::kSchedule && slot_bytes == 0 &&
           schedule::keeps_to_blocks(program.algorithm);
  }
};

/// `shape` as this rank sees it, without collective, root and count.
Plan make_plan(const PlanKey& key, schedule::Algorithm algorithm, schedule::Shape shape,
               Layout layout);

}  // namespace shoal::exec
