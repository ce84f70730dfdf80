/// What libshoal_cuda.so exports: see device_memory.h.
#include "cuda/device_arena.h"
#include "cuda/kernel_image.h"
#include "shoal/export.h"

namespace shoal::cuda {
namespace {

/// By attributes alone: making a context would cost 0.3 s and a few hundred MiB of the device.
DeviceSurvey look_at(const Driver& driver, int ordinal) {
  DeviceSurvey survey;
  CUdevice device = 0;
  char name[128] = "unknown device";
  std::size_t bytes = 0;
  int virtual_memory = 0, descriptors = 0;
  require(driver, "cuDeviceGet", driver.device_get(&device, ordinal));
  (void)driver.device_get_name(name, sizeof name, device);
  (void)driver.device_total_mem(&bytes, device);
  (void)driver.device_get_attribute(
      &virtual_memory, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device);
  (void)driver.device_get_attribute(
      &descriptors, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, device);
  survey.name = name;
  survey.total_bytes = static_cast<std::int64_t>(bytes);
  survey.export_kind = virtual_memory != 0 && descriptors != 0
                           ? "file descriptors"
                           : "legacy IPC: pools do not grow, see SHOAL_CUDA_POOL_BYTES";
  return survey;
}

Survey take_survey() {
  const DriverFound& found = find_driver();
  Survey survey;
  survey.reason = found.reason;
  if (found.driver == nullptr) return survey;
  const Driver& driver = *found.driver;
  survey.found = true;
  survey.path = driver.path;
  int devices = 0;
  require(driver, "cuDeviceGetCount", driver.device_get_count(&devices));
  for (int i = 0; i < devices; ++i) survey.devices.push_back(look_at(driver, i));
  return survey;
}

DeviceMemory* create(const MemoryOptions& options, const Interrupt& interrupt) {
  const DriverFound& found = find_driver();
  if (found.driver == nullptr) throw Error(ErrorCode::kMissingLibrary, "cuda: " + found.reason);
  MemoryOptions complete = options;
  complete.kernels = kernel_image();
  return new DeviceArena(*found.driver, complete, interrupt);
}

}  // namespace
}  // namespace shoal::cuda

extern "C" {

SHOAL_API int shoal_cuda_abi_version() { return shoal::cuda::kModuleAbi; }

SHOAL_API void shoal_cuda_survey(shoal::cuda::Survey& survey) {
  survey = shoal::cuda::take_survey();
}

SHOAL_API shoal::cuda::DeviceMemory* shoal_cuda_create(const shoal::cuda::MemoryOptions& options,
                                                       const shoal::cuda::Interrupt& interrupt) {
  return shoal::cuda::create(options, interrupt);
}

}  // extern "C"
