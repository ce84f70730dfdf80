#include "cuda/kernels.h"

namespace shoal::cuda {

Kernels::Kernels(const PrimaryContext& context, const void* image) : context_(&context) {
  const Driver& driver = context.driver();
  const ContextGuard guard(context);
  module_ = load_kernels(driver, image);
  for (int i = 0; i < kKernels; ++i) {
    require(driver, "cuModuleGetFunction",
            driver.module_get_function(&functions_[i], module_.get(), kKernelNames[i]));
  }
  require(driver, "cuDeviceGetAttribute",
          driver.device_get_attribute(&multiprocessors_, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                                      context.device()));
}

Outcome Kernels::launch(int number, const KernelParameters& parameters, int blocks, bool together,
                        CUstream stream) const noexcept {
  const Driver& driver = context_->driver();
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

}  // namespace shoal::cuda
