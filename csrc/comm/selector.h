/// Which algorithm runs a call. From agreed values only, so that all ranks choose the same.
#pragma once

#include <string>
#include <string_view>

#include "exec/plan.h"
#include "tune/table.h"

namespace shoal::comm {

struct Choice {
  schedule::Algorithm algorithm;
  std::string_view rule;                ///< for people: why, unless it was measured
  const tune::Row* measured = nullptr;  ///< of the table that was asked
};

/// What the table says of this call, else what the built-in rules say. A deterministic call and one
/// in one node is a matter of rules only, which have no one-sided algorithm: where it is the faster
/// one has to be measured. `shape` has ranks and node_ranks; `one_node`: all ranks share memory;
/// `has_put`: all have a network with one-sided operations, else the table's rows that want them
/// say nothing.
Choice choose(const exec::PlanKey& key, schedule::Shape shape, bool one_node,
              const tune::Table& table, bool has_put = false) noexcept;

/// Why, for people. `shape` and `table`: those of the choice.
std::string reason(const Choice& choice, const schedule::Shape& shape, const tune::Table& table);

}  // namespace shoal::comm
