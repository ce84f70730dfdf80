/// torch's tensors in shoal's pools: moved between the ranks of a node without a copy.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "torch/job.h"

namespace shoal::torch {

/// Puts ours in front of torch's allocator of CPU memory, once a process: it does nothing but what
/// pool() and large_blocks.h say.
void install_allocator();

/// From here until leave_pool(), tensors that this thread makes on the CPU get their memory from
/// the job's pool: blocks of `smallest` bytes and more; what does not fit comes from where it came
/// before. A tensor's memory stays valid after the block, and after its process group has gone.
/// Nests: returns what was in force before, for leave_pool().
struct PoolScope {
  std::shared_ptr<Job> job;
  std::size_t smallest = 0;
};
PoolScope enter_pool(PoolScope scope);
void leave_pool(PoolScope before);

/// A contiguous CPU tensor in the pool; in ordinary memory where the pool is full.
at::Tensor pool_empty(const std::shared_ptr<Job>& job, at::IntArrayRef sizes, at::ScalarType type);

/// A contiguous CUDA tensor in the pool of this rank's GPU; see Communicator::allocate_cuda(). As
/// with torch's own allocator, its memory is used again after what is on the stream that is current
/// now, and on the one that is when the tensor is freed.
at::Tensor cuda_pool_empty(const std::shared_ptr<Job>& job, at::IntArrayRef sizes,
                           at::ScalarType type, c10::Device device);

}  // namespace shoal::torch
