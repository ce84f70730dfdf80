#include "nccl/drop_in/elements.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>

#include "shoal/error.h"

namespace shoal::nccl {

namespace {

/// Widened to float; exact.
float from_half(std::uint16_t bits) noexcept {
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t exponent = bits >> 10 & 31, mantissa = bits & 0x3ff;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  const float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                    : std::ldexp(static_cast<float>(mantissa | 0x400),
                                                 static_cast<int>(exponent) - 25);
  return sign == 0 ? value : -value;
}

/// Rounded to nearest, ties to even.
std::uint16_t to_half(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  // Units of the last place at this magnitude; below the normal ones they stay the same.
  const int exponent = magnitude < 0x1p-14f ? -24 : std::ilogb(magnitude) - 10;
  const auto units = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(magnitude, -exponent)));
  // A carry out of the mantissa is the next exponent's zero, so the sum is right as it stands.
  const std::uint32_t below = magnitude < 0x1p-14f ? 0 : (exponent + 24) << 10;
  return static_cast<std::uint16_t>(sign | (below + units));
}

float from_bfloat(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t to_bfloat(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct Known {
  DataType type;
  bool reduces;
};
constexpr std::array<Known, ncclNumTypes> kTypes = {{
    {DataType::kInt8, true},
    {DataType::kUint8, true},
    {DataType::kInt32, true},
    {DataType::kUint32, true},
    {DataType::kInt64, true},
    {DataType::kUint64, true},
    {DataType::kFloat16, true},
    {DataType::kFloat32, true},
    {DataType::kFloat64, true},
    {DataType::kBfloat16, true},
    {DataType::kUint8, false},
    {DataType::kUint8, false},
}};

const Known& known(ncclDataType_t type) {
  if (type < 0 || type >= ncclNumTypes) {
    throw Error(ErrorCode::kInvalidArgument,
                "data type " + std::to_string(static_cast<int>(type)) + " is not one of NCCL's");
  }
  return kTypes[type];
}

/// Calls visit(T{}) with an element's C++ type; of half types their bits, std::uint16_t, which no
/// integer type of NCCL's is.
template <class Visit>
void with_type(ncclDataType_t type, Visit visit) {
  switch (type) {
    case ncclInt8:
      return visit(std::int8_t{});
    case ncclUint8:
      return visit(std::uint8_t{});
    case ncclInt32:
      return visit(std::int32_t{});
    case ncclUint32:
      return visit(std::uint32_t{});
    case ncclInt64:
      return visit(std::int64_t{});
    case ncclUint64:
      return visit(std::uint64_t{});
    case ncclFloat16:
    case ncclBfloat16:
      return visit(std::uint16_t{});
    case ncclFloat32:
      return visit(float{});
    case ncclFloat64:
      return visit(double{});
    default:
      throw Error(ErrorCode::kInvalidArgument, "float8 cannot be reduced by shoal");
  }
}

}  // namespace

std::int64_t size_of_type(ncclDataType_t type) { return size_of(known(type).type); }
DataType moved_as(ncclDataType_t type) { return known(type).type; }
bool can_reduce(ncclDataType_t type) noexcept {
  return type >= 0 && type < ncclNumTypes && kTypes[type].reduces;
}

Factor read_factor(const void* scalar, ncclDataType_t type) {
  Factor factor;
  with_type(type, [&](auto element) {
    using T = decltype(element);
    std::memcpy(&element, scalar, sizeof element);
    if constexpr (std::is_floating_point_v<T>) {
      factor.real = element;
    } else if constexpr (std::is_same_v<T, std::uint16_t>) {
      factor.real = type == ncclFloat16 ? from_half(element) : from_bfloat(element);
    } else {
      // NOLINTNEXTLINE(bugprone-signed-char-misuse): it is a number
      factor.integer = static_cast<std::int64_t>(element);
    }
  });
  return factor;
}

void multiply(const void* input, void* output, std::int64_t count, ncclDataType_t type,
              const Factor& factor) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    const auto* from = static_cast<const T*>(input);
    auto* to = static_cast<T*>(output);
    for (std::int64_t i = 0; i < count; ++i) {
      if constexpr (std::is_floating_point_v<T>) {
        to[i] = from[i] * static_cast<T>(factor.real);
      } else if constexpr (std::is_same_v<T, std::uint16_t>) {
        const auto by = static_cast<float>(factor.real);
        to[i] = type == ncclFloat16 ? to_half(from_half(from[i]) * by)
                                    : to_bfloat(from_bfloat(from[i]) * by);
      } else {  // unsigned: integers wrap around
        to[i] = static_cast<T>(static_cast<std::uint64_t>(from[i]) *
                               static_cast<std::uint64_t>(factor.integer));
      }
    }
  });
}

void divide(void* data, std::int64_t count, ncclDataType_t type, int divisor) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    auto* at = static_cast<T*>(data);
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, std::uint16_t>) {  // those are halves
      for (std::int64_t i = 0; i < count; ++i)
        at[i] = static_cast<T>(at[i] / static_cast<T>(divisor));
    }
  });
}

}  // namespace shoal::nccl
