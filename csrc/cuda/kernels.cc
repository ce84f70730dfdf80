#include "cuda/kernels.h"

#include <map>
#include <mutex>

namespace shoal::cuda {

namespace {

/// Also puts its code on the device: the driver would do that at the first launch, which may have
/// to wait for kernels that run, and they for the one that is to be launched.
CUfunction load_function(const Driver& driver, CUmodule module, const char* name) {
  CUfunction function = nullptr;
  require(driver, "cuModuleGetFunction", driver.module_get_function(&function, module, name));
  int registers = 0;  // asking for what only loaded functions have loads them, before CUDA 12.4
  require(driver, "cuFuncLoad",
          driver.func_load != nullptr
              ? driver.func_load(function)
              : driver.func_get_attribute(&registers, CU_FUNC_ATTRIBUTE_NUM_REGS, function));
  return function;
}

}  // namespace

Kernels::Kernels(const PrimaryContext& context, const void* image) : driver_(&context.driver()) {
  const Driver& driver = context.driver();
  const ContextGuard guard(context);
  module_ = load_kernels(driver, image);
  for (int i = 0; i < kKernels; ++i) {
    functions_[i] = load_function(driver, module_.get(), kKernelNames[i]);
    one_shot_[i] = load_function(driver, module_.get(), kOneShotNames[i]);
  }
  require(driver, "cuDeviceGetAttribute",
          driver.device_get_attribute(&multiprocessors_, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                                      context.device()));
}

Outcome Kernels::launch(int number, const KernelParameters& parameters, int blocks, bool together,
                        CUstream stream) const noexcept {
  const Driver& driver = *driver_;
  void* arguments[] = {const_cast<KernelParameters*>(&parameters)};
  const auto grid = static_cast<unsigned>(blocks);
  if (!together) {
    return {"cuLaunchKernel", driver.launch_kernel(functions_[number], grid, 1, 1, kBlockThreads, 1,
                                                   1, 0, stream, arguments, nullptr)};
  }
  CUlaunchAttribute cooperative{};
  cooperative.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
  cooperative.value.cooperative = 1;
  CUlaunchConfig config{};
  config.gridDimX = grid;
  config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = kBlockThreads;
  config.blockDimY = config.blockDimZ = 1;
  config.hStream = stream;
  config.attrs = &cooperative;
  config.numAttrs = 1;
  return {"cuLaunchKernelEx",
          driver.launch_kernel_ex(&config, functions_[number], arguments, nullptr)};
}

Outcome Kernels::launch_one_shot(int number, const KernelParameters& parameters, int blocks,
                                 int threads, CUstream stream) const noexcept {
  void* arguments[] = {const_cast<KernelParameters*>(&parameters)};
  return {"cuLaunchKernel", driver_->launch_kernel(one_shot_[number], static_cast<unsigned>(blocks),
                                                   1, 1, static_cast<unsigned>(threads), 1, 1, 0,
                                                   stream, arguments, nullptr)};
}

std::shared_ptr<const Kernels> share_kernels(const PrimaryContext& context, const void* image) {
  static std::mutex mutex;
  static std::map<CUcontext, std::weak_ptr<const Kernels>> loaded;
  const std::lock_guard lock(mutex);
  std::weak_ptr<const Kernels>& known = loaded[context.get()];
  std::shared_ptr<const Kernels> kernels = known.lock();
  if (kernels == nullptr) {
    kernels = std::make_shared<const Kernels>(context, image);
    known = kernels;
  }
  return kernels;
}

}  // namespace shoal::cuda
