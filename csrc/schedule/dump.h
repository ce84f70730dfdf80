/// Schedules as people read them.
#pragma once

#include <string>

#include "schedule/catalog.h"
#include "shoal/export.h"

namespace shoal::schedule {

/// One step without its number, e.g. "send   -> 2   input[128..256)   slot 0".
std::string describe(const Step& step);

/// The steps of one rank, one a line, with a heading. The caller has checked supports().
SHOAL_API std::string dump(Algorithm algorithm, const Shape& shape);

/// The steps of all ranks (`shape.rank` is ignored), with what the catalog says of the algorithm.
SHOAL_API std::string dump_all(Algorithm algorithm, const Shape& shape);

}  // namespace shoal::schedule
