#include "nccl/drop_in/real.h"

#include <dlfcn.h>

#include "core/environment.h"
#include "shoal/error.h"

namespace shoal::nccl {

namespace {

struct Library {
  void* handle = nullptr;
  std::string why_not;
};

Library open_real() {
  const std::string path = environment("SHOAL_REAL_NCCL");
  if (path.empty()) {
    return {nullptr, "no other NCCL is known (SHOAL_REAL_NCCL names its libnccl.so.2)"};
  }
  // DEEPBIND: its calls of its own functions must not come here, where the names are found first.
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (handle != nullptr) return {handle, ""};
  return {nullptr, std::string("NCCL cannot be loaded: ") + ::dlerror()};
}

const Library& real() {
  static const Library library = open_real();
  return library;
}

}  // namespace

void* real_function(const char* function) {
  const Library& library = real();
  void* found = library.handle == nullptr ? nullptr : ::dlsym(library.handle, function);
  if (found != nullptr) return found;
  throw Error(
      ErrorCode::kMissingLibrary,
      std::string(function) + ": shoal's libnccl.so.2 does not do this, and " +
          (library.handle == nullptr ? library.why_not
                                     : std::string("the NCCL of SHOAL_REAL_NCCL has no such "
                                                   "function")));
}

ncclComm* real_communicator(ncclComm& comm, const char* function) {
  const std::lock_guard lock(comm.mutex);
  if (comm.real != nullptr) return comm.real;
  real_function(function);  // else the error is that of another function
  ncclUniqueId id{};
  if (comm.comm.rank() == 0) call_real("ncclGetUniqueId", &id);
  constexpr std::int64_t kBytes = sizeof id;
  comm.comm.broadcast({&id, {kBytes}}, {&id, {kBytes}}, {kBytes}, DataType::kUint8, 0).wait();
  call_real("ncclCommInitRank", &comm.real, comm.comm.size(), id, comm.comm.rank());
  return comm.real;
}

RealGroup::~RealGroup() {
  // What fails here shows in the communicator's own asynchronous error.
  reinterpret_cast<ncclResult_t (*)()>(real_function("ncclGroupEnd"))();
}

}  // namespace shoal::nccl
