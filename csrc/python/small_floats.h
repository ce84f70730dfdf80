/// Floats that numpy does not have of its own: bfloat16 and float8. ml_dtypes adds them to it.
#pragma once

#include <optional>

#include "python/module.h"
#include "shoal/types.h"

namespace shoal::python {

/// Which of them this is, if it is one. They go by name: extension types have no fixed numbers.
std::optional<DataType> small_float(const py::dtype& dtype);

/// numpy's dtype for one of them. Throws MissingLibrary where ml_dtypes is not installed.
py::dtype small_float_dtype(DataType type);

/// What numpy takes for a dtype; their names as well, also before anybody has imported ml_dtypes.
py::dtype dtype_from(const py::object& dtype);

}  // namespace shoal::python
