#pragma once

namespace shoal::cuda {

/// The kernels of kernel_list.h for the device: a fat binary, for cuModuleLoadData.
const void* kernel_image() noexcept;

}  // namespace shoal::cuda
