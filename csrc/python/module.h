/// Bindings are glue: no logic. One register_x() per class; the GIL is released around what waits.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

namespace shoal::python {

namespace py = pybind11;

/// Python's str(object). By way of a handle: with pybind11 3.0.1, which torch 2.11 has, str(dtype)
/// is ambiguous.
inline std::string text_of(py::handle object) { return py::str(object); }

void register_errors(py::module_& module);
void register_communicator(py::module_& module);
void register_numpy_pool(py::module_& module);
void register_work(py::module_& module);
void register_store(py::module_& module);
void register_schedules(py::module_& module);
void register_tuning(py::module_& module);
void register_info(py::module_& module);

}  // namespace shoal::python
