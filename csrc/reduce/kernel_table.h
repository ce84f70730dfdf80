/// The kernels of one instruction set, and those this processor can run. Immutable; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "shoal/types.h"

namespace shoal::reduce {

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

/// Of one type and one operation; null where supports() says no.
struct OpKernels {
  FoldKernel fold;
  AccumulateKernel accumulate;  ///< what fold does with two sources
};
/// Of one type, by ReduceOp. kAvg is kSum with a scale: it has no kernels of its own.
struct KernelRow {
  OpKernels of[kReduceOps];
};

struct KernelTable {
  const char* instruction_set;
  CopyKernel copy;
  CopyKernel stream;  ///< copies past the caches
  KernelRow rows[kDataTypes];

  [[nodiscard]] const OpKernels& of(DataType dtype, ReduceOp op) const noexcept {
    return rows[static_cast<int>(dtype)].of[static_cast<int>(op)];
  }
};

/// Every table this processor can run, the best one last. The first is the baseline all others are
/// compared with, bit for bit (which NaN a NaN is, its sign and payload, is not specified).
std::span<const KernelTable* const> supported_tables() noexcept;

}  // namespace shoal::reduce
