#include "python/lent.h"

#include <memory>
#include <unordered_map>
#include <utility>

namespace shoal::python {

namespace {

/// The flag itself, and not setflags(): that refuses to give it back where the memory is not
/// numpy's, as in an array of comm.empty().
void set_writeable(const py::array& array, bool writeable) {
  auto& flags = py::detail::array_proxy(array.ptr())->flags;
  constexpr int kFlag = py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  flags = writeable ? flags | kFlag : flags & ~kFlag;
}

struct Lent {
  Communicator comm;
  py::weakref watch;  // its callback forgets an array that has gone
};

/// By array; under the GIL. Never destroyed: arrays may outlive the interpreter's care.
std::unordered_map<PyObject*, Lent>& lent() {
  static auto* const arrays = new std::unordered_map<PyObject*, Lent>;
  return *arrays;
}

}  // namespace

py::array look(View view, const py::dtype& dtype, const std::vector<py::ssize_t>& shape) {
  auto held = std::make_unique<View>(std::move(view));
  const void* data = held->data();
  const py::capsule owner(held.get(), [](void* pointer) { delete static_cast<View*>(pointer); });
  static_cast<void>(held.release());
  py::array array(dtype, shape, data, owner);
  set_writeable(array, false);
  return array;
}

void mark_lent(const Communicator& comm, const Array& array) {
  const bool is_users = array.object.ptr() == array.array.ptr();
  if (!is_users || !array.array.writeable()) return;
  if (comm.holders(array.data, array.bytes()).empty()) return;
  PyObject* const key = array.object.ptr();
  py::weakref watch(array.object,
                    py::cpp_function([key](const py::handle&) { lent().erase(key); }));
  lent().insert_or_assign(key, Lent{comm, std::move(watch)});
  set_writeable(array.array, false);
}

bool was_lent(const py::array& array) {
  const auto found = lent().find(array.ptr());
  if (found == lent().end()) return false;
  if (found->second.comm.holders(array.data(), {array.nbytes()}).empty()) {
    lent().erase(found);
    set_writeable(array, true);
  }
  return true;
}

}  // namespace shoal::python
