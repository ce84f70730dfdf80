/// Element-wise kernels. Pure; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "shoal/export.h"
#include "shoal/types.h"

namespace shoal::reduce {

/// Which instruction set the dispatcher chose, e.g. "x86-64-v3".
SHOAL_API const char* instruction_set() noexcept;

/// dst[i] = scale * (src[0][i] op src[1][i] op ...), folded in the order of `sources`, accumulated
/// in float32 for float16 and bfloat16, and rounded once; min and max propagate NaN. dst may be
/// exactly one of the sources. `scale` is 1 but for kAvg, whose op is a sum (floating types only).
/// Integers wrap around.
void fold(DataType dtype, ReduceOp op, void* dst, std::span<const void* const> sources,
          std::int64_t count, double scale = 1.0) noexcept;

/// dst[i] *= scale. Floating types only.
void scale(DataType dtype, void* dst, std::int64_t count, double scale) noexcept;

}  // namespace shoal::reduce
