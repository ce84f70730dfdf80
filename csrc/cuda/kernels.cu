/// The kernels of kernel_list.h for the device.
#include "cuda/kernel_body.h"
#include "cuda/kernel_list.h"
#include "cuda/kernel_one_shot.h"

namespace shoal::cuda::kernels {
namespace {

/// The threads of a launch.
struct DeviceTeam {
  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int threads() const { return static_cast<int>(blockDim.x); }
  __device__ int block() const { return static_cast<int>(blockIdx.x); }
  __device__ int blocks() const { return static_cast<int>(gridDim.x); }
  __device__ void meet() const { __syncthreads(); }
  /// Meets, and tells whether it is so for all threads of the block.
  __device__ bool all(bool so) const { return __syncthreads_and(so) != 0; }
  /// What the block has stored before meeting is seen by whoever sees a later flag.
  __device__ void publish() const { __threadfence_system(); }
};

}  // namespace

#define SHOAL_CUDA_KERNEL(name, Format, Op)                               \
  extern "C" __global__ void __launch_bounds__(kBlockThreads)             \
      shoal_##name(const __grid_constant__ KernelParameters parameters) { \
    __shared__ Job job;                                                   \
    run<Format, Op>(parameters, DeviceTeam(), job);                       \
  }
SHOAL_CUDA_KERNELS(SHOAL_CUDA_KERNEL)

#define SHOAL_CUDA_ONE_SHOT(name, Format, Op)                                      \
  extern "C" __global__ void __launch_bounds__(kBlockThreads)                      \
      shoal_one_shot_##name(const __grid_constant__ KernelParameters parameters) { \
    run_one_shot<Format, Op>(parameters, DeviceTeam());                            \
  }
SHOAL_CUDA_KERNELS(SHOAL_CUDA_ONE_SHOT)

}  // namespace shoal::cuda::kernels
