#include "python/work.h"

#include <pybind11/stl.h>

#include "core/clock.h"
#include "python/errors.h"

namespace shoal::python {

namespace {

/// Looks for signals (Ctrl-C) every 50 ms of waiting; taking the GIL more often would disturb
/// others.
class SignalCheck {
 public:
  void operator()() {
    const std::int64_t now = now_ns();
    if (now < next_ns_) return;
    next_ns_ = now + 50 * kNsPerMs;
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }

 private:
  std::int64_t next_ns_ = now_ns() + 50 * kNsPerMs;
};

}  // namespace

// Letting go of the GIL and getting it back costs as much as a small operation: only to wait.

PyWork::~PyWork() {
  if (waited_) return;
  const py::gil_scoped_release release;
  work_ = Work();
}

py::object PyWork::wait() {
  if (!work_.test()) {
    const py::gil_scoped_release release;
    work_.wait(check_signals());
  }
  work_.wait();  // done: throws its error
  waited_ = true;
  held_ = {};
  return result_;
}

bool PyWork::test() {
  const py::gil_scoped_release release;
  return work_.test();
}

py::object PyWork::exception() {
  if (!test() || work_.code() == ErrorCode::kOk) return py::none();
  return make_exception(work_.code(), work_.message());
}

Interrupt check_signals() { return SignalCheck(); }

py::object complete(PyWork work, bool async_op) {
  if (!async_op) return work.wait();
  return py::cast(std::move(work));
}

void register_work(py::module_& module) {
  py::class_<PyWork>(module, "Work", "An operation under way. Awaitable.")
      .def("wait", &PyWork::wait,
           "Blocks until the operation is done and returns its result; raises its error. The GIL "
           "is\n"
           "released; Ctrl-C aborts the communicator and raises KeyboardInterrupt.")
      .def("test", &PyWork::test, "True when done, also by an error. Never blocks.")
      .def("exception", &PyWork::exception,
           "The error the operation ended with, or None (also while it is under way).")
      .def_property_readonly("source", &PyWork::source,
                             "Of a recv that is done: the rank whose message it got; else None.");
}

}  // namespace shoal::python
