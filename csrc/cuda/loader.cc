#include "cuda/loader.h"

#include "core/module.h"
#include "shoal/error.h"

namespace shoal::cuda {
namespace {

Module load_module() {
  return Module(
      {"cuda", "CUDA", "cuda.h of CUDA 12.0 or newer is found (SHOAL_CUDA=ON)", kModuleAbi});
}

}  // namespace

std::unique_ptr<DeviceMemory> make_device_memory(const MemoryOptions& options,
                                                 const Interrupt& interrupt) {
  const auto create = load_module().function<CreateFunction>("shoal_cuda_create");
  return std::unique_ptr<DeviceMemory>(create(options, interrupt));
}

Survey survey() {
  Survey survey;
  try {
    load_module().function<SurveyFunction>("shoal_cuda_survey")(survey);
  } catch (const Error& error) {
    survey.reason = error.what();
  }
  return survey;
}

}  // namespace shoal::cuda
