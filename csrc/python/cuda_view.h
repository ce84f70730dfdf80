/// CUDA memory of others as an argument: shoal.CudaArray, DLPack (torch, CuPy, JAX) and the CUDA
/// array interface (numba).
#pragma once

#include <optional>
#include <string_view>

#include "python/array.h"

namespace shoal::python {

/// The array, if the object's memory is CUDA's; its `array` has shape and dtype and must not be
/// looked into. Orders the stream (by the object's own means) after what its owner has under way.
/// `written`: read-only memory is refused, as far as its owner says that it is.
/// Throws InvalidArgument as view() does.
std::optional<Array> view_cuda(const py::object& object, std::string_view call,
                               std::string_view name, bool written, void* stream);

}  // namespace shoal::python
