/// The kernels, loaded into one context. Immutable; any thread.
#pragma once

#include <array>

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
  [[nodiscard]] int multiprocessors() const noexcept { return multiprocessors_; }

 private:
  const PrimaryContext* context_;
  KernelModule module_;
  std::array<CUfunction, kKernels> functions_{};
  int multiprocessors_ = 1;
};

}  // namespace shoal::cuda
