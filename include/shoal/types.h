/// The vocabulary every layer shares: what is moved, how it is combined, between whom.
/// Self-contained; no other shoal header is needed.
#ifndef SHOAL_TYPES_H_
#define SHOAL_TYPES_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace shoal {

/// Position of a process (or thread) in a communicator, 0 <= rank < size.
using Rank = std::int32_t;
/// In the place of a receive's rank: whoever sends.
inline constexpr Rank kAnySource = -1;

/// A number of elements, never of bytes.
struct Count {
  std::int64_t value = 0;
  auto operator<=>(const Count&) const = default;
};

/// A number of bytes, never of elements.
struct Bytes {
  std::int64_t value = 0;
  auto operator<=>(const Bytes&) const = default;
};

enum class DataType : std::uint8_t {
  kFloat32,
  kFloat64,
  kInt32,
  kInt64,
  kUint8,
  kFloat16,
  kBfloat16,
  kInt8,
  kInt16,
  kUint16,
  kUint32,
  kUint64,
  kFloat8E4m3,  ///< OCP's "e4m3fn": no infinities; what is too large is the largest number, 448
  kFloat8E5m2,  ///< with infinities, as IEEE 754 would have it: the upper half of a float16
};
inline constexpr int kDataTypes = 14;

/// kAvg is a sum divided once by the number of ranks; integers do not have it. kBand, kBor and
/// kBxor are bitwise, of integers only: see supports().
enum class ReduceOp : std::uint8_t { kSum, kProd, kMin, kMax, kAvg, kBand, kBor, kBxor };
inline constexpr int kReduceOps = 8;

enum class Collective : std::uint8_t {
  kBarrier,
  kBroadcast,
  kReduce,
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kGather,
  kScatter,
};
inline constexpr int kCollectives = 9;

constexpr std::int64_t size_of(DataType dtype) noexcept {
  constexpr std::int64_t kSizes[kDataTypes] = {4, 8, 4, 8, 1, 2, 2, 1, 2, 2, 4, 8, 1, 1};
  return kSizes[static_cast<int>(dtype)];
}

constexpr bool is_integer(DataType dtype) noexcept {
  return dtype != DataType::kFloat32 && dtype != DataType::kFloat64 &&
         dtype != DataType::kFloat16 && dtype != DataType::kBfloat16 &&
         dtype != DataType::kFloat8E4m3 && dtype != DataType::kFloat8E5m2;
}

/// What is defined: sum, prod, min and max of everything; avg of floating types; band, bor and bxor
/// of integers.
constexpr bool supports(ReduceOp op, DataType dtype) noexcept {
  return op <= ReduceOp::kMax || is_integer(dtype) == (op != ReduceOp::kAvg);
}

constexpr std::string_view name_of(DataType dtype) noexcept {
  constexpr std::string_view kNames[kDataTypes] = {
      "float32", "float64", "int32",  "int64",  "uint8",  "float16",       "bfloat16",
      "int8",    "int16",   "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"};
  return kNames[static_cast<int>(dtype)];
}

constexpr std::string_view name_of(ReduceOp op) noexcept {
  constexpr std::string_view kNames[kReduceOps] = {"sum", "prod", "min", "max",
                                                   "avg", "band", "bor", "bxor"};
  return kNames[static_cast<int>(op)];
}

constexpr std::string_view name_of(Collective collective) noexcept {
  constexpr std::string_view kNames[kCollectives] = {"barrier",    "broadcast",  "reduce",
                                                     "all_reduce", "all_gather", "reduce_scatter",
                                                     "all_to_all", "gather",     "scatter"};
  return kNames[static_cast<int>(collective)];
}

/// The root's input goes to the others; nothing comes back.
constexpr bool is_one_to_all(Collective c) noexcept {
  return c == Collective::kBroadcast || c == Collective::kScatter;
}

constexpr bool has_root(Collective c) noexcept {
  return c == Collective::kBroadcast || c == Collective::kReduce || c == Collective::kGather ||
         c == Collective::kScatter;
}

constexpr bool reduces(Collective c) noexcept {
  return c == Collective::kReduce || c == Collective::kAllReduce || c == Collective::kReduceScatter;
}

}  // namespace shoal

#endif  // SHOAL_TYPES_H_
