#include "tune/table.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "core/assert.h"

namespace shoal::tune {

namespace {

using schedule::Algorithm;

auto cell_of(const Row& row) noexcept {
  return std::tuple(row.collective, row.ranks, row.node_ranks, row.up_to_bytes);
}

/// How many times larger the larger of two numbers is. Exact: hosts with other libraries of
/// mathematics must order shapes alike.
struct Ratio {
  std::int64_t larger, smaller;

  Ratio(Rank a, Rank b) noexcept : larger(std::max(a, b)), smaller(std::min(a, b)) {}
  friend bool operator<(const Ratio& a, const Ratio& b) noexcept {
    return a.larger * b.smaller < b.larger * a.smaller;
  }
};

/// Of two shapes at the same distance, the smaller one is the nearer.
bool is_nearer(const Row& a, const Row& b, const schedule::Shape& shape) noexcept {
  const Ratio ranks_a(a.ranks, shape.ranks), ranks_b(b.ranks, shape.ranks);
  if (ranks_a < ranks_b || ranks_b < ranks_a) return ranks_a < ranks_b;
  const Ratio width_a(a.node_ranks, shape.node_ranks), width_b(b.node_ranks, shape.node_ranks);
  if (a.ranks == b.ranks && (width_a < width_b || width_b < width_a)) return width_a < width_b;
  return std::pair(a.ranks, a.node_ranks) < std::pair(b.ranks, b.node_ranks);
}

bool answers(const Row& row, const schedule::Shape& shape) noexcept {
  return row.collective == shape.collective && (row.node_ranks > 1) == (shape.node_ranks > 1);
}

bool is_between_nodes(Algorithm algorithm) noexcept {
  return !schedule::is_of_one_node(algorithm) && !schedule::is_staged(algorithm);
}

std::string algorithms_of(Collective collective) {
  std::string names;
  for (const schedule::Entry& entry : schedule::catalog()) {
    if (entry.collective != collective || !is_between_nodes(entry.algorithm)) continue;
    names += (names.empty() ? "" : ", ") + std::string(schedule::name_of(entry.algorithm));
  }
  return names;
}

std::string objection(Algorithm algorithm, const schedule::Shape& shape) {
  const std::string name(schedule::name_of(algorithm));
  const std::string collective(name_of(shape.collective));
  const schedule::Entry* entry = schedule::find(shape.collective, algorithm);
  if (entry == nullptr || !is_between_nodes(algorithm)) {
    return collective + " has no algorithm \"" + name + "\" between nodes; it has " +
           algorithms_of(shape.collective);
  }
  if (schedule::supports(*entry, shape)) return "";
  return name + " cannot run " + collective + " on " + std::to_string(shape.ranks) + " ranks, " +
         std::to_string(shape.node_ranks) + " a node (it needs several of several ranks)";
}

bool is_time(double us) noexcept { return std::isfinite(us) && us > 0; }

}  // namespace

std::string objection(const Row& row) {
  if (row.node_ranks < 1 || row.ranks < 2 || row.ranks % row.node_ranks != 0) {
    return std::to_string(row.ranks) + " ranks, " + std::to_string(row.node_ranks) +
           " a node: at least two ranks are needed, and the second number must divide the first";
  }
  if (row.node_ranks == row.ranks) {
    return "all " + std::to_string(row.ranks) +
           " ranks are in one node, where nothing is chosen; remove the line";
  }
  if (row.up_to_bytes < 0) return "a size is not negative";
  schedule::Shape shape;
  shape.collective = row.collective;
  shape.ranks = row.ranks;
  shape.node_ranks = row.node_ranks;
  std::string text = objection(row.algorithm, shape);
  if (text.empty() && row.next.has_value()) text = objection(*row.next, shape);
  if (!text.empty()) return text;
  if (row.next == row.algorithm) return "the next best is the best itself";
  if (!is_time(row.us) || (row.next.has_value() && !is_time(row.next_us))) {
    return "times are microseconds and positive";
  }
  return "";
}

bool is_same_cell(const Row& a, const Row& b) noexcept { return cell_of(a) == cell_of(b); }

Table::Table(std::vector<Origin> origins, std::vector<Row> rows)
    : origins_(std::move(origins)), rows_(std::move(rows)) {
  std::ranges::sort(rows_, {}, cell_of);
  SHOAL_ASSERT(std::ranges::adjacent_find(rows_, is_same_cell) == rows_.end());
}

const Row* Table::find(const schedule::Shape& shape, std::int64_t bytes) const noexcept {
  const Row* nearest = nullptr;
  for (const Row& row : rows_) {
    if (!answers(row, shape)) continue;
    if (nearest == nullptr || is_nearer(row, *nearest, shape)) nearest = &row;
  }
  if (nearest == nullptr) return nullptr;
  // From here on rows of the nearest shape, ordered by size.
  const Row* end = rows_.data() + rows_.size();
  for (const Row* row = nearest; row != end; ++row) {
    const bool is_of_shape = row->collective == nearest->collective &&
                             row->ranks == nearest->ranks && row->node_ranks == nearest->node_ranks;
    if (!is_of_shape) return nullptr;
    if (row->up_to_bytes < bytes) continue;
    const schedule::Entry* entry = schedule::find(row->collective, row->algorithm);
    return schedule::supports(*entry, shape) ? row : nullptr;
  }
  return nullptr;
}

Table Table::updated_by(const Table& newer) const {
  std::vector<Origin> origins;
  std::vector<Row> rows;
  const auto keep = [&](const Table& from, const Row& row) {
    const Origin& origin = from.origins_[row.origin];
    const auto known = std::ranges::find(origins, origin);
    Row kept = row;
    kept.origin = static_cast<std::size_t>(known - origins.begin());
    if (known == origins.end()) origins.push_back(origin);
    rows.push_back(kept);
  };
  for (const Row& row : rows_) {
    const bool is_replaced = std::ranges::any_of(newer.rows_, [&](const Row& other) {
      return other.collective == row.collective && other.ranks == row.ranks &&
             other.node_ranks == row.node_ranks;
    });
    if (!is_replaced) keep(*this, row);
  }
  for (const Row& row : newer.rows_) keep(newer, row);
  return {std::move(origins), std::move(rows)};
}

}  // namespace shoal::tune
