/// The kernels of one instruction set, and those this processor can run. Immutable; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "shoal/types.h"

namespace shoal::reduce {

/// kAvg is kSum with a scale: it has no kernels of its own.
inline constexpr int kKernelOps = 4;

/// targets[*][i] = scale * (sources[0][i] op ... op sources[k - 1][i]). See fold() in reduce.h.
struct FoldArguments {
  void* const* targets;
  std::int64_t target_count;  ///< >= 1
  const void* const* sources;
  std::int64_t source_count;  ///< >= 1
  std::int64_t count;         ///< elements
  double scale;
  bool streams;
};
using FoldKernel = void (*)(const FoldArguments&) noexcept;
/// target[i] = target[i] op source[i]
using AccumulateKernel = void (*)(void* target, const void* source, std::int64_t count) noexcept;
using CopyKernel = void (*)(void* target, const void* source, std::int64_t bytes) noexcept;

struct KernelTable {
  const char* instruction_set;
  CopyKernel copy;
  CopyKernel stream;  ///< copies past the caches
  FoldKernel fold[kDataTypes][kKernelOps];
  AccumulateKernel accumulate[kDataTypes][kKernelOps];  ///< what fold does with two sources
};

/// Every table this processor can run, the best one last. The first is the baseline all others are
/// compared with, bit for bit (which NaN a NaN is, its sign and payload, is not specified).
std::span<const KernelTable* const> supported_tables() noexcept;

}  // namespace shoal::reduce
