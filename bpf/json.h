#pragma once

#include <nlohmann/json.hpp>

namespace shoal::tracer {

/// Fields stay in the order in which they were written: a line begins with its type.
using Json = nlohmann::ordered_json;

}  // namespace shoal::tracer
