#include "exec/lines.h"

#include <array>
#include <cstddef>
#include <cstring>

#include "core/probes.h"
#include "reduce/reduce.h"

namespace shoal::exec {

namespace {

/// All of them have entered, within that many polls, and mean what this rank means. `node` by
/// value: its addresses need not be loaded again after every look at a line.
bool have_agreed(const transport::shm::NodeGroup node, LineRange lines, std::uint64_t sequence,
                 std::uint64_t fingerprint, int polls) noexcept {
  for (int i = lines.begin; i < lines.end; ++i) {
    while (!node.entered(sequence, i)) {
      if (--polls <= 0) return false;
    }
    if (node.entry(sequence, i).fingerprint != fingerprint) return false;
  }
  return true;
}

/// Apart: what it takes needs no registers in calls that nobody watches.
[[gnu::cold, gnu::noinline]] void show_to_probes(const Binding& binding, const Plan& plan,
                                                 std::uint64_t sequence) noexcept {
  SHOAL_PROBE(begin, binding.communicator, sequence, plan.fingerprint);
  SHOAL_PROBE(end, binding.communicator, sequence, 0);
}

}  // namespace

memory::Offset put_in_slot(Group& group, const Plan& plan, std::uint64_t sequence,
                           const void* input, memory::Pool& pool) noexcept {
  const memory::Offset slot = group.slot(sequence, plan.slot_bytes, pool);
  if (slot != memory::kNoOffset) {
    reduce::copy(group.binding().arena().at(slot), input, plan.input_bytes);
  }
  return slot;
}

bool enter_at_once(Group& group, const Plan& plan, std::uint64_t sequence, const void* input,
                   memory::Pool& pool) noexcept {
  const Binding& binding = group.binding();
  transport::shm::EntryLine& line = binding.node.entry(sequence, binding.node.self());
  line.fingerprint = plan.fingerprint;
  if (plan.form == Form::kInLine) {
    if (plan.input_bytes > 0) {  // a barrier has none
      std::memcpy(line.payload, input, static_cast<std::size_t>(plan.input_bytes));
    }
  } else {
    const memory::Offset slot = put_in_slot(group, plan, sequence, input, pool);
    if (slot == memory::kNoOffset) return false;
    line.places = {slot, memory::kNoOffset, memory::kNoOffset, transport::shm::kInSlot};
  }
  binding.node.enter(sequence);
  binding.ring_node();
  return true;
}

bool finish_at_once(Group& group, const Plan& plan, std::uint64_t sequence, void* output,
                    int polls) noexcept {
  const Binding& binding = group.binding();
  const LineRange lines = awaited_lines(binding, plan);
  if (!have_agreed(binding.node, lines, sequence, plan.fingerprint, polls)) return false;
  if (plan.entries == Entries::kEvery) {
    group.meet(sequence);
    group.mark_compared(sequence);
  }
  group.check(nullptr);
  if (group.ended()) return false;
  combine(binding, plan, sequence, output);
  group.complete(sequence);
  if (ends_are_probed()) [[unlikely]] {
    show_to_probes(binding, plan, sequence);
  }
  return true;
}

void combine(const Binding& binding, const Plan& plan, std::uint64_t sequence, void* to) noexcept {
  const auto& node = binding.node;
  if (plan.key.collective == Collective::kBroadcast && plan.form == Form::kInLine) {
    if (plan.output_bytes == 0) return;  // maybe at a null address
    const int root = binding.routes[plan.shape.root].node_index;
    std::memcpy(to, node.entry(sequence, root).payload, std::size_t(plan.output_bytes));
    return;
  }
  const int ranks = node.ranks();
  const std::int64_t block = plan.key.count * plan.element_bytes;
  auto* const output = static_cast<std::byte*>(to);
  const auto input_of = [&](int rank) noexcept -> const std::byte* {
    const transport::shm::EntryLine& line = node.entry(sequence, rank);
    return plan.form == Form::kInLine ? line.payload : binding.arena().at(line.places.input);
  };
  const auto fold = [&](std::int64_t from) {
    std::array<const void*, transport::shm::kMaxLocalRanks> sources;
    for (int r = 0; r < ranks; ++r) sources[r] = input_of(r) + from;
    const bool average = plan.key.op == ReduceOp::kAvg;
    reduce::fold(plan.key.dtype, plan.key.op, output, {sources.data(), std::size_t(ranks)},
                 plan.key.count, average ? 1.0 / ranks : 1.0);
  };
  const auto concatenate = [&](std::int64_t from) {
    for (int r = 0; r < ranks; ++r) {
      reduce::copy(output + r * block, input_of(r) + from, block);
    }
  };
  const std::int64_t mine = plan.shape.rank * block;
  if (plan.output_bytes == 0) return;
  switch (plan.key.collective) {
    case Collective::kBarrier:
      return;
    case Collective::kBroadcast:
      reduce::copy(output, input_of(plan.shape.root), block);
      return;
    case Collective::kScatter:
      reduce::copy(output, input_of(plan.shape.root) + mine, block);
      return;
    case Collective::kReduce:
    case Collective::kAllReduce:
      fold(0);
      return;
    case Collective::kReduceScatter:
      fold(mine);
      return;
    case Collective::kAllGather:
    case Collective::kGather:
      concatenate(0);
      return;
    case Collective::kAllToAll:
      concatenate(mine);
      return;
  }
}

}  // namespace shoal::exec
