/// Element-wise kernels. Pure; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "shoal/export.h"
#include "shoal/types.h"

namespace shoal::reduce {

/// Which instruction set the dispatcher chose, e.g. "x86-64-v3".
SHOAL_API const char* instruction_set() noexcept;

/// Where stores go. Past the caches (non-temporal) they save reading the lines they overwrite: 1.3
/// to 1.5 times as fast where the targets do not fit the caches, several times as slow where they
/// do. A fold whose targets are all sources, too, has read the lines anyway: it never streams.
enum class Stores : std::uint8_t { kCached, kStreaming };

/// dst[i] = scale * (src[0][i] op src[1][i] op ...) for every dst of `targets`, folded in the order
/// of `sources`, accumulated in float32 for floats of 16 and 8 bits, and rounded once; min and max
/// propagate NaN. A target may be exactly one of the sources. `scale` is 1 but for kAvg, whose op
/// is a sum (floating types only). Integers wrap around. Streaming stores are complete on return.
void fold(DataType dtype, ReduceOp op, std::span<void* const> targets,
          std::span<const void* const> sources, std::int64_t count, double scale = 1.0,
          Stores stores = Stores::kCached) noexcept;

inline void fold(DataType dtype, ReduceOp op, void* target, std::span<const void* const> sources,
                 std::int64_t count, double scale = 1.0) noexcept {
  fold(dtype, op, std::span<void* const>(&target, 1), sources, count, scale);
}

/// target[i] = target[i] op source[i]: what fold() does with two sources and no scale.
using Accumulate = void (*)(void* target, const void* source, std::int64_t count) noexcept;
/// To be asked for once, and called often.
Accumulate accumulator(DataType dtype, ReduceOp op) noexcept;

/// Copies; no overlap.
void copy(void* target, const void* source, std::int64_t bytes,
          Stores stores = Stores::kCached) noexcept;

/// dst[i] *= scale. Floating types only.
void scale(DataType dtype, void* dst, std::int64_t count, double scale) noexcept;

}  // namespace shoal::reduce
