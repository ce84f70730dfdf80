#include "python/array.h"

#include <memory>
#include <optional>

#include "python/dlpack.h"
#include "python/errors.h"
#include "python/lent.h"
#include "python/small_floats.h"

namespace shoal::python {

namespace {

constexpr const char* kSupported =
    "float32, float64, float16, bfloat16, float8_e4m3fn and float8_e5m2 (ml_dtypes), int8 to "
    "int64, "
    "uint8 to uint64 and bool";
constexpr int kBool = 0;  // its type number

/// numpy's stable type numbers; extension types have larger ones.
std::optional<DataType> data_type(const py::dtype& dtype) {
  switch (dtype.num()) {
    case kBool:
      return DataType::kUint8;
    case 1:
      return DataType::kInt8;
    case 2:
      return DataType::kUint8;
    case 3:
      return DataType::kInt16;
    case 4:
      return DataType::kUint16;
    case 5:
      return DataType::kInt32;
    case 6:
      return DataType::kUint32;
    case 7:
    case 9:
      return sizeof(long) == 8 || dtype.num() == 9 ? DataType::kInt64 : DataType::kInt32;
    case 8:
    case 10:
      return sizeof(long) == 8 || dtype.num() == 10 ? DataType::kUint64 : DataType::kUint32;
    case 11:
      return DataType::kFloat32;
    case 12:
      return DataType::kFloat64;
    case 23:
      return DataType::kFloat16;
    default:
      return small_float(dtype);
  }
}

/// By numpy, which refuses types that are not its own.
py::array by_dlpack(const py::object& object) {
  try {
    return py::module_::import("numpy").attr("from_dlpack")(object).cast<py::array>();
  } catch (const py::error_already_set&) {
    if (dlpack_device(object) != kDlCpu) throw;
  }
  return host_view(object);
}

/// `what()` names the argument.
template <class What>
py::array as_numpy(const py::object& object, What&& what) {
  if (py::isinstance<py::array>(object)) return py::reinterpret_borrow<py::array>(object);
  try {
    if (PyObject_CheckBuffer(object.ptr()) != 0) {
      return py::module_::import("numpy").attr("asarray")(py::memoryview(object)).cast<py::array>();
    }
    if (py::hasattr(object, "__dlpack__")) return by_dlpack(object);
  } catch (const py::error_already_set& error) {
    invalid(what() + ": numpy cannot look at this " + text_of(py::type::of(object)) +
            " without a copy: " + error.what());
  }
  invalid(what() + ": expected an array (numpy, buffer protocol or DLPack on the CPU), got " +
          text_of(py::type::of(object)));
}

}  // namespace

Array view(const py::object& object, std::string_view call, std::string_view name, bool written) {
  const auto what = [&] { return std::string(call) + ": " + std::string(name); };
  return check_array(object, as_numpy(object, what), call, name, written);
}

Array check_array(const py::object& object, const py::array& array, std::string_view call,
                  std::string_view name, bool written) {
  const auto what = [&] { return std::string(call) + ": " + std::string(name); };
  Array result{.object = object, .array = array};
  const std::optional<DataType> dtype = data_type(array.dtype());
  if (!dtype.has_value()) {
    invalid(what() + ": dtype " + text_of(py::getattr(object, "dtype", array.dtype())) +
            " is not supported; " + kSupported + " are");
  }
  if (array.dtype().byteorder() == '>') {
    invalid(what() +
            ": the bytes are swapped (big-endian); pass x.astype(x.dtype.newbyteorder('='))");
  }
  if ((array.flags() & py::array::c_style) == 0) {
    invalid(what() + ": the array is not C-contiguous (shape " + describe_shape(result) +
            ", strides " + text_of(array.attr("strides")) + "); pass np.ascontiguousarray(x)");
  }
  // What is lent is refused where its holder can be named (BufferInUse).
  if (written && !array.writeable() && !was_lent(array)) {
    invalid(what() + ": the array is read-only and would be written; pass a copy or another out=");
  }
  result.dtype = *dtype;
  result.logical = array.dtype().num() == kBool;
  result.data = const_cast<void*>(array.data());
  result.count = array.size();
  return result;
}

namespace {

DataType type_of_new(const py::dtype& dtype) {
  const std::optional<DataType> type = data_type(dtype);
  if (type.has_value()) return *type;
  invalid("empty: dtype " + text_of(dtype) + " is not supported; " + kSupported + " are");
}

py::ssize_t count_of_new(const std::vector<py::ssize_t>& shape) {
  py::ssize_t count = 1;
  for (const py::ssize_t extent : shape) {
    if (extent < 0) invalid("empty: negative extent in the shape");
    count *= extent;
  }
  return count;
}

}  // namespace

Bytes bytes_of_new(const std::vector<py::ssize_t>& shape, const py::dtype& dtype) {
  return {count_of_new(shape) * size_of(type_of_new(dtype))};
}

Array empty(Communicator& comm, const std::vector<py::ssize_t>& shape, const py::dtype& dtype) {
  const py::ssize_t count = count_of_new(shape);
  const DataType type = type_of_new(dtype);
  auto block = std::make_unique<PoolBlock>(comm.allocate({count * dtype.itemsize()}, 64));
  void* data = block->data();
  py::capsule owner(block.release(),
                    [](void* pointer) { delete static_cast<PoolBlock*>(pointer); });
  py::array array(dtype, shape, data, owner);
  return {.object = array,
          .array = array,
          .dtype = type,
          .logical = dtype.num() == kBool,
          .data = data,
          .count = count};
}

std::string describe_dtype(const Array& array) {
  return array.logical ? "bool" : std::string(name_of(array.dtype));
}

std::vector<py::ssize_t> shape_of(const Array& array) {
  return {array.array.shape(), array.array.shape() + array.array.ndim()};
}

std::string describe_shape(const Array& array) { return text_of(array.array.attr("shape")); }

}  // namespace shoal::python
