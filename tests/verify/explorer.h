/// A second opinion on schedules, independent of verify/: it runs them on numbers, in every order.
///
/// Where the verifier reasons (symbols, vector clocks, one execution), the explorer tries: it walks
/// through all states that ranks, transfers and eager sends can reach in any order, and looks at
/// what comes out. A rank's buffers hold garbage until it enters and are overwritten when it has
/// returned, as a user would, so that whoever touches them too early or too late spoils a result.
///
/// Moves that commute with all others are taken at once, which loses no outcome: steps that touch
/// no memory and, where ranks cannot touch each other's, steps and transfers that have no part of
/// memory in common with what else may happen before the transfer's wait. If there are still more
/// than `max_states` states, the rest is sampled by `walks` random walks.
#pragma once

#include <cstdint>
#include <string>

#include "verify/verify.h"

namespace shoal::verify {

struct Exploration {
  bool ok = true;
  bool exhaustive = true;
  std::int64_t states = 0;
  std::string what;  ///< if not ok
};

struct ExplorerLimits {
  std::int64_t max_states = 20'000;
  int walks = 200;
};

Exploration explore(std::span<const Program> programs, const schedule::Shape& shape,
                    AliasMode alias, const ExplorerLimits& limits = {});

}  // namespace shoal::verify
