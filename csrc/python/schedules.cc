#include <pybind11/stl.h>

#include <optional>

#include "python/errors.h"
#include "schedule/catalog.h"
#include "schedule/dump.h"

namespace shoal::python {

namespace {

using schedule::Entry;

std::string known(Collective collective) {
  std::string names;
  for (const Entry& entry : schedule::catalog()) {
    if (entry.collective != collective) continue;
    names += (names.empty() ? "" : ", ") + std::string(schedule::name_of(entry.algorithm));
  }
  return names;
}

const Entry& find_entry(const std::string& collective, const std::string& algorithm) {
  std::string names;
  for (int i = 0; i < kCollectives; ++i) {
    const auto kind = static_cast<Collective>(i);
    names += (names.empty() ? "" : ", ") + std::string(name_of(kind));
    if (name_of(kind) != collective) continue;
    for (const Entry& entry : schedule::catalog()) {
      if (entry.collective == kind && schedule::name_of(entry.algorithm) == algorithm) return entry;
    }
    invalid("plan: " + collective + " has no algorithm \"" + algorithm + "\"; it has " +
            known(kind));
  }
  invalid("plan: collective \"" + collective + "\" is not known; known are " + names);
}

std::string plan(const std::string& collective, const std::string& algorithm, Rank ranks,
                 std::int64_t count, std::optional<Rank> rank, Rank root,
                 std::optional<Rank> node_ranks) {
  const Entry& entry = find_entry(collective, algorithm);
  schedule::Shape shape;
  shape.collective = entry.collective;
  shape.ranks = ranks;
  shape.root = root;
  shape.count = count;
  if (ranks < 1 || root < 0 || root >= ranks || count < 0 || rank.value_or(0) < 0 ||
      rank.value_or(0) >= ranks) {
    invalid("plan: needs ranks >= 1, 0 <= rank and root < ranks, count >= 0");
  }
  shape.rank = rank.value_or(0);
  shape.node_ranks = node_ranks.value_or(entry.node_memory ? ranks : 1);
  if (shape.node_ranks < 1 || ranks % shape.node_ranks != 0) {
    invalid("plan: node_ranks must divide ranks");
  }
  if (!schedule::supports(entry, shape)) {
    invalid("plan: " + algorithm + " does not do " + collective + " for " + std::to_string(ranks) +
            " ranks, " + std::to_string(shape.node_ranks) +
            " a node (direct and staged: all in one node; the hierarchical ones: several nodes of "
            "several "
            "ranks)");
  }
  return rank.has_value() ? schedule::dump(entry.algorithm, shape)
                          : schedule::dump_all(entry.algorithm, shape);
}

py::list catalog() {
  py::list rows;
  for (const Entry& entry : schedule::catalog()) {
    py::dict row;
    row["collective"] = std::string(name_of(entry.collective));
    row["algorithm"] = std::string(schedule::name_of(entry.algorithm));
    row["node_memory"] = entry.node_memory;
    row["deterministic"] = entry.deterministic;
    row["cost"] = std::string(entry.cost);
    row["source"] = std::string(entry.source);
    rows.append(row);
  }
  return rows;
}

}  // namespace

void register_schedules(py::module_& module) {
  module.def("plan", &plan, py::arg("collective"), py::arg("algorithm"), py::arg("ranks"),
             py::arg("count") = 0, py::arg("rank") = py::none(), py::arg("root") = 0,
             py::arg("node_ranks") = py::none());
  module.def("catalog", &catalog);
}

}  // namespace shoal::python
