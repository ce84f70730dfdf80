/// Every kernel once: nvcc makes device functions of this list (kernels.cu), g++ functions that the
/// tests' stand-in driver runs (kernels_host.cc), and the launcher looks them up in it.
///
/// Floating types accumulate as csrc/reduce does, so all four have their own. Integers wrap around,
/// so sums and products know no sign; bits do not know where elements end; a copy knows bytes only.
#pragma once

#include <string_view>

#include "shoal/types.h"

#define SHOAL_CUDA_FLOAT_KERNELS(X, name, Format) \
  X(sum_##name, Format, Sum)                      \
  X(prod_##name, Format, Prod)                    \
  X(min_##name, Format, Min)                      \
  X(max_##name, Format, Max)
#define SHOAL_CUDA_RING_KERNELS(X, name, Format) \
  X(sum_##name, Format, Sum)                     \
  X(prod_##name, Format, Prod)
#define SHOAL_CUDA_ORDER_KERNELS(X, name, Format) \
  X(min_##name, Format, Min)                      \
  X(max_##name, Format, Max)

/// X(name, Format, Op), by kernel_body.h.
#define SHOAL_CUDA_KERNELS(X)                            \
  X(copy, Bits, Band)                                    \
  X(band, Bits, Band)                                    \
  X(bor, Bits, Bor)                                      \
  X(bxor, Bits, Bxor)                                    \
  SHOAL_CUDA_FLOAT_KERNELS(X, float32, Plain<float>)     \
  SHOAL_CUDA_FLOAT_KERNELS(X, float64, Plain<double>)    \
  SHOAL_CUDA_FLOAT_KERNELS(X, float16, Float16)          \
  SHOAL_CUDA_FLOAT_KERNELS(X, bfloat16, Bfloat16)        \
  SHOAL_CUDA_FLOAT_KERNELS(X, float8_e4m3fn, Float8E4m3) \
  SHOAL_CUDA_FLOAT_KERNELS(X, float8_e5m2, Float8E5m2)   \
  SHOAL_CUDA_RING_KERNELS(X, uint8, Plain<uint8_t>)      \
  SHOAL_CUDA_RING_KERNELS(X, uint16, Plain<uint16_t>)    \
  SHOAL_CUDA_RING_KERNELS(X, uint32, Plain<uint32_t>)    \
  SHOAL_CUDA_RING_KERNELS(X, uint64, Plain<uint64_t>)    \
  SHOAL_CUDA_ORDER_KERNELS(X, int8, Plain<int8_t>)       \
  SHOAL_CUDA_ORDER_KERNELS(X, int16, Plain<int16_t>)     \
  SHOAL_CUDA_ORDER_KERNELS(X, int32, Plain<int32_t>)     \
  SHOAL_CUDA_ORDER_KERNELS(X, int64, Plain<int64_t>)     \
  SHOAL_CUDA_ORDER_KERNELS(X, uint8, Plain<uint8_t>)     \
  SHOAL_CUDA_ORDER_KERNELS(X, uint16, Plain<uint16_t>)   \
  SHOAL_CUDA_ORDER_KERNELS(X, uint32, Plain<uint32_t>)   \
  SHOAL_CUDA_ORDER_KERNELS(X, uint64, Plain<uint64_t>)

namespace shoal::cuda {

#define SHOAL_CUDA_NAME(name, Format, Op) "shoal_" #name,
inline constexpr const char* kKernelNames[] = {SHOAL_CUDA_KERNELS(SHOAL_CUDA_NAME)};
#undef SHOAL_CUDA_NAME
/// The same for small operations, by kernel_one_shot.h.
#define SHOAL_CUDA_ONE_SHOT_NAME(name, Format, Op) "shoal_one_shot_" #name,
inline constexpr const char* kOneShotNames[] = {SHOAL_CUDA_KERNELS(SHOAL_CUDA_ONE_SHOT_NAME)};
#undef SHOAL_CUDA_ONE_SHOT_NAME
inline constexpr int kKernels = sizeof kKernelNames / sizeof kKernelNames[0];

/// A kernel, and how many of its elements one of the user's is.
struct KernelChoice {
  int number;                  ///< in kKernelNames; -1: there is none
  std::int64_t element_bytes;  ///< of its elements
};

/// The kernel whose name is `op`, '_' and `type`.
constexpr int kernel_named(std::string_view op, std::string_view type) noexcept {
  for (int i = 0; i < kKernels; ++i) {
    const std::string_view name = std::string_view(kKernelNames[i]).substr(6);
    if (type.empty() ? name == op
                     : name.size() == op.size() + 1 + type.size() && name.starts_with(op) &&
                           name[op.size()] == '_' && name.ends_with(type)) {
      return i;
    }
  }
  return -1;
}

constexpr KernelChoice kernel_for(Collective collective, DataType dtype, ReduceOp op) noexcept {
  if (!reduces(collective)) return {kernel_named("copy", ""), 1};
  if (op >= ReduceOp::kBand) return {kernel_named(name_of(op), ""), 1};
  const bool is_ring = op == ReduceOp::kSum || op == ReduceOp::kProd;
  constexpr DataType kUnsigned[9] = {
      {}, DataType::kUint8, DataType::kUint16, {}, DataType::kUint32, {}, {},
      {}, DataType::kUint64};
  const DataType type = is_ring && is_integer(dtype) ? kUnsigned[size_of(dtype)] : dtype;
  const ReduceOp folded = op == ReduceOp::kAvg ? ReduceOp::kSum : op;
  return {kernel_named(name_of(folded), name_of(type)), size_of(dtype)};
}

/// Whatever the host combines, a kernel does.
constexpr bool has_all_kernels() noexcept {
  for (int t = 0; t < kDataTypes; ++t) {
    for (int o = 0; o < kReduceOps; ++o) {
      const auto dtype = static_cast<DataType>(t);
      const auto op = static_cast<ReduceOp>(o);
      if (supports(op, dtype) && kernel_for(Collective::kAllReduce, dtype, op).number < 0) {
        return false;
      }
    }
  }
  return true;
}
static_assert(has_all_kernels());

}  // namespace shoal::cuda
