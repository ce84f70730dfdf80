/// Finds libshoal_cuda.so, which finds the CUDA driver. A job that never comes here loads neither.
#pragma once

#include <memory>
#include <string>

#include "cuda/device_memory.h"
#include "shoal/export.h"

namespace shoal::cuda {

/// This rank's CUDA memory. Throws Error: kMissingLibrary when our module, a driver or a device is
/// missing, or as DeviceArena does. The module stays loaded until the process ends.
std::unique_ptr<DeviceMemory> make_device_memory(const MemoryOptions& options,
                                                 const Interrupt& interrupt);

/// For `shoal info`; never throws for something that is missing.
SHOAL_API Survey survey();

}  // namespace shoal::cuda
