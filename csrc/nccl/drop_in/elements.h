/// NCCL's data types and reductions in shoal's words, and what shoal does not do itself: scaling.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "nccl/drop_in/api.h"
#include "shoal/types.h"

namespace shoal::nccl {

/// Throws Error(kInvalidArgument) for no data type.
DataType type_of(ncclDataType_t type);

/// One factor, of the type of what it multiplies.
struct Factor {
  double real = 1;                   ///< of floating types
  std::int64_t integer = 1;          ///< of integers (its bits, of unsigned ones)
  std::array<std::byte, 8> given{};  ///< as it was given
};
/// Throws Error(kInvalidArgument) for no data type.
Factor read_factor(const void* scalar, ncclDataType_t type);

/// output[i] = input[i] * factor, rounded once; input may be output.
void multiply(const void* input, void* output, std::int64_t count, ncclDataType_t type,
              const Factor& factor);
/// data[i] /= divisor, of integers: what ncclAvg is to them (towards zero, as in NCCL).
void divide(void* data, std::int64_t count, ncclDataType_t type, int divisor);

}  // namespace shoal::nccl
