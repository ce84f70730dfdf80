#include "verify/verify.h"

#include "verify/machine.h"

namespace shoal::verify {

using schedule::Schedule;
using schedule::Shape;
using schedule::Step;
using schedule::StepKind;

std::vector<Program> programs_of(schedule::Algorithm algorithm, const Shape& shape) {
  std::vector<Program> programs(static_cast<std::size_t>(shape.ranks));
  Shape at = shape;
  for (at.rank = 0; at.rank < shape.ranks; ++at.rank) {
    Program& program = programs[static_cast<std::size_t>(at.rank)];
    program.scratch = scratch_count(algorithm, at);
    Schedule schedule(algorithm, at);
    for (int n = 0; n < kMaxSteps; ++n) {
      const Step step = schedule.next();
      if (step.kind == StepKind::kEnd) break;
      program.steps.push_back(step);
    }
  }
  return programs;
}

Verdict verify(const schedule::Entry& entry, const Shape& shape, AliasMode alias) {
  return verify(programs_of(entry.algorithm, shape), shape, alias, block_mode(entry.algorithm));
}

BlockMode block_mode(schedule::Algorithm algorithm) noexcept {
  return schedule::keeps_to_blocks(algorithm) ? BlockMode::kAnywhere : BlockMode::kAdjacent;
}

Verdict verify(std::span<const Program> programs, const Shape& shape, AliasMode alias,
               BlockMode blocks) {
  if (shape.ranks < 1 || shape.ranks > kMaxProvedRanks ||
      programs.size() != static_cast<std::size_t>(shape.ranks)) {
    return {false, "cannot prove " + std::to_string(shape.ranks) + " ranks with " +
                       std::to_string(programs.size()) + " programs (1 to " +
                       std::to_string(kMaxProvedRanks) + ", one each)"};
  }
  return Machine(programs, shape, alias, blocks).run();
}

}  // namespace shoal::verify
