/// The CUDA driver API, found at run time: nothing here links libcuda, so that the same library
/// loads where there is none. Tests put a stand-in in its place (tests/fake_cuda).
#pragma once

#include <cuda.h>

#include <memory>
#include <string>

#include "core/status.h"

namespace shoal::cuda {

/// Entry points, each the newest version that CUDA 12.0 has. Named as in cuda.h, without "cu".
/// Immutable once loaded; any thread.
struct Driver {
  std::string path;  ///< of the library
  int version = 0;   ///< 12040 is CUDA 12.4

  decltype(&cuGetErrorName) get_error_name = nullptr;
  decltype(&cuGetErrorString) get_error_string = nullptr;

  decltype(&cuDeviceGetCount) device_get_count = nullptr;
  decltype(&cuDeviceGet) device_get = nullptr;
  decltype(&cuDeviceGetName) device_get_name = nullptr;
  decltype(&cuDeviceGetAttribute) device_get_attribute = nullptr;
  decltype(&cuDeviceTotalMem) device_total_mem = nullptr;

  decltype(&cuDevicePrimaryCtxRetain) primary_ctx_retain = nullptr;
  decltype(&cuDevicePrimaryCtxRelease) primary_ctx_release = nullptr;
  decltype(&cuCtxPushCurrent) ctx_push_current = nullptr;
  decltype(&cuCtxPopCurrent) ctx_pop_current = nullptr;
  decltype(&cuCtxGetCurrent) ctx_get_current = nullptr;
  decltype(&cuCtxGetDevice) ctx_get_device = nullptr;
  decltype(&cuCtxEnablePeerAccess) ctx_enable_peer_access = nullptr;

  decltype(&cuStreamCreate) stream_create = nullptr;
  decltype(&cuStreamDestroy) stream_destroy = nullptr;
  decltype(&cuStreamSynchronize) stream_synchronize = nullptr;
  decltype(&cuStreamQuery) stream_query = nullptr;
  decltype(&cuStreamWaitEvent) stream_wait_event = nullptr;
  decltype(&cuStreamBatchMemOp) stream_batch_mem_op = nullptr;
  decltype(&cuStreamIsCapturing) stream_is_capturing = nullptr;
  decltype(&cuStreamBeginCapture) stream_begin_capture = nullptr;
  decltype(&cuStreamEndCapture) stream_end_capture = nullptr;
  decltype(&cuThreadExchangeStreamCaptureMode) thread_exchange_stream_capture_mode = nullptr;
  decltype(&cuGraphInstantiate) graph_instantiate = nullptr;
  decltype(&cuGraphLaunch) graph_launch = nullptr;
  decltype(&cuGraphExecDestroy) graph_exec_destroy = nullptr;
  decltype(&cuGraphDestroy) graph_destroy = nullptr;

  decltype(&cuEventCreate) event_create = nullptr;
  decltype(&cuEventDestroy) event_destroy = nullptr;
  decltype(&cuEventRecord) event_record = nullptr;
  decltype(&cuEventQuery) event_query = nullptr;
  decltype(&cuEventSynchronize) event_synchronize = nullptr;

  decltype(&cuMemGetInfo) mem_get_info = nullptr;
  decltype(&cuMemGetAllocationGranularity) mem_get_allocation_granularity = nullptr;
  decltype(&cuMemAddressReserve) mem_address_reserve = nullptr;
  decltype(&cuMemAddressFree) mem_address_free = nullptr;
  decltype(&cuMemCreate) mem_create = nullptr;
  decltype(&cuMemRelease) mem_release = nullptr;
  decltype(&cuMemMap) mem_map = nullptr;
  decltype(&cuMemUnmap) mem_unmap = nullptr;
  decltype(&cuMemSetAccess) mem_set_access = nullptr;
  decltype(&cuMemExportToShareableHandle) mem_export_to_shareable_handle = nullptr;
  decltype(&cuMemImportFromShareableHandle) mem_import_from_shareable_handle = nullptr;
  decltype(&cuMemAlloc) mem_alloc = nullptr;
  decltype(&cuMemFree) mem_free = nullptr;
  decltype(&cuIpcGetMemHandle) ipc_get_mem_handle = nullptr;
  decltype(&cuIpcOpenMemHandle) ipc_open_mem_handle = nullptr;
  decltype(&cuIpcCloseMemHandle) ipc_close_mem_handle = nullptr;
  decltype(&cuMemHostRegister) mem_host_register = nullptr;
  decltype(&cuMemHostUnregister) mem_host_unregister = nullptr;
  decltype(&cuMemHostGetDevicePointer) mem_host_get_device_pointer = nullptr;
  decltype(&cuPointerGetAttribute) pointer_get_attribute = nullptr;

  decltype(&cuMemcpyHtoDAsync) memcpy_htod_async = nullptr;
  decltype(&cuMemcpyDtoHAsync) memcpy_dtoh_async = nullptr;
  decltype(&cuMemcpyDtoDAsync) memcpy_dtod_async = nullptr;
  decltype(&cuMemsetD8Async) memset_d8_async = nullptr;
  decltype(&cuMemsetD32Async) memset_d32_async = nullptr;

  decltype(&cuModuleLoadData) module_load_data = nullptr;
  decltype(&cuModuleUnload) module_unload = nullptr;
  decltype(&cuModuleGetFunction) module_get_function = nullptr;
  decltype(&cuFuncGetAttribute) func_get_attribute = nullptr;
  CUresult(CUDAAPI* func_load)(CUfunction) = nullptr;  ///< of CUDA 12.4; null: an older driver
  decltype(&cuLaunchKernel) launch_kernel = nullptr;
  decltype(&cuLaunchKernelEx) launch_kernel_ex = nullptr;
  decltype(&cuLaunchHostFunc) launch_host_func = nullptr;
  decltype(&cuOccupancyMaxActiveBlocksPerMultiprocessor) occupancy = nullptr;
};

/// A driver, or in words why there is none and what to do.
struct DriverFound {
  std::unique_ptr<const Driver> driver;
  std::string reason;
};

/// Loads libcuda.so.1, or what SHOAL_CUDA_DRIVER names. The library stays loaded until the process
/// ends. kMissingLibrary's text is in `reason`: no library, an entry point missing, no device.
DriverFound load_driver();
/// The same, once in a process: the first search that succeeds decides. Any thread.
const DriverFound& find_driver();

// --- What a CUresult means -----------------------------------------------------------------------

constexpr bool ok(CUresult result) noexcept { return result == CUDA_SUCCESS; }

/// After one of these every later call in the process fails: the context is lost, and with it
/// whatever the others expected of this rank.
bool is_sticky(CUresult result) noexcept;

/// kOk, kOutOfMemory, kMissingLibrary or kDevice; detail = the CUresult.
Status status_of(CUresult result) noexcept;

/// "cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY (out of memory); free device memory or ...".
std::string explain(const Driver& driver, const char* call, CUresult result);

/// How a call of several entry points ended, and which of them said so.
struct [[nodiscard]] Outcome {
  const char* call = "";
  CUresult result = CUDA_SUCCESS;
  [[nodiscard]] bool ok() const noexcept { return result == CUDA_SUCCESS; }
};

/// Throws Error with that text, unless `result` is CUDA_SUCCESS.
void require(const Driver& driver, const char* call, CUresult result);
inline void require(const Driver& driver, const Outcome& outcome) {
  require(driver, outcome.call, outcome.result);
}

}  // namespace shoal::cuda
