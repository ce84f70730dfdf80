#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "cuda/handles.h"

namespace shoal::cuda {

/// Where each local rank's slice begins in this process, for kernels: a page of host memory that
/// the device reads. Written by one thread at a time; a kernel reads an entry only after its rank's
/// flag, and that rank has seen that the entry is there.
class BaseTable {
 public:
  /// Throws Error.
  BaseTable(const PrimaryContext& context, int ranks) : context_(&context) {
    const auto bytes =
        (static_cast<std::size_t>(ranks) * sizeof(std::uint64_t) + kPage - 1) / kPage * kPage;
    memory_.reset(static_cast<std::uint64_t*>(std::aligned_alloc(kPage, bytes)));
    if (memory_ == nullptr) throw Error(ErrorCode::kOutOfMemory, "cuda: no memory for a page");
    for (int r = 0; r < ranks; ++r) set(r, 0);
    const Driver& driver = context.driver();
    const ContextGuard guard(context);
    require(driver, "cuMemHostRegister",
            driver.mem_host_register(memory_.get(), bytes,
                                     CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP));
    const CUresult result = driver.mem_host_get_device_pointer(&device_, memory_.get(), 0);
    if (ok(result)) return;
    (void)driver.mem_host_unregister(memory_.get());
    require(driver, "cuMemHostGetDevicePointer", result);
  }
  ~BaseTable() {
    const ContextGuard guard(*context_);
    (void)context_->driver().mem_host_unregister(memory_.get());
  }
  BaseTable(const BaseTable&) = delete;
  BaseTable& operator=(const BaseTable&) = delete;

  void set(int local_rank, std::uint64_t base) noexcept {
    std::atomic_ref(memory_.get()[local_rank]).store(base, std::memory_order_release);
  }
  [[nodiscard]] const std::uint64_t* on_device() const noexcept {
    return reinterpret_cast<const std::uint64_t*>(device_);
  }

 private:
  static constexpr std::size_t kPage = 4096;
  struct Free {
    void operator()(std::uint64_t* memory) const noexcept { std::free(memory); }
  };
  const PrimaryContext* context_;
  std::unique_ptr<std::uint64_t, Free> memory_;
  CUdeviceptr device_ = 0;
};

}  // namespace shoal::cuda
