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
  if (plan.entries == Entries::kEvery) return {0, binding.node.ranks()};
  if (plan.entries == Entries::kNobody) return {0, 0};
  const int root = binding.routes[plan.shape.root].node_index;
  return {root, root + 1};
}

/// Copies the input into this rank's slot for #sequence and says where that is; kNoOffset: no
/// memory for slots (from `pool`, at the first call).
memory::Offset put_in_slot(Group& group, const Plan& plan, std::uint64_t sequence,
                           const void* input, memory::Pool& pool) noexcept;

/// Enters a kInLine or kOneShot operation: shows the others this rank's line, with its input or
/// with the slot into which it goes. False: no memory for slots.
bool enter_at_once(Group& group, const Plan& plan, std::uint64_t sequence, const void* input,
                   memory::Pool& pool) noexcept;

/// Those that are waited for have entered: `output` from all inputs, which are in the lines or in
/// the slots that they name.
void combine(const Binding& binding, const Plan& plan, std::uint64_t sequence,
             void* output) noexcept;

/// The rest of an operation that this rank has entered, if the others are as far or will be within
/// that many polls. False: not yet, or not to be done so (an error, a mismatch).
bool finish_at_once(Group& group, const Plan& plan, std::uint64_t sequence, void* output,
                    int polls) noexcept;

}  // namespace shoal::exec
