/// Arrays in and out: numpy arrays, and whatever numpy can look at without a copy (the buffer
/// protocol, DLPack on the CPU).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "python/module.h"
#include "shoal/communicator.h"

namespace shoal::python {

/// A C-contiguous array. Holds a reference to the object whose memory it is.
struct Array {
  py::object object;  ///< what the user gave
  py::array array;    ///< numpy's view of it; always given: by default it would be a new array
  DataType dtype = DataType::kUint8;
  bool logical = false;    ///< numpy's bool: a byte that is 0 or 1, which travels as kUint8
  bool on_device = false;  ///< CUDA memory: `array` has shape and dtype and is not looked into
  void* data = nullptr;
  std::int64_t count = 0;  ///< elements

  [[nodiscard]] Bytes bytes() const { return {count * size_of(dtype)}; }
  [[nodiscard]] ConstBuffer in() const { return {data, bytes()}; }
  [[nodiscard]] Buffer out() const { return {data, bytes()}; }
};

/// `call` and `name` are of the argument, for errors: "all_reduce: x". Throws InvalidArgument that
/// says what to do: unsupported type or dtype, not contiguous, read-only where it is written
/// (unless it is lent: see lent.h).
Array view(const py::object& object, std::string_view call, std::string_view name, bool written);

/// The same of an object whose memory is known.
Array check_array(const py::object& object, const py::array& array, std::string_view call,
                  std::string_view name, bool written);

/// A new array in the communicator's pool.
Array empty(Communicator& comm, const std::vector<py::ssize_t>& shape, const py::dtype& dtype);

/// Of an array that empty() is asked for. Throws InvalidArgument.
Bytes bytes_of_new(const std::vector<py::ssize_t>& shape, const py::dtype& dtype);

/// As numpy names it.
std::string describe_dtype(const Array& array);
std::vector<py::ssize_t> shape_of(const Array& array);
std::string describe_shape(const Array& array);

}  // namespace shoal::python
