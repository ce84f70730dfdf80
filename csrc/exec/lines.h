/// Collectives that are their entry lines, or lines and slots, and nothing else: Form::kInLine and
/// kOneShot. Opaque steps; their specification is `direct`.
#pragma once

#include <cstdint>

#include "exec/group.h"
#include "exec/plan.h"

namespace shoal::exec {

/// Whose lines an operation waits for, by place in the node.
struct LineRange {
  int begin, end;
};
inline LineRange awaited_lines(const Binding& binding, const Plan& plan) noexcept {
  if (!plan.is_eager) return {0, binding.node.ranks()};
  const int root = binding.routes[plan.shape.root].node_index;
  return {root, root + 1};
}

/// Shows the others this rank's line of a kInLine operation.
void enter_in_line(const Binding& binding, const Plan& plan, std::uint64_t sequence,
                   const void* input) noexcept;

/// Every rank of the node has entered: `output` from all inputs, which are in the lines or in the
/// slots that they name.
void combine(const Binding& binding, const Plan& plan, std::uint64_t sequence,
             void* output) noexcept;

/// A whole kInLine operation, if all ranks are as far: polls for a moment. False: not yet done, or
/// not to be done so (an error, a mismatch); this rank has entered as `sequence`.
bool run_in_line(Group& group, const Plan& plan, std::uint64_t sequence, const void* input,
                 void* output) noexcept;

}  // namespace shoal::exec
