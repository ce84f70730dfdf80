/// Where a job's table comes from.
#pragma once

#include <string>

#include "shoal/export.h"
#include "tune/table.h"

namespace shoal::tune {

/// In the place of a file's name: no table, the built-in rules only.
inline constexpr const char* kNoTable = "none";

/// SHOAL_TUNING_FILE, else $XDG_CONFIG_HOME/shoal/tuning, else ~/.config/shoal/tuning; "" if none
/// of them is set. What jobs read that are told nothing else, and where `shoal tune` writes.
SHOAL_API std::string usual_path();

/// The table in the file `chosen`; "": in the usual one. Empty if `chosen`, or else
/// SHOAL_TUNING_FILE, is "none", and where the usual file does not exist and the environment does
/// not name it. Throws Error(kInvalidArgument) for a file that is named and missing, that cannot be
/// read, or that is malformed.
Table load(const std::string& chosen);

}  // namespace shoal::tune
