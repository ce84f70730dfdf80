/// Streams as Python's libraries say them.
#pragma once

#include "python/module.h"

namespace shoal::python {

/// A handle of CUDA's: an int, or an object with `cuda_stream` (torch), `ptr` (CuPy) or
/// `__cuda_stream__` (NVIDIA's protocol). Throws InvalidArgument.
void* cuda_stream(const py::object& stream);

}  // namespace shoal::python
