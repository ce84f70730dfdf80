/// numpy's arrays in the pool: a memory handler (NEP 49, numpy 1.22 and later).
///
/// numpy keeps the handler's capsule with every array that was made under it, and asks that handler
/// to free or resize the array, at whatever time, in whatever thread. So a handler lives as long as
/// the last of its arrays.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "python/errors.h"
#include "shoal/communicator.h"

namespace shoal::python {

namespace {

// As numpy/ndarraytypes.h has it: PyDataMemAllocator and PyDataMem_Handler, version 1.
struct Allocator {
  void* context;
  void* (*malloc)(void* context, std::size_t bytes);
  void* (*calloc)(void* context, std::size_t count, std::size_t bytes);
  void* (*realloc)(void* context, void* data, std::size_t bytes);
  void (*free)(void* context, void* data, std::size_t bytes);
};
struct Handler {
  char name[127];
  std::uint8_t version;
  Allocator allocator;
};
constexpr const char* kCapsule = "mem_handler";

/// Makes `handler` the current thread's (a context variable), and returns the one before.
py::object set_handler(const py::object& handler) {
  constexpr int kSetHandler = 304;  // PyDataMem_SetHandler in numpy/__multiarray_api.h
  const py::object api = py::detail::import_numpy_core_submodule("multiarray").attr("_ARRAY_API");
  auto* const table = static_cast<void**>(PyCapsule_GetPointer(api.ptr(), nullptr));
  if (table == nullptr) throw py::error_already_set();
  auto* const set = reinterpret_cast<PyObject* (*)(PyObject*)>(table[kSetHandler]);
  PyObject* before = set(handler.ptr());
  if (before == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(before);
}

/// A handler and the arrays it has made. Any thread.
class NumpyPool {
 public:
  NumpyPool(Communicator comm, std::int64_t smallest)
      : comm_(std::move(comm)), smallest_(static_cast<std::size_t>(smallest)) {
    std::strncpy(handler_.name, "shoal", sizeof handler_.name - 1);
    handler_.version = 1;
    handler_.allocator = {this, &NumpyPool::malloc, &NumpyPool::calloc, &NumpyPool::realloc,
                          &NumpyPool::free};
  }

  /// From here on numpy asks `pool`, which numpy owns. Returns the handler before.
  static py::object enter(std::unique_ptr<NumpyPool> pool) {
    NumpyPool* const self = pool.get();
    const py::capsule capsule(&self->handler_, kCapsule, [](PyObject* object) {
      auto* handler = static_cast<Handler*>(PyCapsule_GetPointer(object, kCapsule));
      delete static_cast<NumpyPool*>(handler->allocator.context);
    });
    static_cast<void>(pool.release());
    self->before_ = set_handler(capsule);
    self->other_ = static_cast<Handler*>(PyCapsule_GetPointer(self->before_.ptr(), kCapsule));
    if (self->other_ == nullptr) throw py::error_already_set();
    return self->before_;
  }

 private:
  static NumpyPool& from(void* context) noexcept { return *static_cast<NumpyPool*>(context); }

  static void* malloc(void* context, std::size_t bytes) noexcept {
    NumpyPool& self = from(context);
    if (void* data = self.take(bytes)) return data;
    const Allocator& other = self.other_->allocator;
    return other.malloc(other.context, bytes);
  }

  static void* calloc(void* context, std::size_t count, std::size_t each) noexcept {
    NumpyPool& self = from(context);
    std::size_t bytes = 0;
    const bool too_many = __builtin_mul_overflow(count, each, &bytes);
    if (void* data = too_many ? nullptr : self.take(bytes)) return std::memset(data, 0, bytes);
    const Allocator& other = self.other_->allocator;
    return other.calloc(other.context, count, each);
  }

  static void* realloc(void* context, void* data, std::size_t bytes) noexcept {
    NumpyPool& self = from(context);
    const std::size_t held = self.bytes_of(data);
    if (held == 0) {
      const Allocator& other = self.other_->allocator;
      return other.realloc(other.context, data, bytes);
    }
    void* moved = malloc(context, bytes);
    if (moved == nullptr) return nullptr;
    std::memcpy(moved, data, std::min(held, bytes));
    self.give(data);
    return moved;
  }

  static void free(void* context, void* data, std::size_t bytes) noexcept {
    NumpyPool& self = from(context);
    if (self.give(data)) return;
    const Allocator& other = self.other_->allocator;
    other.free(other.context, data, bytes);
  }

  /// Memory of the pool; nullptr: it is full, not for so little, or its owner's and this a child.
  void* take(std::size_t bytes) noexcept {
    if (bytes < smallest_) return nullptr;
    try {
      PoolBlock block = comm_.allocate({static_cast<std::int64_t>(bytes)});
      void* data = block.data();
      const std::lock_guard lock(mutex_);
      blocks_.emplace(data, std::move(block));
      return data;
    } catch (const std::exception&) {
      return nullptr;  // numpy goes on with other memory
    }
  }

  /// False: it is not from here.
  bool give(void* data) noexcept {
    PoolBlock block;  // goes without the lock
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(data);
    if (found == blocks_.end()) return false;
    block = std::move(found->second);
    blocks_.erase(found);
    return true;
  }

  /// 0: it is not from here.
  std::size_t bytes_of(void* data) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(data);
    return found == blocks_.end() ? 0 : static_cast<std::size_t>(found->second.bytes().value);
  }

  Handler handler_{};
  Communicator comm_;
  const std::size_t smallest_;
  py::object before_;  // its capsule: keeps `other_` alive
  Handler* other_ = nullptr;
  std::mutex mutex_;
  std::unordered_map<void*, PoolBlock> blocks_;
};

py::object enter_numpy_pool(const Communicator& comm, std::int64_t smallest) {
  if (smallest < 1) invalid("numpy_pool: smallest is a number of bytes and must be positive");
  return NumpyPool::enter(std::make_unique<NumpyPool>(comm, smallest));
}

}  // namespace

void register_numpy_pool(py::module_& module) {
  module.def("enter_numpy_pool", &enter_numpy_pool, py::arg("comm"), py::arg("smallest"));
  module.def(
      "leave_numpy_pool", [](const py::object& before) { set_handler(before); }, py::arg("before"));
}

}  // namespace shoal::python
