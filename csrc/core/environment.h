/// What this process is told from outside.
#pragma once

#include <cstdlib>
#include <string>

namespace shoal {

/// A variable of the environment; "": it is not set, or empty.
inline std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace shoal
