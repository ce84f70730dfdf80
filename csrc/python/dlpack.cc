#include "python/dlpack.h"

#include <string>
#include <vector>

#include "python/small_floats.h"

namespace shoal::python {

py::dtype dtype_of(const DlTensor& tensor) {
  const auto bytes = std::to_string(tensor.bits / 8);
  switch (tensor.code) {
    case DlCode::kInt:
      return py::dtype("i" + bytes);
    case DlCode::kUint:
      return py::dtype("u" + bytes);
    case DlCode::kFloat:
      return py::dtype("f" + bytes);
    case DlCode::kBool:
      return py::dtype("?");
    case DlCode::kBfloat:
      return small_float_dtype(DataType::kBfloat16);
    case DlCode::kFloat8E4m3fn:
      return small_float_dtype(DataType::kFloat8E4m3);
    case DlCode::kFloat8E5m2:
      return small_float_dtype(DataType::kFloat8E5m2);
  }
  return py::dtype("V" + bytes);  // refused where the type is looked at
}

DlCode code_of(const py::dtype& dtype) {
  if (const auto small = small_float(dtype)) {
    if (*small == DataType::kBfloat16) return DlCode::kBfloat;
    return *small == DataType::kFloat8E4m3 ? DlCode::kFloat8E4m3fn : DlCode::kFloat8E5m2;
  }
  switch (dtype.kind()) {
    case 'i':
      return DlCode::kInt;
    case 'u':
      return DlCode::kUint;
    case 'b':
      return DlCode::kBool;
    default:
      return DlCode::kFloat;
  }
}

std::int32_t dlpack_device(const py::object& object) {
  if (!py::hasattr(object, "__dlpack_device__")) return 0;
  return object.attr("__dlpack_device__")().cast<py::tuple>()[0].cast<std::int32_t>();
}

py::array host_view(const py::object& object) {
  // The capsule is not consumed: the array keeps it, and with it the producer's tensor.
  const py::object capsule =
      object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
  const auto* managed = static_cast<const DlManagedTensorVersioned*>(
      PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
  if (managed == nullptr) throw py::error_already_set();
  const DlTensor& tensor = managed->tensor;
  const py::dtype dtype = dtype_of(tensor);
  const std::vector<py::ssize_t> shape(tensor.shape, tensor.shape + tensor.ndim);
  std::vector<py::ssize_t> strides;
  if (tensor.strides != nullptr) {
    for (int i = 0; i < tensor.ndim; ++i) strides.push_back(tensor.strides[i] * dtype.itemsize());
  }
  py::array array(dtype, shape, strides, static_cast<char*>(tensor.data) + tensor.byte_offset,
                  capsule);
  if ((managed->flags & kDlReadOnly) != 0) array.attr("setflags")(py::arg("write") = false);
  return array;
}

}  // namespace shoal::python
