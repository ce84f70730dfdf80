/// The kernels of kernel_list.h as functions, for the stand-in driver and for tests. A block is one
/// thread here, and a launch its blocks one after another.
#include <atomic>

#include "cuda/kernel_body.h"
#include "cuda/kernel_list.h"
#include "cuda/kernel_one_shot.h"
#include "fake_cuda/fake_cuda.h"

namespace shoal::cuda::kernels {
namespace {

struct HostTeam {
  int block_, blocks_;
  [[nodiscard]] int thread() const { return 0; }
  [[nodiscard]] int threads() const { return 1; }
  [[nodiscard]] int block() const { return block_; }
  [[nodiscard]] int blocks() const { return blocks_; }
  void meet() const {}
  [[nodiscard]] bool all(bool so) const { return so; }
  void publish() const { __atomic_thread_fence(__ATOMIC_RELEASE); }
};

std::atomic<int> launches{0};

template <class Format, class Op>
void run_blocks(const void* parameters, const FakeLaunch* launch) {
  const auto& p = *static_cast<const KernelParameters*>(parameters);
  const int blocks = static_cast<int>(launch->grid[0]);
  launches.fetch_add(1, std::memory_order_relaxed);
  Job job;
  for (int b = 0; b < blocks; ++b) run<Format, Op>(p, HostTeam{b, blocks}, job);
}

template <class Format, class Op>
void run_one_shot_blocks(const void* parameters, const FakeLaunch* launch) {
  const auto& p = *static_cast<const KernelParameters*>(parameters);
  const int blocks = static_cast<int>(launch->grid[0]);
  launches.fetch_add(1, std::memory_order_relaxed);
  for (int b = 0; b < blocks; ++b) run_one_shot<Format, Op>(p, HostTeam{b, blocks});
}

#define SHOAL_CUDA_KERNEL(name, Format, Op) {sizeof(KernelParameters), run_blocks<Format, Op>},
constexpr FakeKernel kFunctions[] = {SHOAL_CUDA_KERNELS(SHOAL_CUDA_KERNEL)};
static_assert(sizeof kFunctions / sizeof kFunctions[0] == kKernels);
#define SHOAL_CUDA_ONE_SHOT(name, Format, Op) \
  {sizeof(KernelParameters), run_one_shot_blocks<Format, Op>},
constexpr FakeKernel kOneShotFunctions[] = {SHOAL_CUDA_KERNELS(SHOAL_CUDA_ONE_SHOT)};

}  // namespace
}  // namespace shoal::cuda::kernels

/// Of all kernels, in this process.
extern "C" __attribute__((visibility("default"))) int shoal_fake_launches() {
  return shoal::cuda::kernels::launches.load(std::memory_order_relaxed);
}

extern "C" __attribute__((visibility("default"))) const FakeKernel* shoal_fake_kernel(
    const char* name) {
  using namespace shoal::cuda;
  for (int i = 0; i < kKernels; ++i) {
    if (std::string_view(kKernelNames[i]) == name) return &kernels::kFunctions[i];
    if (std::string_view(kOneShotNames[i]) == name) return &kernels::kOneShotFunctions[i];
  }
  return nullptr;
}
