#include "nccl/drop_in/elements.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>

#include "shoal/error.h"

namespace shoal::nccl {

namespace {

/// A float of less than 32 bits. Magnitudes from `special` on are no numbers; infinity, if there is
/// one, is the first of them. `overflow` is what becomes of numbers that are too large.
struct Format {
  int bits, mantissa, bias;
  std::uint32_t special, overflow;
};
constexpr Format kHalf = {16, 10, 15, 0x7c00, 0x7c00};
constexpr Format kFloat8E4m3 = {8, 3, 7, 0x7f, 0x7e};
constexpr Format kFloat8E5m2 = {8, 2, 15, 0x7c, 0x7c};

/// Widened to float; exact.
float from_small(std::uint32_t bits, const Format& format) noexcept {
  const std::uint32_t sign = 1u << (format.bits - 1), magnitude = bits & (sign - 1);
  const std::uint32_t hidden = 1u << format.mantissa, mantissa = magnitude & (hidden - 1);
  const int exponent = static_cast<int>(magnitude >> format.mantissa);
  float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), 1)
                              : std::ldexp(static_cast<float>(mantissa | hidden), exponent);
  value = std::ldexp(value, -format.bias - format.mantissa);
  if (magnitude >= format.special) value = mantissa == 0 ? HUGE_VALF : std::nanf("");
  return (bits & sign) == 0 ? value : -value;
}

/// Rounded to nearest, ties to even.
std::uint32_t to_small(float value, const Format& format) noexcept {
  const std::uint32_t ones = (1u << (format.bits - 1)) - 1;  // after the sign: a NaN
  const std::uint32_t sign = std::signbit(value) ? ones + 1 : 0;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | ones;
  if (std::isinf(value)) return sign | format.overflow;
  // Units of the last place at this magnitude; below the normal ones they stay the same.
  const int least = 1 - format.bias;
  const int exponent = magnitude < std::ldexp(1.0f, least) ? least : std::ilogb(magnitude);
  const float units = std::nearbyint(std::ldexp(magnitude, format.mantissa - exponent));
  // A carry out of the mantissa is the next exponent's zero, so the sum is right as it stands.
  const std::uint32_t below = static_cast<std::uint32_t>(exponent - least) << format.mantissa;
  return sign | std::min(below + static_cast<std::uint32_t>(units), format.overflow);
}

float from_bfloat(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t to_bfloat(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

constexpr std::array<DataType, ncclNumTypes> kTypes = {
    DataType::kInt8,    DataType::kUint8,    DataType::kInt32,      DataType::kUint32,
    DataType::kInt64,   DataType::kUint64,   DataType::kFloat16,    DataType::kFloat32,
    DataType::kFloat64, DataType::kBfloat16, DataType::kFloat8E4m3, DataType::kFloat8E5m2,
};

/// Bits of a float that C++ has no type for.
template <class T>
struct Small {
  T bits;
};

template <class T>
float from_small(Small<T> small, ncclDataType_t type) noexcept {
  switch (type) {
    case ncclFloat8e4m3:
      return from_small(small.bits, kFloat8E4m3);
    case ncclFloat8e5m2:
      return from_small(small.bits, kFloat8E5m2);
    case ncclFloat16:
      return from_small(small.bits, kHalf);
    default:
      return from_bfloat(small.bits);
  }
}

template <class T>
Small<T> to_small(float value, ncclDataType_t type) noexcept {
  switch (type) {
    case ncclFloat8e4m3:
      return {static_cast<T>(to_small(value, kFloat8E4m3))};
    case ncclFloat8e5m2:
      return {static_cast<T>(to_small(value, kFloat8E5m2))};
    case ncclFloat16:
      return {static_cast<T>(to_small(value, kHalf))};
    default:
      return {static_cast<T>(to_bfloat(value))};
  }
}

[[noreturn]] void throw_unknown(ncclDataType_t type) {
  throw Error(ErrorCode::kInvalidArgument,
              "data type " + std::to_string(static_cast<int>(type)) + " is not one of NCCL's");
}

/// Calls visit(T{}) with an element's C++ type.
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
      return visit(Small<std::uint16_t>{});
    case ncclFloat8e4m3:
    case ncclFloat8e5m2:
      return visit(Small<std::uint8_t>{});
    case ncclFloat32:
      return visit(float{});
    case ncclFloat64:
      return visit(double{});
    case ncclNumTypes:
      break;
  }
  throw_unknown(type);
}

}  // namespace

DataType type_of(ncclDataType_t type) {
  if (type < 0 || type >= ncclNumTypes) throw_unknown(type);
  return kTypes[type];
}

Factor read_factor(const void* scalar, ncclDataType_t type) {
  Factor factor;
  with_type(type, [&](auto element) {
    using T = decltype(element);
    std::memcpy(&element, scalar, sizeof element);
    std::memcpy(factor.given.data(), scalar, sizeof element);
    if constexpr (std::is_floating_point_v<T>) {
      factor.real = element;
    } else if constexpr (std::is_integral_v<T>) {
      // NOLINTNEXTLINE(bugprone-signed-char-misuse): it is a number
      factor.integer = static_cast<std::int64_t>(element);
    } else {
      factor.real = from_small(element, type);
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
      } else if constexpr (std::is_integral_v<T>) {  // unsigned: integers wrap around
        to[i] = static_cast<T>(static_cast<std::uint64_t>(from[i]) *
                               static_cast<std::uint64_t>(factor.integer));
      } else {
        const float product = from_small(from[i], type) * static_cast<float>(factor.real);
        to[i] = to_small<decltype(element.bits)>(product, type);
      }
    }
  });
}

void divide(void* data, std::int64_t count, ncclDataType_t type, int divisor) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    auto* at = static_cast<T*>(data);
    if constexpr (std::is_integral_v<T>) {
      for (std::int64_t i = 0; i < count; ++i)
        at[i] = static_cast<T>(at[i] / static_cast<T>(divisor));
    }
  });
}

}  // namespace shoal::nccl
