/// What `shoal tune` has measured on a cluster: the fastest algorithm for a call's shape and size.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "schedule/catalog.h"

namespace shoal::tune {

/// Of rows that were measured together; for people.
struct Origin {
  std::string date;
  std::string hosts;
  std::string network;

  friend bool operator==(const Origin&, const Origin&) = default;
};

/// One measurement: what was the fastest, and by how much.
struct Row {
  Collective collective = Collective::kBarrier;
  Rank ranks = 0;
  Rank node_ranks = 1;           ///< as in schedule::Shape
  std::int64_t up_to_bytes = 0;  ///< of the largest buffer that a rank gives to the call
  schedule::Algorithm algorithm = schedule::Algorithm::kRing;
  double us = 0;
  std::optional<schedule::Algorithm> next;  ///< the runner-up, if there was one
  double next_us = 0;
  std::size_t origin = 0;  ///< index into Table::origins()

  friend bool operator==(const Row&, const Row&) = default;
};

/// Why no table may hold this row, for people; "" if it is right. One-node shapes are wrong: there
/// is nothing to choose.
std::string objection(const Row& row);

/// True if both answer for the same calls.
bool is_same_cell(const Row& a, const Row& b) noexcept;

/// Immutable. A default one is empty and knows nothing.
class Table {
 public:
  Table() = default;
  /// In any order; no row has an objection(), no two are the same cell.
  Table(std::vector<Origin> origins, std::vector<Row> rows);

  /// The row that answers for a call: of the measured (ranks, node_ranks) the same, else the
  /// nearest in log2 with several ranks a node or one, as here; of its rows the first that goes up
  /// to so many bytes. nullptr: none does, or its algorithm cannot run this shape. `shape` has
  /// collective, ranks and node_ranks. Cost: one pass over the rows; no allocation.
  [[nodiscard]] const Row* find(const schedule::Shape& shape, std::int64_t bytes) const noexcept;

  /// Ordered by collective, ranks, node_ranks, bytes.
  [[nodiscard]] std::span<const Row> rows() const noexcept { return rows_; }
  [[nodiscard]] std::span<const Origin> origins() const noexcept { return origins_; }
  [[nodiscard]] bool empty() const noexcept { return rows_.empty(); }

  /// This table with what `newer` has measured. For a collective and a shape that it has rows of,
  /// none of the old ones stay: they were measured in another state of the network.
  [[nodiscard]] Table updated_by(const Table& newer) const;

 private:
  std::vector<Origin> origins_;
  std::vector<Row> rows_;
};

}  // namespace shoal::tune
