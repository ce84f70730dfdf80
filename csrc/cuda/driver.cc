#include "cuda/driver.h"

#include <dlfcn.h>

#include <mutex>
#include <vector>

#include "core/environment.h"

namespace shoal::cuda {
namespace {

constexpr int kOldestVersion = 12000;

/// Fills function pointers by name, and keeps the names that the library lacks.
class Binder {
 public:
  explicit Binder(void* library) noexcept : library_(library) {}

  template <class Function>
  void bind(Function& function, const char* name) {
    void* symbol = ::dlsym(library_, name);
    if (symbol == nullptr) missing_.emplace_back(name);
    function = reinterpret_cast<Function>(symbol);
  }
  /// One that older libraries lack.
  template <class Function>
  void bind_if_there(Function& function, const char* name) {
    function = reinterpret_cast<Function>(::dlsym(library_, name));
  }
  [[nodiscard]] const std::vector<std::string>& missing() const noexcept { return missing_; }

 private:
  void* library_;
  std::vector<std::string> missing_;
};

void bind_devices(Binder& b, Driver& d) {
  b.bind(d.get_error_name, "cuGetErrorName");
  b.bind(d.get_error_string, "cuGetErrorString");
  b.bind(d.device_get_count, "cuDeviceGetCount");
  b.bind(d.device_get, "cuDeviceGet");
  b.bind(d.device_get_name, "cuDeviceGetName");
  b.bind(d.device_get_attribute, "cuDeviceGetAttribute");
  b.bind(d.device_total_mem, "cuDeviceTotalMem_v2");
  b.bind(d.primary_ctx_retain, "cuDevicePrimaryCtxRetain");
  b.bind(d.primary_ctx_release, "cuDevicePrimaryCtxRelease_v2");
  b.bind(d.ctx_push_current, "cuCtxPushCurrent_v2");
  b.bind(d.ctx_pop_current, "cuCtxPopCurrent_v2");
  b.bind(d.ctx_get_current, "cuCtxGetCurrent");
  b.bind(d.ctx_get_device, "cuCtxGetDevice");
  b.bind(d.ctx_enable_peer_access, "cuCtxEnablePeerAccess");
}

void bind_streams(Binder& b, Driver& d) {
  b.bind(d.stream_create, "cuStreamCreate");
  b.bind(d.stream_destroy, "cuStreamDestroy_v2");
  b.bind(d.stream_synchronize, "cuStreamSynchronize");
  b.bind(d.stream_query, "cuStreamQuery");
  b.bind(d.stream_wait_event, "cuStreamWaitEvent");
  b.bind(d.stream_batch_mem_op, "cuStreamBatchMemOp_v2");
  b.bind(d.stream_is_capturing, "cuStreamIsCapturing");
  b.bind(d.stream_begin_capture, "cuStreamBeginCapture_v2");
  b.bind(d.stream_end_capture, "cuStreamEndCapture");
  b.bind(d.thread_exchange_stream_capture_mode, "cuThreadExchangeStreamCaptureMode");
  b.bind(d.graph_instantiate, "cuGraphInstantiateWithFlags");
  b.bind(d.graph_launch, "cuGraphLaunch");
  b.bind(d.graph_exec_destroy, "cuGraphExecDestroy");
  b.bind(d.graph_destroy, "cuGraphDestroy");
  b.bind(d.event_create, "cuEventCreate");
  b.bind(d.event_destroy, "cuEventDestroy_v2");
  b.bind(d.event_record, "cuEventRecord");
  b.bind(d.event_query, "cuEventQuery");
  b.bind(d.event_synchronize, "cuEventSynchronize");
}

void bind_memory(Binder& b, Driver& d) {
  b.bind(d.mem_get_info, "cuMemGetInfo_v2");
  b.bind(d.mem_get_allocation_granularity, "cuMemGetAllocationGranularity");
  b.bind(d.mem_address_reserve, "cuMemAddressReserve");
  b.bind(d.mem_address_free, "cuMemAddressFree");
  b.bind(d.mem_create, "cuMemCreate");
  b.bind(d.mem_release, "cuMemRelease");
  b.bind(d.mem_map, "cuMemMap");
  b.bind(d.mem_unmap, "cuMemUnmap");
  b.bind(d.mem_set_access, "cuMemSetAccess");
  b.bind(d.mem_export_to_shareable_handle, "cuMemExportToShareableHandle");
  b.bind(d.mem_import_from_shareable_handle, "cuMemImportFromShareableHandle");
  b.bind(d.mem_alloc, "cuMemAlloc_v2");
  b.bind(d.mem_free, "cuMemFree_v2");
  b.bind(d.ipc_get_mem_handle, "cuIpcGetMemHandle");
  b.bind(d.ipc_open_mem_handle, "cuIpcOpenMemHandle_v2");
  b.bind(d.ipc_close_mem_handle, "cuIpcCloseMemHandle");
  b.bind(d.mem_host_register, "cuMemHostRegister_v2");
  b.bind(d.mem_host_unregister, "cuMemHostUnregister");
  b.bind(d.mem_host_get_device_pointer, "cuMemHostGetDevicePointer_v2");
  b.bind(d.pointer_get_attribute, "cuPointerGetAttribute");
}

void bind_work(Binder& b, Driver& d) {
  b.bind(d.memcpy_htod_async, "cuMemcpyHtoDAsync_v2");
  b.bind(d.memcpy_dtoh_async, "cuMemcpyDtoHAsync_v2");
  b.bind(d.memcpy_dtod_async, "cuMemcpyDtoDAsync_v2");
  b.bind(d.memset_d8_async, "cuMemsetD8Async");
  b.bind(d.memset_d32_async, "cuMemsetD32Async");
  b.bind(d.module_load_data, "cuModuleLoadData");
  b.bind(d.module_unload, "cuModuleUnload");
  b.bind(d.module_get_function, "cuModuleGetFunction");
  b.bind(d.func_get_attribute, "cuFuncGetAttribute");
  b.bind_if_there(d.func_load, "cuFuncLoad");
  b.bind(d.launch_kernel, "cuLaunchKernel");
  b.bind(d.launch_kernel_ex, "cuLaunchKernelEx");
  b.bind(d.launch_host_func, "cuLaunchHostFunc");
  b.bind(d.occupancy, "cuOccupancyMaxActiveBlocksPerMultiprocessor");
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string library_name() {
  const std::string named = environment("SHOAL_CUDA_DRIVER");
  return named.empty() ? "libcuda.so.1" : named;
}

std::string path_of(void* symbol, const std::string& otherwise) {
  Dl_info info{};
  return ::dladdr(symbol, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : otherwise;
}

/// What is wrong with this library, or "".
std::string trouble_with(const Driver& driver, const Binder& binder, CUresult initialised,
                         const std::string& name) {
  if (driver.version < kOldestVersion || !binder.missing().empty()) {
    std::string lacks;
    for (const std::string& missing : binder.missing()) {
      lacks += (lacks.empty() ? ": it lacks " : ", ") + missing;
    }
    return "the CUDA driver " + name + " is too old, CUDA " + version_text(driver.version) + lacks +
           "; install a driver for CUDA 12.0 or newer (525 or newer)";
  }
  if (ok(initialised)) return {};
  return explain(driver, "cuInit", initialised);
}

}  // namespace

DriverFound load_driver() {
  const std::string name = library_name();
  void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return {nullptr, std::string("no CUDA driver: ") + ::dlerror() +
                         "; install NVIDIA's driver (in a container: run it with the NVIDIA "
                         "runtime), or name the library in SHOAL_CUDA_DRIVER"};
  }
  Binder binder(library);
  decltype(&cuInit) init = nullptr;
  decltype(&cuDriverGetVersion) driver_get_version = nullptr;
  binder.bind(init, "cuInit");
  binder.bind(driver_get_version, "cuDriverGetVersion");
  if (!binder.missing().empty()) {
    return {nullptr, name + " is no CUDA driver: it lacks " + binder.missing().front()};
  }
  auto driver = std::make_unique<Driver>();
  driver->path = path_of(reinterpret_cast<void*>(init), name);
  (void)driver_get_version(&driver->version);
  bind_devices(binder, *driver);
  bind_streams(binder, *driver);
  bind_memory(binder, *driver);
  bind_work(binder, *driver);
  const CUresult initialised = init(0);
  std::string trouble = trouble_with(*driver, binder, initialised, driver->path);
  if (!trouble.empty()) return {nullptr, std::move(trouble)};
  std::string version = "CUDA " + version_text(driver->version);
  return {std::move(driver), std::move(version)};
}

const DriverFound& find_driver() {
  static std::mutex mutex;
  static DriverFound found;
  const std::lock_guard lock(mutex);
  if (found.driver == nullptr) found = load_driver();
  return found;
}

bool is_sticky(CUresult result) noexcept {
  switch (result) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
    case CUDA_ERROR_UNKNOWN:
      return true;
    default:
      return false;
  }
}

Status status_of(CUresult result) noexcept {
  switch (result) {
    case CUDA_SUCCESS:
      return kOkStatus;
    case CUDA_ERROR_OUT_OF_MEMORY:
      return {ErrorCode::kOutOfMemory, -1, result};
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
    case CUDA_ERROR_STUB_LIBRARY:
      return {ErrorCode::kMissingLibrary, -1, result};
    default:
      return {ErrorCode::kDevice, -1, result};
  }
}

namespace {

const char* advice(CUresult result) noexcept {
  if (is_sticky(result)) {
    return "the device or this process's CUDA context is lost: every later CUDA call fails; "
           "`dmesg | grep -i xid` may say why (compute-sanitizer finds a wrong access), then "
           "start the job again";
  }
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
      return "free device memory, or use fewer ranks on this device";
    case CUDA_ERROR_NO_DEVICE:
      return "there is no GPU here, or CUDA_VISIBLE_DEVICES hides it";
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
      return "kernel module and libcuda.so.1 are of different versions: reboot, or install both "
             "alike";
    case CUDA_ERROR_STUB_LIBRARY:
      return "this libcuda.so.1 is the toolkit's stub: take its directory out of LD_LIBRARY_PATH";
    case CUDA_ERROR_NOT_SUPPORTED:
      return "this device or driver cannot do it; `shoal info` says what it can";
    case CUDA_ERROR_INVALID_CONTEXT:
      return "another library has destroyed or reset the device's primary context";
    default:
      return "`shoal info` says what driver and devices were found";
  }
}

}  // namespace

std::string explain(const Driver& driver, const char* call, CUresult result) {
  const char* name = nullptr;
  const char* text = nullptr;
  (void)driver.get_error_name(result, &name);
  (void)driver.get_error_string(result, &text);
  const std::string number = "error " + std::to_string(static_cast<int>(result));
  return std::string(call) + ": " + (name != nullptr ? name : number) +
         (text != nullptr ? std::string(" (") + text + ")" : "") + "; " + advice(result);
}

void require(const Driver& driver, const char* call, CUresult result) {
  if (!ok(result)) throw Error(status_of(result).code, explain(driver, call, result));
}

}  // namespace shoal::cuda
