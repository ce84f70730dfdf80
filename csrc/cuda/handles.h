/// Owners of the driver's handles. Move-only; destructors swallow errors: on a lost context every
/// call fails, and what it held goes with the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "cuda/driver.h"

namespace shoal::cuda {

/// Keeps the primary context of a device alive: the one that the CUDA runtime, torch and CuPy use,
/// so that their streams and ours mean the same. Any thread.
class PrimaryContext {
 public:
  /// Throws Error.
  PrimaryContext(const Driver& driver, int ordinal) : driver_(&driver) {
    require(driver, "cuDeviceGet", driver.device_get(&device_, ordinal));
    require(driver, "cuDevicePrimaryCtxRetain", driver.primary_ctx_retain(&context_, device_));
  }
  ~PrimaryContext() { (void)driver_->primary_ctx_release(device_); }
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;

  [[nodiscard]] const Driver& driver() const noexcept { return *driver_; }
  [[nodiscard]] CUdevice device() const noexcept { return device_; }
  [[nodiscard]] CUcontext get() const noexcept { return context_; }

 private:
  const Driver* driver_;
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
};

/// Makes a context current in this thread for a while; mostly it is already. Enough for what goes
/// onto a stream.
class StreamGuard {
 public:
  explicit StreamGuard(const PrimaryContext& context) noexcept : driver_(context.driver()) {
    CUcontext current = nullptr;
    if (ok(driver_.ctx_get_current(&current)) && current == context.get()) return;
    pushed_ = ok(driver_.ctx_push_current(context.get()));
  }
  ~StreamGuard() {
    if (pushed_) (void)driver_.ctx_pop_current(nullptr);
  }
  StreamGuard(const StreamGuard&) = delete;
  StreamGuard& operator=(const StreamGuard&) = delete;

 private:
  const Driver& driver_;
  bool pushed_ = false;
};

/// Besides, lets the thread allocate, free and query while another one captures a stream: none of
/// ours touches what is captured.
class ContextGuard {
 public:
  explicit ContextGuard(const PrimaryContext& context) noexcept
      : current_(context), driver_(context.driver()) {
    (void)driver_.thread_exchange_stream_capture_mode(&mode_);
  }
  ~ContextGuard() { (void)driver_.thread_exchange_stream_capture_mode(&mode_); }
  ContextGuard(const ContextGuard&) = delete;
  ContextGuard& operator=(const ContextGuard&) = delete;

 private:
  StreamGuard current_;
  const Driver& driver_;
  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

/// What Stream, Event and KernelModule share: a handle and how it is given back. One thread.
template <class Handle, auto kDestroy>
class Owned {
 public:
  Owned() noexcept = default;
  Owned(const Driver& driver, Handle handle) noexcept : driver_(&driver), handle_(handle) {}
  Owned(Owned&& other) noexcept
      : driver_(other.driver_), handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(driver_, other.driver_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) (void)(driver_->*kDestroy)(handle_);
  }
  [[nodiscard]] Handle get() const noexcept { return handle_; }

 private:
  const Driver* driver_ = nullptr;
  Handle handle_ = nullptr;
};

using Stream = Owned<CUstream, &Driver::stream_destroy>;
using Event = Owned<CUevent, &Driver::event_destroy>;
using KernelModule = Owned<CUmodule, &Driver::module_unload>;

/// Host memory, whole pages, that the device sees while this lives. Any thread.
class MappedMemory {
 public:
  /// Throws Error.
  MappedMemory(const PrimaryContext& context, std::byte* memory, std::int64_t bytes)
      : context_(&context), memory_(memory), bytes_(bytes) {
    const Driver& driver = context.driver();
    const ContextGuard guard(context);
    require(driver, "cuMemHostRegister",
            driver.mem_host_register(memory, static_cast<std::size_t>(bytes),
                                     CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP));
    const CUresult result = driver.mem_host_get_device_pointer(&device_, memory, 0);
    if (!ok(result)) (void)driver.mem_host_unregister(memory);
    require(driver, "cuMemHostGetDevicePointer", result);
  }
  MappedMemory(MappedMemory&& other) noexcept
      : context_(other.context_),
        memory_(std::exchange(other.memory_, nullptr)),
        bytes_(other.bytes_),
        device_(other.device_) {}
  MappedMemory& operator=(MappedMemory&& other) noexcept {
    std::swap(context_, other.context_);
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
    return *this;
  }
  ~MappedMemory() {
    if (memory_ == nullptr) return;
    const ContextGuard guard(*context_);
    (void)context_->driver().mem_host_unregister(memory_);
  }
  [[nodiscard]] std::byte* memory() const noexcept { return memory_; }
  [[nodiscard]] bool holds(const std::byte* address) const noexcept {
    return address >= memory_ && address < memory_ + bytes_;
  }
  /// Where the device sees an address that it holds.
  [[nodiscard]] CUdeviceptr on_device(const std::byte* address) const noexcept {
    return device_ + static_cast<CUdeviceptr>(address - memory_);
  }

 private:
  const PrimaryContext* context_;
  std::byte* memory_;
  std::int64_t bytes_;
  CUdeviceptr device_ = 0;
};

/// Is the stream being captured into a graph? In the current context.
inline Outcome ask_captured(const Driver& driver, CUstream stream, bool& captured) noexcept {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  const Outcome outcome{"cuStreamIsCapturing", driver.stream_is_capturing(stream, &status)};
  captured = status != CU_STREAM_CAPTURE_STATUS_NONE;
  return outcome;
}

// In the current context. They throw Error.

inline Stream make_stream(const Driver& driver, CUstream_flags flags) {
  CUstream stream = nullptr;
  require(driver, "cuStreamCreate", driver.stream_create(&stream, flags));
  return {driver, stream};
}

inline Event make_event(const Driver& driver) {
  CUevent event = nullptr;
  require(driver, "cuEventCreate", driver.event_create(&event, CU_EVENT_DISABLE_TIMING));
  return {driver, event};
}

inline KernelModule load_kernels(const Driver& driver, const void* image) {
  CUmodule module = nullptr;
  require(driver, "cuModuleLoadData", driver.module_load_data(&module, image));
  return {driver, module};
}

}  // namespace shoal::cuda
