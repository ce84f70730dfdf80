/// The kernels, loaded into one context, which whoever holds them keeps alive. Immutable; any
/// thread.
#pragma once

#include <array>
#include <memory>

#include "cuda/handles.h"
#include "cuda/kernel_list.h"
#include "cuda/kernel_parameters.h"

namespace shoal::cuda {

class Kernels {
 public:
  /// `image`: kernel_image(). Throws Error.
  Kernels(const PrimaryContext& context, const void* image);

  /// `blocks` of kBlockThreads threads each. `together`: all of them run at the same time, for they
  /// wait for other ranks.
  Outcome launch(int number, const KernelParameters& parameters, int blocks, bool together,
                 CUstream stream) const noexcept;
  /// The kernel of that number for small operations (kernel_one_shot.h). Its blocks do not wait for
  /// one another.
  Outcome launch_one_shot(int number, const KernelParameters& parameters, int blocks, int threads,
                          CUstream stream) const noexcept;
  [[nodiscard]] int multiprocessors() const noexcept { return multiprocessors_; }

 private:
  const Driver* driver_;
  KernelModule module_;
  std::array<CUfunction, kKernels> functions_{}, one_shot_{};
  int multiprocessors_ = 1;
};

/// Those of the context, loaded by the first that asks: ranks of one process share them, for
/// loading takes time and the context. Throws Error.
std::shared_ptr<const Kernels> share_kernels(const PrimaryContext& context, const void* image);

}  // namespace shoal::cuda
