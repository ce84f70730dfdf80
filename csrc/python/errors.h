#pragma once

#include "python/module.h"
#include "shoal/error.h"

namespace shoal::python {

/// A Python exception instance for an error (not raised).
py::object make_exception(ErrorCode code, const std::string& message);

/// Throws InvalidArgument (a ValueError in Python).
[[noreturn]] void invalid(const std::string& message);

}  // namespace shoal::python
