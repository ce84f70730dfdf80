#include "exec/plan.h"

#include <algorithm>

#include "transport/shm/node_group.h"

namespace shoal::exec {

namespace {

/// Outputs of this size and more are written past the caches. Smaller ones lie in some core's
/// cache, if only from the last time, and a store past that cache has to throw them out of it
/// first: at 1 MiB an all_gather took four times as long, at 64 MiB an all_reduce half as long.
constexpr std::int64_t kStreamBytes = 8 << 20;
/// Slots: one flag round less than with a schedule, but a copy, and every rank reads all of every
/// input. What lies in the arena anyway gains by that only while it is small, where a flag round
/// means that ranks give way to one another, or where one rank sends to all and then need not wait
/// for them.
constexpr std::int64_t kSlotBytes = 2 << 10;
constexpr std::int64_t kCrowdedSlotBytes = 16 << 10;
constexpr std::int64_t kOneShotBytes = 256;
constexpr std::int64_t kEagerBytes = 1 << 10;
constexpr std::int64_t kCrowdedOneShotBytes = 4 << 10;
/// What a rank puts into its scratch at a time where buffers are staged: small enough to be read
/// from a cache, large enough that its bytes outweigh a flag round (without a core of its own: a
/// time slice). Smaller where one side waits for the first tile while the other puts it.
constexpr std::int64_t kTileBytes = 128 << 10;
constexpr std::int64_t kRootedTileBytes = 32 << 10;
constexpr std::int64_t kCrowdedTileBytes = 256 << 10;

/// Several nodes: from here on tiles are worth their flag rounds.
constexpr std::int64_t kStagedBytes = 512 << 10;

std::int64_t tile_bytes(Collective collective, Layout layout) noexcept {
  if (layout.crowded) return kCrowdedTileBytes;
  return has_root(collective) ? kRootedTileBytes : kTileBytes;
}

/// The largest input, or output, of any rank, in bytes.
std::int64_t widest(const Plan& plan, int (*blocks)(const schedule::Shape&)) noexcept {
  schedule::Shape root = plan.shape;
  if (has_root(plan.key.collective)) root.rank = root.root;
  return std::max(blocks(plan.shape), blocks(root)) * plan.key.count * plan.element_bytes;
}
std::int64_t widest_input(const Plan& plan) noexcept {
  return widest(plan, [](const schedule::Shape& s) { return schedule::input_blocks(s); });
}

Form form_of(const Plan& plan, Layout layout) noexcept {
  if (!layout.one_node || plan.program.algorithm != schedule::Algorithm::kDirect) {
    return Form::kSchedule;
  }
  const std::int64_t bytes = widest_input(plan);
  if (bytes <= static_cast<std::int64_t>(sizeof(transport::shm::EntryLine::payload))) {
    return Form::kInLine;
  }
  std::int64_t most = layout.crowded ? kCrowdedOneShotBytes : kOneShotBytes;
  if (is_one_to_all(plan.key.collective)) most = layout.crowded ? kCrowdedSlotBytes : kEagerBytes;
  return bytes <= most ? Form::kOneShot : Form::kSchedule;
}

Entries entries_of(const Plan& plan, const schedule::Entry* entry) noexcept {
  if (plan.form != Form::kSchedule) {
    return is_one_to_all(plan.key.collective) ? Entries::kRoot : Entries::kEvery;
  }
  return entry != nullptr && entry->node_memory ? Entries::kEvery : Entries::kNobody;
}

/// Tile by tile, that is, rather than as a whole.
bool is_worth_staging(const Plan& plan) noexcept {
  switch (plan.program.algorithm) {
    case schedule::Algorithm::kDirect:
      return true;
    case schedule::Algorithm::kHierarchical:
      return schedule::largest_blocks(plan.shape) * plan.key.count * plan.element_bytes >=
             kStagedBytes;
    default:
      return false;
  }
}

Program make_program(schedule::Algorithm algorithm, const schedule::Shape& shape,
                     std::int64_t element_bytes) {
  Program program;
  program.algorithm = algorithm;
  program.shape = shape;
  program.scratch_bytes = schedule::scratch_count(algorithm, shape) * element_bytes;
  schedule::Schedule schedule(algorithm, shape);
  std::vector<schedule::Step> steps;
  while (steps.size() < kKeptSteps) {
    steps.push_back(schedule.next());
    if (steps.back().kind != schedule::StepKind::kEnd) continue;
    program.steps = std::move(steps);
    break;
  }
  return program;
}

}  // namespace

Plan make_plan(const PlanKey& key, schedule::Algorithm algorithm, schedule::Shape shape,
               Layout layout) {
  Plan plan;
  plan.key = key;
  plan.fingerprint = fingerprint(key);
  plan.element_bytes = size_of(key.dtype);
  shape.collective = key.collective;
  shape.root = key.root;
  shape.count = key.count;
  shape.tile = tile_bytes(key.collective, layout) / plan.element_bytes;
  shape.places = std::max<std::int64_t>(2, kStagingBytes / plan.element_bytes / shape.tile);
  plan.shape = shape;
  const std::int64_t block_bytes = key.count * plan.element_bytes;
  plan.input_bytes = schedule::input_blocks(shape) * block_bytes;
  plan.output_bytes = schedule::output_blocks(shape) * block_bytes;
  plan.payload_bytes = std::max(plan.input_bytes, plan.output_bytes);
  plan.streams = plan.output_bytes >= kStreamBytes;
  const schedule::Entry* entry = schedule::find(key.collective, algorithm);
  plan.shares_buffers = entry != nullptr && entry->node_memory && !schedule::is_staged(algorithm);
  plan.program = make_program(algorithm, shape, plan.element_bytes);
  plan.form = form_of(plan, layout);
  plan.entries = entries_of(plan, entry);
  const std::int64_t slot_bytes = layout.crowded ? kCrowdedSlotBytes : kSlotBytes;
  if (layout.one_node && algorithm == schedule::Algorithm::kDirect &&
      widest_input(plan) <= slot_bytes) {
    plan.slot_bytes = slot_bytes;
  }
  if (plan.form == Form::kSchedule && shape.ranks > 1 && is_worth_staging(plan)) {
    const auto staged = algorithm == schedule::Algorithm::kDirect
                            ? schedule::Algorithm::kStaged
                            : schedule::Algorithm::kHierarchicalStaged;
    const schedule::Entry* stand_in = schedule::find(key.collective, staged);
    if (stand_in != nullptr && schedule::supports(*stand_in, shape)) {
      plan.staged = make_program(staged, shape, plan.element_bytes);
    }
  }
  return plan;
}

}  // namespace shoal::exec
