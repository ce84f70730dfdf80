#include "python/cuda_array.h"

#include <pybind11/stl.h>

#include <charconv>
#include <optional>
#include <utility>

#include "python/array.h"
#include "python/cuda_stream.h"
#include "python/dlpack.h"
#include "python/errors.h"
#include "python/work.h"

namespace shoal::python {

namespace {

/// cuda.h's CU_STREAM_LEGACY, which DLPack and the CUDA array interface call 1 too.
void* const kLegacyStream = reinterpret_cast<void*>(1);

/// What a capsule holds: no Python object, so that its consumer may drop it without the GIL.
struct Exported {
  DlManagedTensor managed{};
  std::shared_ptr<CudaBlock> block;
  std::vector<std::int64_t> shape;
};

void destroy_unused(PyObject* capsule) {
  // A consumer that has taken the tensor renames the capsule.
  if (PyCapsule_IsValid(capsule, "dltensor") == 0) return;
  auto* managed = static_cast<DlManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
  managed->deleter(managed);
}

/// "cuda" and "cuda:N": N, or -1.
int ordinal(const std::string& device) {
  constexpr std::string_view kCuda = "cuda";
  if (device == kCuda) return -1;
  int number = -1;
  const char* end = device.data() + device.size();
  if (device.starts_with("cuda:") &&
      std::from_chars(device.data() + kCuda.size() + 1, end, number).ptr == end && number >= 0) {
    return number;
  }
  invalid("empty: device \"" + device + "\" is not known; \"cpu\", \"cuda\" and \"cuda:N\" are");
}

/// What a consumer's stream is called in __dlpack__; nullptr: it wants no order.
std::optional<void*> consumer_stream(const py::object& stream) {
  if (stream.is_none()) return kLegacyStream;
  const auto number = stream.cast<std::int64_t>();
  if (number == -1) return std::nullopt;
  if (number < 1) {
    invalid("__dlpack__: stream " + std::to_string(number) +
            " means nothing certain for CUDA; pass 1 (legacy default), 2 (per-thread default), -1 "
            "(no order) or a stream's handle");
  }
  return reinterpret_cast<void*>(number);
}

}  // namespace

py::array shadow(const py::dtype& dtype, const std::vector<py::ssize_t>& shape, std::uintptr_t data,
                 bool read_only) {
  static const char kNothing = 0;
  const void* address = data == 0 ? &kNothing : reinterpret_cast<const void*>(data);
  py::array array(dtype, shape, address, py::none());
  if (read_only) array.attr("setflags")(py::arg("write") = false);
  return array;
}

void* cuda_stream(const py::object& stream) {
  py::object handle = stream;
  if (PyLong_Check(stream.ptr()) != 0) {
    // asked first: looking for what is not there raises an error each time
  } else if (py::hasattr(stream, "__cuda_stream__")) {
    handle = stream.attr("__cuda_stream__")().cast<py::tuple>()[1];
  } else if (py::hasattr(stream, "cuda_stream")) {
    handle = stream.attr("cuda_stream");
  } else if (py::hasattr(stream, "ptr")) {
    handle = stream.attr("ptr");
  }
  if (PyLong_Check(handle.ptr()) == 0) {
    invalid(
        "stream: expected a handle (int) or an object with cuda_stream, ptr or "
        "__cuda_stream__, got " +
        text_of(py::type::of(stream)));
  }
  return reinterpret_cast<void*>(handle.cast<std::uintptr_t>());
}

CudaArray::CudaArray(CudaBlock block, py::dtype dtype, std::vector<py::ssize_t> shape)
    : block_(std::make_shared<CudaBlock>(std::move(block))),
      dtype_(std::move(dtype)),
      shape_(std::move(shape)),
      shadow_(shadow(dtype_, shape_, reinterpret_cast<std::uintptr_t>(block_->data()))) {}

/// Whoever asks works on the legacy default stream, or makes his stream wait for it.
py::dict CudaArray::cuda_array_interface() const {
  block_->order_after_uses(kLegacyStream);
  block_->share();
  py::dict interface;
  interface["shape"] = py::tuple(py::cast(shape_));
  interface["typestr"] = dtype_.attr("str");
  interface["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(block_->data()), false);
  interface["strides"] = py::none();
  interface["stream"] = 1;
  interface["version"] = 3;
  return interface;
}

py::tuple CudaArray::dlpack_device() const { return py::make_tuple(kDlCuda, block_->device()); }

py::capsule CudaArray::dlpack(const py::object& stream, const py::object& max_version,
                              const py::object& device, const py::object& copy) const {
  (void)max_version;  // a producer may give an older version than the consumer knows
  if (!device.is_none() && !device.equal(dlpack_device())) {
    throw py::buffer_error("__dlpack__: this array is on CUDA device " +
                           std::to_string(block_->device()) + " and is not copied elsewhere");
  }
  if (!copy.is_none() && copy.cast<bool>()) {
    throw py::buffer_error("__dlpack__: no copy is made; copy on the consumer's side");
  }
  if (const std::optional<void*> consumer = consumer_stream(stream)) {
    block_->order_after_uses(*consumer);
  }
  block_->share();
  auto exported = std::make_unique<Exported>();
  exported->block = block_;
  exported->shape.assign(shape_.begin(), shape_.end());
  exported->managed.tensor = {.data = block_->data(),
                              .device_type = kDlCuda,
                              .device_id = block_->device(),
                              .ndim = static_cast<std::int32_t>(shape_.size()),
                              .code = code_of(dtype_),
                              .bits = static_cast<std::uint8_t>(8 * dtype_.itemsize()),
                              .lanes = 1,
                              .shape = exported->shape.data(),
                              .strides = nullptr,
                              .byte_offset = 0};
  exported->managed.context = exported.get();
  exported->managed.deleter = [](DlManagedTensor* managed) {
    delete static_cast<Exported*>(managed->context);
  };
  return py::capsule(&exported.release()->managed, "dltensor", &destroy_unused);
}

py::array CudaArray::copy_to_host() const {
  py::array array(dtype_, shape_);
  void* data = array.mutable_data();
  const py::gil_scoped_release release;
  block_->copy_to_host(data);
  return array;
}

void CudaArray::copy_from_host(const py::object& source) {
  const Array array = view(source, "copy_from_host", "source", false);
  if (shape_of(array) != shape_ || !array.array.dtype().equal(dtype_)) {
    invalid("copy_from_host: the source is " + text_of(array.array.dtype()) + " " +
            describe_shape(array) + ", this array is " + text_of(dtype_) + " " +
            text_of(py::tuple(py::cast(shape_))));
  }
  const py::gil_scoped_release release;
  block_->copy_from_host(array.data);
}

std::string CudaArray::repr() const {
  return "shoal.CudaArray(shape=" + text_of(py::tuple(py::cast(shape_))) +
         ", dtype=" + text_of(dtype_) + ", device=\"cuda:" + std::to_string(block_->device()) +
         "\")";
}

CudaArray empty_cuda(Communicator& comm, const std::vector<py::ssize_t>& shape,
                     const py::dtype& dtype, const std::string& device) {
  const Bytes bytes = bytes_of_new(shape, dtype);
  const int number = ordinal(device);
  CudaBlock block;
  {
    const py::gil_scoped_release release;
    block = comm.allocate_cuda(bytes, number, check_signals());
  }
  return {std::move(block), dtype, shape};
}

void register_cuda_array(py::module_& module) {
  py::class_<CudaArray>(module, "CudaArray")
      .def_property_readonly("shape",
                             [](const CudaArray& a) { return py::tuple(py::cast(a.shape())); })
      .def_property_readonly("dtype", &CudaArray::dtype)
      .def_property_readonly("ndim", [](const CudaArray& a) { return a.shape().size(); })
      .def_property_readonly("nbytes", [](const CudaArray& a) { return a.block().bytes().value; })
      .def_property_readonly(
          "device", [](const CudaArray& a) { return "cuda:" + std::to_string(a.block().device()); })
      .def_property_readonly("__cuda_array_interface__", &CudaArray::cuda_array_interface)
      .def("__dlpack_device__", &CudaArray::dlpack_device)
      .def("__dlpack__", &CudaArray::dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
           py::arg("copy") = py::none())
      .def("copy_to_host", &CudaArray::copy_to_host)
      .def("copy_from_host", &CudaArray::copy_from_host, py::arg("source"))
      .def(
          "record_stream",
          [](CudaArray& a, const py::object& stream) {
            a.block().record_stream(cuda_stream(stream));
          },
          py::arg("stream"))
      .def("__repr__", &CudaArray::repr);
}

}  // namespace shoal::python
