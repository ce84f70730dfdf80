/// What a collective must give, written down without any schedule: int64 inputs that name their
/// rank and place, so that a sum shows which contributions are in it.
#pragma once

#include <cstdint>
#include <vector>

#include "exec/plan.h"

namespace shoal::exec {

/// Element `i` of rank `rank`'s input: distinct powers make every subset's sum distinct enough.
inline std::int64_t element(int rank, std::int64_t i) noexcept {
  return (std::int64_t{1} << (3 * (rank % 16))) * (1 + i % 5) + i;
}

inline std::vector<std::int64_t> make_input(const schedule::Shape& shape) {
  std::vector<std::int64_t> values(schedule::input_blocks(shape) * shape.count);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = element(shape.rank, static_cast<std::int64_t>(i));
  }
  return values;
}

inline std::vector<std::int64_t> expected_output(const schedule::Shape& shape) {
  const std::int64_t n = shape.count;
  std::vector<std::int64_t> out(schedule::output_blocks(shape) * n);
  const auto sum = [&](std::int64_t from) {
    for (std::int64_t i = 0; i < n; ++i) {
      for (int r = 0; r < shape.ranks; ++r) out[i] += element(r, from + i);
    }
  };
  const auto blocks = [&](std::int64_t from) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = element(static_cast<int>(i / n), from + static_cast<std::int64_t>(i) % n);
    }
  };
  const auto root_block = [&](std::int64_t from) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = element(shape.root, from + i);
  };
  if (out.empty()) return out;
  switch (shape.collective) {
    case Collective::kBarrier:
      break;
    case Collective::kBroadcast:
      root_block(0);
      break;
    case Collective::kScatter:
      root_block(shape.rank * n);
      break;
    case Collective::kReduce:
    case Collective::kAllReduce:
      sum(0);
      break;
    case Collective::kReduceScatter:
      sum(shape.rank * n);
      break;
    case Collective::kAllGather:
    case Collective::kGather:
      blocks(0);
      break;
    case Collective::kAllToAll:
      blocks(shape.rank * n);
      break;
  }
  return out;
}

}  // namespace shoal::exec
