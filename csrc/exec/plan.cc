#include "exec/plan.h"

#include <algorithm>

#include "transport/shm/node_group.h"

namespace shoal::exec {

namespace {

/// Outputs of this size and more are written past the caches. Smaller ones lie in some core's cache,
/// if only from the last time, and a store past that cache has to throw them out of it first: at
/// 1 MiB an all_gather took four times as long, at 64 MiB an all_reduce half as long.
constexpr std::int64_t kStreamBytes = 8 << 20;
/// What a rank puts into its scratch at a time where buffers are staged: small enough to be read
/// from a cache, large enough that its bytes outweigh a flag round.
constexpr std::int64_t kTileBytes = 32 << 10;
constexpr std::int64_t kCrowdedTileBytes = 256 << 10;

/// The largest input of any rank, in bytes.
std::int64_t widest_input(const Plan& plan) noexcept {
  schedule::Shape shape = plan.shape;
  if (has_root(plan.key.collective)) shape.rank = shape.root;
  return std::max(schedule::input_blocks(plan.shape), schedule::input_blocks(shape)) *
         plan.key.count * plan.element_bytes;
}

Form form_of(const Plan& plan, Layout layout) noexcept {
  if (!layout.one_node || plan.program.algorithm != schedule::Algorithm::kDirect) {
    return Form::kSchedule;
  }
  const std::int64_t bytes = widest_input(plan);
  if (bytes <= static_cast<std::int64_t>(sizeof(transport::shm::EntryLine::payload))) {
    return Form::kInLine;
  }
  const std::int64_t most = layout.crowded ? kCrowdedOneShotBytes : kOneShotBytes;
  return bytes <= most ? Form::kOneShot : Form::kSchedule;
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
  shape.tile = (layout.crowded ? kCrowdedTileBytes : kTileBytes) / plan.element_bytes;
  plan.shape = shape;
  const std::int64_t block_bytes = key.count * plan.element_bytes;
  plan.input_bytes = schedule::input_blocks(shape) * block_bytes;
  plan.output_bytes = schedule::output_blocks(shape) * block_bytes;
  plan.streams = plan.output_bytes >= kStreamBytes;
  const schedule::Entry* entry = schedule::find(key.collective, algorithm);
  plan.shares_buffers =
      entry != nullptr && entry->node_memory && algorithm != schedule::Algorithm::kStaged;
  plan.program = make_program(algorithm, shape, plan.element_bytes);
  plan.form = form_of(plan, layout);
  if (plan.form == Form::kOneShot) {
    plan.slot_bytes = layout.crowded ? kCrowdedOneShotBytes : kOneShotBytes;
  }
  const schedule::Entry* staged = schedule::find(key.collective, schedule::Algorithm::kStaged);
  if (plan.form == Form::kSchedule && algorithm == schedule::Algorithm::kDirect &&
      shape.ranks > 1 && staged != nullptr && schedule::supports(*staged, shape)) {
    plan.staged = make_program(schedule::Algorithm::kStaged, shape, plan.element_bytes);
  }
  return plan;
}

}  // namespace shoal::exec
