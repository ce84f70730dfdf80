#include "python/small_floats.h"

#include <string>

#include "shoal/error.h"

namespace shoal::python {

namespace {

constexpr DataType kSmallFloats[] = {DataType::kBfloat16, DataType::kFloat8E4m3,
                                     DataType::kFloat8E5m2};

std::optional<DataType> named(const std::string& name) {
  for (const DataType type : kSmallFloats) {
    if (name == name_of(type)) return type;
  }
  return std::nullopt;
}

}  // namespace

std::optional<DataType> small_float(const py::dtype& dtype) {
  return dtype.itemsize() <= 2 ? named(py::str(dtype.attr("name"))) : std::nullopt;
}

py::dtype small_float_dtype(DataType type) {
  const std::string name(name_of(type));
  try {
    return py::dtype::from_args(py::module_::import("ml_dtypes").attr(name.c_str()));
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_ImportError)) throw;
    throw Error(ErrorCode::kMissingLibrary,
                "numpy has no " + name + " of its own; pip install ml_dtypes");
  }
}

py::dtype dtype_from(const py::object& dtype) {
  if (py::isinstance<py::str>(dtype)) {
    if (const auto type = named(dtype.cast<std::string>())) return small_float_dtype(*type);
  }
  return py::dtype::from_args(dtype);
}

}  // namespace shoal::python
