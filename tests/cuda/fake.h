/// The stand-in driver, in a test: loaded whatever the environment says. But with SHOAL_TEST_GPU=1
/// it is the machine's own, for tests that look at device memory through the driver only.
#pragma once

#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/assert.h"
#include "cuda/driver.h"
#include "fake_cuda/fake_cuda.h"

namespace shoal::cuda::testing {

inline bool on_gpu() {
  const char* const chosen = ::getenv("SHOAL_TEST_GPU");
  return chosen != nullptr && chosen[0] == '1';
}

inline const Driver& fake_driver() {
  ::setenv("SHOAL_CUDA_DRIVER", on_gpu() ? "libcuda.so.1" : FAKE_CUDA_PATH, 1);
  const DriverFound& found = find_driver();
  if (found.driver == nullptr) throw Error(ErrorCode::kMissingLibrary, found.reason);
  return *found.driver;
}

/// One of the stand-in's own functions.
template <class Function>
Function* fake_function(const char* name) {
  fake_driver();
  void* library = ::dlopen(FAKE_CUDA_PATH, RTLD_NOW | RTLD_NOLOAD);
  void* symbol = library != nullptr ? ::dlsym(library, name) : nullptr;
  SHOAL_ASSERT(symbol != nullptr);
  return reinterpret_cast<Function*>(symbol);
}

/// Injects failures while it lives; then all is well again.
class Failing {
 public:
  explicit Failing(const char* failures) {
    SHOAL_ASSERT(fake_function<decltype(fake_cuda_fail)>("fake_cuda_fail")(failures));
  }
  ~Failing() { fake_function<decltype(fake_cuda_fail)>("fake_cuda_fail")(""); }
  Failing(const Failing&) = delete;
  Failing& operator=(const Failing&) = delete;
};

inline std::uint64_t used_bytes() {
  return fake_function<decltype(fake_cuda_used_bytes)>("fake_cuda_used_bytes")();
}

/// Whether an access there would not fault: asks the kernel.
inline bool is_accessible(CUdeviceptr address) {
  int ends[2];
  SHOAL_ASSERT(::pipe(ends) == 0);
  const bool written = ::write(ends[1], reinterpret_cast<const void*>(address), 1) == 1;
  ::close(ends[0]);
  ::close(ends[1]);
  return written;
}

}  // namespace shoal::cuda::testing
