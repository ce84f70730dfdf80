/// The kernels of one instruction set, and those this processor can run. Immutable; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "shoal/types.h"

namespace shoal::reduce {

/// kAvg is kSum with a scale: it has no kernels of its own.
inline constexpr int kKernelOps = 4;

/// dst[i] = scale * (sources[0][i] op ... op sources[k - 1][i]), k >= 1. See fold() in reduce.h.
using FoldKernel = void (*)(void* dst, const void* const* sources, std::int64_t k,
                            std::int64_t count, double scale) noexcept;

struct KernelTable {
  const char* instruction_set;
  FoldKernel fold[kDataTypes][kKernelOps];
};

/// Every table this processor can run, the best one last. The first is the baseline all others are
/// compared with, bit for bit (which NaN a NaN is, its sign and payload, is not specified).
std::span<const KernelTable* const> supported_tables() noexcept;

}  // namespace shoal::reduce
