#include "python/errors.h"

#include <array>

namespace shoal::python {

namespace {

struct PythonName {
  ErrorCode code;
  const char* name;
  PyObject** also;  ///< the built-in exception it is a kind of, besides shoal.Error
  const char* doc;
};

const std::array<PythonName, 12>& names() {
  static const std::array<PythonName, 12> kNames = {{
      {ErrorCode::kInvalidArgument, "InvalidArgument", &PyExc_ValueError,
       "The call itself is wrong; nothing was posted."},
      {ErrorCode::kMismatch, "MismatchError", nullptr, "Ranks called different things."},
      {ErrorCode::kPeerFailed, "PeerFailed", nullptr, "A rank died."},
      {ErrorCode::kTimeout, "Timeout", &PyExc_TimeoutError, "The deadline passed."},
      {ErrorCode::kAborted, "Aborted", nullptr, "The communicator was aborted."},
      {ErrorCode::kOutOfMemory, "OutOfMemory", &PyExc_MemoryError,
       "A limit of a pool, the node or a cgroup is met."},
      {ErrorCode::kTransport, "TransportError", nullptr, "The network or its library failed."},
      {ErrorCode::kBootstrap, "BootstrapError", nullptr, "Ranks did not find one another."},
      {ErrorCode::kMissingLibrary, "MissingLibrary", &PyExc_ImportError,
       "An optional library is needed and is not installed."},
      {ErrorCode::kSystem, "SystemCallError", &PyExc_OSError, "A system call failed."},
      {ErrorCode::kBufferInUse, "BufferInUse", &PyExc_BufferError,
       "Other ranks hold views of memory that would be written; nothing was posted."},
      {ErrorCode::kDevice, "DeviceError", nullptr, "A GPU or its driver failed."},
  }};
  return kNames;
}

// Owned by the module for the life of the interpreter.
PyObject* base_type = nullptr;
std::array<PyObject*, 16> types{};

PyObject* type_of(ErrorCode code) {
  PyObject* type = types[static_cast<std::size_t>(code)];
  return type != nullptr ? type : base_type;
}

}  // namespace

py::object make_exception(ErrorCode code, const std::string& message) {
  return py::handle(type_of(code))(message);
}

void invalid(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

void register_errors(py::module_& module) {
  base_type = PyErr_NewExceptionWithDoc("shoal.Error", "Base of all of shoal's errors.",
                                        PyExc_RuntimeError, nullptr);
  module.attr("Error") = py::handle(base_type);
  for (const PythonName& entry : names()) {
    py::tuple bases = py::make_tuple(py::handle(base_type));
    if (entry.also != nullptr) {
      bases = py::make_tuple(py::handle(base_type), py::handle(*entry.also));
    }
    const std::string name = std::string("shoal.") + entry.name;
    PyObject* type = PyErr_NewExceptionWithDoc(name.c_str(), entry.doc, bases.ptr(), nullptr);
    if (type == nullptr) throw py::error_already_set();
    types[static_cast<std::size_t>(entry.code)] = type;
    module.attr(entry.name) = py::handle(type);
  }
  // NOLINTNEXTLINE(performance-unnecessary-value-param): pybind11's signature
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      PyErr_SetString(type_of(error.code()), error.what());
    }
  });
}

}  // namespace shoal::python
