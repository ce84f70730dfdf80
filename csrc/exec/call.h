/// What the user called: a plan, and memory.
#pragma once

#include <cstdint>

#include "exec/plan.h"

namespace shoal::exec {

/// Pointers may be null where the plan's byte counts are 0.
struct Call {
  const Plan* plan = nullptr;
  const void* input = nullptr;
  void* output = nullptr;
  std::int64_t timeout_ns = 0;  ///< 0: none
  /// Instead of `input`, of `output`: addresses of the blocks of a side that has one a rank, in
  /// rank order. Looked at within start().
  void* const* input_list = nullptr;
  void* const* output_list = nullptr;

  [[nodiscard]] bool has_lists() const noexcept {
    return input_list != nullptr || output_list != nullptr;
  }
};

}  // namespace shoal::exec
