#include "exec/plan.h"

#include "transport/shm/node_group.h"

namespace shoal::exec {

namespace {

bool fits_entry_line(const Plan& plan) noexcept {
  schedule::Shape widest = plan.shape;
  if (has_root(plan.key.collective)) widest.rank = widest.root;
  const std::int64_t bytes =
      std::max(schedule::input_blocks(plan.shape), schedule::input_blocks(widest)) *
      plan.key.count * plan.element_bytes;
  return bytes <= static_cast<std::int64_t>(sizeof(transport::shm::EntryLine::payload));
}

}  // namespace

Plan make_plan(const PlanKey& key, schedule::Algorithm algorithm, schedule::Shape shape,
               bool one_node) noexcept {
  Plan plan;
  plan.key = key;
  plan.fingerprint = fingerprint(key);
  plan.algorithm = algorithm;
  plan.shape = shape;
  plan.shape.collective = key.collective;
  plan.shape.root = key.root;
  plan.shape.count = key.count;
  plan.element_bytes = size_of(key.dtype);
  const std::int64_t block_bytes = key.count * plan.element_bytes;
  plan.input_bytes = schedule::input_blocks(plan.shape) * block_bytes;
  plan.output_bytes = schedule::output_blocks(plan.shape) * block_bytes;
  plan.scratch_bytes = schedule::scratch_count(algorithm, plan.shape) * plan.element_bytes;
  plan.in_line = one_node && algorithm == schedule::Algorithm::kDirect && fits_entry_line(plan);
  return plan;
}

}  // namespace shoal::exec
