#include "python/cuda_view.h"

#include <pybind11/stl.h>

#include <vector>

#include "python/cuda_array.h"
#include "python/dlpack.h"
#include "python/errors.h"

namespace shoal::python {

namespace {

using Shape = std::vector<py::ssize_t>;

[[noreturn]] void refuse_strides(std::string_view call, std::string_view name) {
  invalid(std::string(call) + ": " + std::string(name) +
          ": the array is not C-contiguous; pass x.contiguous() or a copy");
}

/// `strides` in units of `unit` bytes.
bool is_contiguous(const Shape& shape, const Shape& strides, py::ssize_t unit) {
  py::ssize_t wanted = unit;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 0) return true;
    if (shape[i] != 1 && strides[i] != wanted) return false;
    wanted *= shape[i];
  }
  return true;
}

py::dict interface_of(const py::object& object) {
  return object.attr("__cuda_array_interface__").cast<py::dict>();
}

bool is_read_only(const py::dict& interface) {
  const auto data = interface["data"].cast<py::tuple>();
  return data.size() > 1 && data[1].cast<bool>();
}

/// As `version` 1.0 if the producer knows that, which has flags; else as before.
py::object export_dlpack(const py::object& object, void* stream) {
  const auto handle = reinterpret_cast<std::uintptr_t>(stream);
  const auto as_dlpack = py::arg("stream") = handle == 0 ? 1 : handle;
  try {
    return object.attr("__dlpack__")(as_dlpack, py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;  // it knows no such argument
  }
  return object.attr("__dlpack__")(as_dlpack);
}

/// The tensor stays its producer's: the capsule, which is not consumed, gives it back.
py::array by_dlpack(const py::object& object, std::string_view call, std::string_view name,
                    bool written, void* stream) {
  const py::object capsule = export_dlpack(object, stream);
  const DlTensor* tensor = nullptr;
  bool read_only = false;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
    const auto* managed = static_cast<const DlManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    tensor = &managed->tensor;
    read_only = (managed->flags & kDlReadOnly) != 0;
  } else {
    auto* managed = static_cast<DlManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    if (managed == nullptr) throw py::error_already_set();
    tensor = &managed->tensor;
    // Without flags: JAX says here that its arrays are not to be written.
    if (written && py::hasattr(object, "__cuda_array_interface__")) {
      read_only = is_read_only(interface_of(object));
    }
  }
  const Shape shape(tensor->shape, tensor->shape + tensor->ndim);
  if (tensor->strides != nullptr &&
      !is_contiguous(shape, Shape(tensor->strides, tensor->strides + tensor->ndim), 1)) {
    refuse_strides(call, name);
  }
  return shadow(dtype_of(*tensor), shape,
                reinterpret_cast<std::uintptr_t>(tensor->data) + tensor->byte_offset, read_only);
}

py::array by_interface(const py::object& object, std::string_view call, std::string_view name) {
  const py::dict interface = interface_of(object);
  const auto shape = interface["shape"].cast<Shape>();
  const auto dtype = py::dtype::from_args(interface["typestr"]);
  if (interface.contains("strides") && !interface["strides"].is_none() &&
      !is_contiguous(shape, interface["strides"].cast<Shape>(), dtype.itemsize())) {
    refuse_strides(call, name);
  }
  return shadow(dtype, shape, interface["data"].cast<py::tuple>()[0].cast<std::uintptr_t>(),
                is_read_only(interface));
}

}  // namespace

std::optional<Array> view_cuda(const py::object& object, std::string_view call,
                               std::string_view name, bool written, void* stream) {
  py::array array;
  if (py::isinstance<CudaArray>(object)) {
    array = object.cast<const CudaArray&>().as_shadow();
  } else if (dlpack_device(object) == kDlCuda) {
    array = by_dlpack(object, call, name, written, stream);
  } else if (py::hasattr(object, "__cuda_array_interface__")) {
    array = by_interface(object, call, name);
  } else {
    return std::nullopt;
  }
  Array result = check_array(object, array, call, name, written);
  result.on_device = true;
  return result;
}

}  // namespace shoal::python
