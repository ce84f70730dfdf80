/// Which algorithm runs a call. From agreed values only, so that all ranks choose the same.
#pragma once

#include <string_view>

#include "exec/plan.h"

namespace shoal::comm {

struct Choice {
  schedule::Algorithm algorithm;
  std::string_view reason;  ///< for people
};

/// `shape` has ranks and node_ranks; `one_node`: all ranks share memory.
Choice choose(const exec::PlanKey& key, schedule::Shape shape, bool one_node) noexcept;

}  // namespace shoal::comm
