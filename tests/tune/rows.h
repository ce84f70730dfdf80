/// Rows for tests, short to write.
#pragma once

#include <utility>
#include <vector>

#include "tune/table.h"

namespace shoal::tune {

using schedule::Algorithm;

inline Row all_reduce(Rank ranks, Rank node_ranks, std::int64_t up_to_bytes, Algorithm algorithm) {
  Row row;
  row.collective = Collective::kAllReduce;
  row.ranks = ranks;
  row.node_ranks = node_ranks;
  row.up_to_bytes = up_to_bytes;
  row.algorithm = algorithm;
  row.us = 12.34;
  row.next = Algorithm::kOrdered;
  row.next_us = 15;
  return row;
}

inline Table table_of(std::vector<Row> rows) {
  return {{Origin{"2026-03-01", "a, b", "UCX 1.22, tcp"}}, std::move(rows)};
}

inline schedule::Shape shape_of(Collective collective, Rank ranks, Rank node_ranks) {
  schedule::Shape shape;
  shape.collective = collective;
  shape.ranks = ranks;
  shape.node_ranks = node_ranks;
  return shape;
}

}  // namespace shoal::tune
