#include "cuda/kernel_image.h"

// What nvcc has made of kernels.cu, as it is.
asm(".section .rodata\n"
    ".balign 16\n"
    ".global shoal_cuda_kernel_image\n"
    ".hidden shoal_cuda_kernel_image\n"
    "shoal_cuda_kernel_image:\n"
    ".incbin \"" SHOAL_CUDA_FATBIN
    "\"\n"
    ".previous\n");

extern "C" const unsigned char shoal_cuda_kernel_image[];

namespace shoal::cuda {

const void* kernel_image() noexcept { return shoal_cuda_kernel_image; }

}  // namespace shoal::cuda
