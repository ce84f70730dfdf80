/// A stand-in for libcuda.so.1, for tests where no GPU is: the entry points that csrc/cuda uses,
/// over host memory. Loaded by SHOAL_CUDA_DRIVER=.../libcuda_fake.so.
///
/// What is as on a device: streams run beside the host, each in order; an event's wait orders two
/// streams; stream memory operations wait; captured work runs only when its graph is launched;
/// memory that was freed, unmapped or not yet made accessible faults when it is touched (it is
/// PROT_NONE, and its addresses are never given out again); exported memory is seen by other
/// processes; calls that change what kernels may see (cuMemAlloc, cuMemFree, cuMemHostRegister,
/// cuModuleLoadData, the first launch of a function that was not loaded ...) wait for the kernels
/// of their context; each call may fail; a sticky error stays.
/// What is not: the null stream (legacy and of a thread) is one more stream and synchronises with
/// no other; branches of a captured graph run one after the other, in the order in which they were
/// captured; memory limits are of one process.
///
/// Environment, read when the library loads:
///   FAKE_CUDA_DEVICES    number of devices (default 2)
///   FAKE_CUDA_BYTES      memory of each (default 256 MiB)
///   FAKE_CUDA_FAIL       CALL:NTH:CODE[,...]: the nth call of it from now on fails with this code;
///                        CALL "stream" is the execution of a stream's operation
///   FAKE_CUDA_DELAY_US   each stream operation begins so much later
///   FAKE_CUDA_NO_EXPORT  no device exports memory by file descriptor
///   FAKE_CUDA_KERNELS    a library with shoal_fake_kernel()
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct FakeLaunch {
  uint32_t grid[3];
  uint32_t block[3];
};

/// A kernel as a host function. It has one parameter, a struct of that many bytes; run() is called
/// once for the whole launch, on the stream's thread, with a copy of it.
struct FakeKernel {
  size_t parameter_bytes;
  void (*run)(const void* parameters, const struct FakeLaunch* launch);
};

/// Named shoal_fake_kernel in the library FAKE_CUDA_KERNELS. NULL: there is no such kernel.
typedef const struct FakeKernel* (*FakeKernelLookup)(const char* name);

// For tests, by dlsym from the stand-in.

/// In place of FAKE_CUDA_KERNELS.
__attribute__((visibility("default"))) void fake_cuda_set_kernels(FakeKernelLookup lookup);
/// In place of FAKE_CUDA_FAIL: what was asked before is forgotten, a sticky error too. False: not
/// of that form.
__attribute__((visibility("default"))) bool fake_cuda_fail(const char* failures);
/// Calls of the entry points that a GPU's driver takes time for, and of cuCtxGetCurrent, so far.
__attribute__((visibility("default"))) uint64_t fake_cuda_calls(void);
/// Device memory that this process has allocated on all devices.
__attribute__((visibility("default"))) uint64_t fake_cuda_used_bytes(void);

#ifdef __cplusplus
}
#endif
