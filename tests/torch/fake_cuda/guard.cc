#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>
#include <vector>

#include "driver.h"

namespace fake_torch {

namespace {

constexpr int kDevices = 2;
/// Streams of the pool, handed out in turns as torch does it; number 0 is the default stream.
constexpr int kPoolStreams = 8;

struct Device {
  CUcontext context = nullptr;
  std::vector<CUstream> streams;
  int next = 0;
};

Device& device_at(c10::DeviceIndex index) {
  static std::mutex mutex;
  static std::array<Device, kDevices> devices;
  const std::lock_guard lock(mutex);
  Device& device = devices.at(static_cast<std::size_t>(index));
  if (device.context == nullptr) {
    CALL_CUDA(cuInit, 0);
    CALL_CUDA(cuDevicePrimaryCtxRetain, &device.context, index);
    CALL_CUDA(cuCtxPushCurrent, device.context);
    device.streams.push_back(nullptr);  // the legacy default stream
    for (int i = 0; i < kPoolStreams; ++i) {
      CALL_CUDA(cuStreamCreate, &device.streams.emplace_back(), CU_STREAM_NON_BLOCKING);
    }
    CUcontext popped = nullptr;
    CALL_CUDA(cuCtxPopCurrent, &popped);
  }
  return device;
}

thread_local c10::DeviceIndex current_device = 0;
thread_local c10::DeviceIndex active_device = -1;
thread_local std::array<c10::StreamId, kDevices> current_streams{};

c10::DeviceIndex index_of(c10::Device device) {
  return device.has_index() ? device.index() : current_device;
}

/// torch's, for the device type CUDA.
class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device getDevice() const override { return {c10::kCUDA, current_device}; }
  void setDevice(c10::Device device) const override { current_device = index_of(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { setDevice(device); }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }

  c10::Stream getStream(c10::Device device) const override {
    return current_stream(index_of(device));
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return stream_at(index_of(device), 0);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return stream_of_pool(index_of(device));
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return exchange_stream(stream); }
  void* getStreamNativeHandle(const c10::Stream stream) const override { return handle_of(stream); }
  bool queryStream(const c10::Stream& stream) const override {
    activate(stream.device_index());
    return reinterpret_cast<decltype(&cuStreamQuery)>(symbol("cuStreamQuery"))(handle_of(stream)) ==
           CUDA_SUCCESS;
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    activate(stream.device_index());
    CALL_CUDA(cuStreamSynchronize, handle_of(stream));
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    activate(stream.device_index());
    auto& made = *reinterpret_cast<CUevent*>(event);
    if (made == nullptr) CALL_CUDA(cuEventCreate, &made, CU_EVENT_DISABLE_TIMING);
    CALL_CUDA(cuEventRecord, made, handle_of(stream));
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event == nullptr) return;
    activate(stream.device_index());
    CALL_CUDA(cuStreamWaitEvent, handle_of(stream), static_cast<CUevent>(event), 0);
  }
  bool queryEvent(void* event) const override {
    if (event == nullptr) return true;
    return reinterpret_cast<decltype(&cuEventQuery)>(symbol("cuEventQuery"))(
               static_cast<CUevent>(event)) == CUDA_SUCCESS;
  }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) CALL_CUDA(cuEventSynchronize, static_cast<CUevent>(event));
  }
  void destroyEvent(void* event, const c10::DeviceIndex device) const noexcept override {
    if (event == nullptr) return;
    activate(device);
    CALL_CUDA(cuEventDestroy, static_cast<CUevent>(event));
  }
  void recordDataPtrOnStream(const c10::DataPtr& memory, const c10::Stream& stream) const override {
    fake_torch::record(memory, stream);
  }
};

const c10::impl::DeviceGuardImplRegistrar registered(c10::kCUDA, new Guard);

using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
using c10d::RegistererTimerRegistry;
using c10d::TimerRegistry;

/// For autograd, which works on a device only where torch has an accelerator. Found by its name.
struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  void init() const override {}
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
};
REGISTER_CUDA_HOOKS(CUDAHooks)

/// DistributedDataParallel wants one for its log.
struct Timer final : c10d::Timer {
  explicit Timer(c10::Device) {}
  std::optional<std::int64_t> measureDifference(Event, Event) override { return std::nullopt; }
};
C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kCUDA, Timer)

}  // namespace

void* symbol(const char* name) {
  static void* const driver = [] {
    const char* path = std::getenv("SHOAL_CUDA_DRIVER");
    return ::dlopen(path == nullptr ? "" : path, RTLD_NOW);
  }();
  void* const found = driver == nullptr ? nullptr : ::dlsym(driver, name);
  TORCH_CHECK(found != nullptr, "fake CUDA: SHOAL_CUDA_DRIVER has no ", name);
  return found;
}

void check(CUresult result, const char* call) {
  TORCH_CHECK(result == CUDA_SUCCESS, "fake CUDA: ", call, ": error ", static_cast<int>(result));
}

void activate(c10::DeviceIndex device) {
  if (active_device == device) return;
  CUcontext popped = nullptr;
  if (active_device >= 0) CALL_CUDA(cuCtxPopCurrent, &popped);
  CALL_CUDA(cuCtxPushCurrent, device_at(device).context);
  active_device = device;
}

c10::Stream stream_at(c10::DeviceIndex device, c10::StreamId id) {
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(c10::kCUDA, device), id);
}

c10::Stream current_stream(c10::DeviceIndex device) {
  return stream_at(device, current_streams.at(static_cast<std::size_t>(device)));
}

c10::Stream stream_of_pool(c10::DeviceIndex device) {
  return stream_at(device, 1 + device_at(device).next++ % kPoolStreams);
}

c10::Stream exchange_stream(const c10::Stream& stream) {
  const c10::Stream before = current_stream(stream.device_index());
  current_streams.at(static_cast<std::size_t>(stream.device_index())) = stream.id();
  return before;
}

CUstream handle_of(const c10::Stream& stream) {
  return device_at(stream.device_index()).streams.at(static_cast<std::size_t>(stream.id()));
}

void enqueue(const c10::Stream& stream, std::function<void()> work) {
  activate(stream.device_index());
  const auto run = [](void* data) {
    const std::unique_ptr<std::function<void()>> mine(static_cast<std::function<void()>*>(data));
    (*mine)();
  };
  CALL_CUDA(cuLaunchHostFunc, handle_of(stream), run, new std::function<void()>(std::move(work)));
}

}  // namespace fake_torch
