/// NCCL's data types and reductions in shoal's words, and what shoal does not do itself: scaling.
#pragma once

#include <cstdint>

#include "nccl/drop_in/api.h"
#include "shoal/types.h"

namespace shoal::nccl {

/// Bytes of an element; throws Error(kInvalidArgument) for no data type.
std::int64_t size_of_type(ncclDataType_t type);
/// To be moved only: float8 goes as bytes.
DataType moved_as(ncclDataType_t type);
/// Whether shoal can reduce it; float8 it cannot.
bool can_reduce(ncclDataType_t type) noexcept;

/// One factor, of the type of what it multiplies.
struct Factor {
  double real = 1;           ///< of floating types
  std::int64_t integer = 1;  ///< of integers (its bits, of unsigned ones)
};
/// Throws Error(kInvalidArgument) for a type that cannot be reduced.
Factor read_factor(const void* scalar, ncclDataType_t type);

/// output[i] = input[i] * factor, rounded once; input may be output.
void multiply(const void* input, void* output, std::int64_t count, ncclDataType_t type,
              const Factor& factor);
/// data[i] /= divisor, of integers: what ncclAvg is to them (towards zero, as in NCCL).
void divide(void* data, std::int64_t count, ncclDataType_t type, int divisor);

}  // namespace shoal::nccl
