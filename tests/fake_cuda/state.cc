#include "state.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "fake_cuda.h"

namespace fake {
namespace {

constexpr int kMaxDevices = 16;
/// A kernel that is waited for longer is one that waits for whoever calls: a test that hangs.
constexpr std::chrono::seconds kKernelLimit{100};

struct Failure {
  std::string call;
  int calls_left;
  CUresult code;
};

/// Never destroyed: streams' threads look at it until the process has ended.
struct State {
  std::mutex mutex;
  std::vector<Failure> failures;
  std::atomic<CUresult> sticky{CUDA_SUCCESS};
  std::atomic<bool> initialised{false};
  std::atomic<std::uint64_t> calls{0};
  CUctx_st contexts[kMaxDevices];
  std::atomic<int> retained[kMaxDevices];
  std::mutex running_mutex;
  std::condition_variable one_less;
  std::map<CUcontext, std::set<std::uint64_t>> running;  // by number, of all that were begun
  std::uint64_t begun = 0;
};

State& state() {
  static State* const state = new State;
  return *state;
}

thread_local std::vector<CUcontext> contexts;

long long number(const char* name, long long otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr && *text != '\0' ? std::atoll(text) : otherwise;
}

bool parse(const char* text, std::vector<Failure>& failures) {
  std::stringstream list(text);
  std::string item;
  while (std::getline(list, item, ',')) {
    char call[64];
    int nth = 0, code = 0;
    if (std::sscanf(item.c_str(), "%63[^:]:%d:%d", call, &nth, &code) != 3 || nth < 1) return false;
    failures.push_back({call, nth, static_cast<CUresult>(code)});
  }
  return true;
}

/// Those of shoal's is_sticky() that tests inject.
bool sticks(CUresult code) {
  return code == CUDA_ERROR_ILLEGAL_ADDRESS || code == CUDA_ERROR_LAUNCH_FAILED ||
         code == CUDA_ERROR_ECC_UNCORRECTABLE || code == CUDA_ERROR_DEVICE_UNAVAILABLE ||
         code == CUDA_ERROR_UNKNOWN;
}

CUresult injected(const char* call) {
  const std::lock_guard lock(state().mutex);
  for (Failure& failure : state().failures) {
    if (failure.call == call && --failure.calls_left == 0) return failure.code;
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult fail_if_asked(const char* call) {
  const CUresult code = injected(call);
  if (sticks(code)) set_sticky(code);
  return code;
}

const Settings& settings() {
  static const Settings values = [] {
    Settings s;
    s.devices = static_cast<int>(std::clamp(number("FAKE_CUDA_DEVICES", s.devices), 0LL,
                                            static_cast<long long>(kMaxDevices)));
    s.bytes =
        static_cast<std::uint64_t>(number("FAKE_CUDA_BYTES", static_cast<long long>(s.bytes)));
    s.delay_us = number("FAKE_CUDA_DELAY_US", 0);
    s.exports = number("FAKE_CUDA_NO_EXPORT", 0) == 0;
    return s;
  }();
  return values;
}

CUresult enter(const char* call) {
  state().calls.fetch_add(1, std::memory_order_relaxed);
  if (!state().initialised.load()) return CUDA_ERROR_NOT_INITIALIZED;
  if (const CUresult stuck = sticky(); stuck != CUDA_SUCCESS) return stuck;
  return fail_if_asked(call);
}

CUresult enter_context(const char* call) {
  const CUresult result = enter(call);
  if (result != CUDA_SUCCESS) return result;
  return current() == nullptr ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

Running::Running(CUcontext context) : context_(context) {
  const std::lock_guard lock(state().running_mutex);
  number_ = ++state().begun;
  state().running[context].insert(number_);
}

Running::~Running() {
  const std::lock_guard lock(state().running_mutex);
  state().running[context_].erase(number_);
  state().one_less.notify_all();
}

void await_kernels() {
  std::unique_lock lock(state().running_mutex);
  const std::set<std::uint64_t>& running = state().running[current()];
  const std::uint64_t last = state().begun;
  const bool over = state().one_less.wait_for(
      lock, kKernelLimit, [&] { return running.empty() || *running.begin() > last; });
  if (over) return;
  std::fprintf(stderr, "fake_cuda: a call of the driver has waited %d s for a kernel\n",
               static_cast<int>(kKernelLimit.count()));
  std::abort();
}

void set_sticky(CUresult code) { state().sticky.store(code); }
CUresult sticky() { return state().sticky.load(); }
CUcontext current() { return contexts.empty() ? nullptr : contexts.back(); }
bool is_device(CUdevice device) { return device >= 0 && device < settings().devices; }

}  // namespace fake

extern "C" {

bool fake_cuda_fail(const char* failures) {
  std::vector<fake::Failure> parsed;
  if (!fake::parse(failures, parsed)) return false;
  const std::lock_guard lock(fake::state().mutex);
  fake::state().failures = std::move(parsed);
  fake::set_sticky(CUDA_SUCCESS);
  return true;
}

uint64_t fake_cuda_calls(void) { return fake::state().calls.load(std::memory_order_relaxed); }

CUresult CUDAAPI cuInit(unsigned int) {
  const char* failures = std::getenv("FAKE_CUDA_FAIL");
  if (!fake::state().initialised.exchange(true) && failures != nullptr &&
      !fake_cuda_fail(failures)) {
    std::fprintf(stderr, "fake_cuda: FAKE_CUDA_FAIL=%s: expected CALL:NTH:CODE[,...]\n", failures);
    std::abort();
  }
  for (int i = 0; i < fake::kMaxDevices; ++i) fake::state().contexts[i].device = i;
  if (fake::settings().devices == 0) return CUDA_ERROR_NO_DEVICE;
  return fake::fail_if_asked("cuInit");
}

CUresult CUDAAPI cuDriverGetVersion(int* version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGetErrorName(CUresult error, const char** name) {
  switch (error) {
    case CUDA_SUCCESS:
      *name = "CUDA_SUCCESS";
      break;
    case CUDA_ERROR_INVALID_VALUE:
      *name = "CUDA_ERROR_INVALID_VALUE";
      break;
    case CUDA_ERROR_OUT_OF_MEMORY:
      *name = "CUDA_ERROR_OUT_OF_MEMORY";
      break;
    case CUDA_ERROR_NO_DEVICE:
      *name = "CUDA_ERROR_NO_DEVICE";
      break;
    case CUDA_ERROR_ECC_UNCORRECTABLE:
      *name = "CUDA_ERROR_ECC_UNCORRECTABLE";
      break;
    case CUDA_ERROR_ILLEGAL_ADDRESS:
      *name = "CUDA_ERROR_ILLEGAL_ADDRESS";
      break;
    case CUDA_ERROR_LAUNCH_FAILED:
      *name = "CUDA_ERROR_LAUNCH_FAILED";
      break;
    case CUDA_ERROR_NOT_SUPPORTED:
      *name = "CUDA_ERROR_NOT_SUPPORTED";
      break;
    case CUDA_ERROR_INVALID_CONTEXT:
      *name = "CUDA_ERROR_INVALID_CONTEXT";
      break;
    default:
      *name = nullptr;
      return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_SUCCESS ? "no error" : "an error of the stand-in driver";
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int* count) {
  if (const CUresult r = fake::enter("cuDeviceGetCount"); r != CUDA_SUCCESS) return r;
  *count = fake::settings().devices;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGet(CUdevice* device, int ordinal) {
  if (const CUresult r = fake::enter("cuDeviceGet"); r != CUDA_SUCCESS) return r;
  if (!fake::is_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetName(char* name, int length, CUdevice device) {
  if (!fake::is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(name, static_cast<std::size_t>(length), "Stand-in device");
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  if (const CUresult r = fake::enter("cuDeviceGetAttribute"); r != CUDA_SUCCESS) return r;
  if (!fake::is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      *value = 4;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = 1024;
      break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      *value = 9;
      break;
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
      *value = fake::settings().exports ? 1 : 0;
      break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR:
      *value = 1;
      break;
    default:
      *value = 0;
  }
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceTotalMem(size_t* bytes, CUdevice device) {
  if (!fake::is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = fake::settings().bytes;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  if (const CUresult r = fake::enter("cuDevicePrimaryCtxRetain"); r != CUDA_SUCCESS) return r;
  if (!fake::is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  fake::state().retained[device].fetch_add(1);
  *context = &fake::state().contexts[device];
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice device) {
  if (!fake::is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  if (fake::state().retained[device].fetch_sub(1) > 0) return CUDA_SUCCESS;
  fake::state().retained[device].fetch_add(1);
  return CUDA_ERROR_INVALID_CONTEXT;
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext context) {
  if (const CUresult r = fake::enter("cuCtxPushCurrent"); r != CUDA_SUCCESS) return r;
  fake::contexts.push_back(context);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxPopCurrent(CUcontext* context) {
  if (fake::contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (context != nullptr) *context = fake::contexts.back();
  fake::contexts.pop_back();
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext* context) {
  if (const CUresult r = fake::enter("cuCtxGetCurrent"); r != CUDA_SUCCESS) return r;
  *context = fake::current();
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice* device) {
  if (const CUresult r = fake::enter_context("cuCtxGetDevice"); r != CUDA_SUCCESS) return r;
  *device = fake::current()->device;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxEnablePeerAccess(CUcontext peer, unsigned int) {
  if (const CUresult r = fake::enter_context("cuCtxEnablePeerAccess"); r != CUDA_SUCCESS) return r;
  return peer == fake::current() ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

}  // extern "C"
