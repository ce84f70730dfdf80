/// What of dlpack.h is needed here, version 0.8: every consumer takes it, every producer gives it.
#pragma once

#include <cstdint>

namespace shoal::python {

inline constexpr std::int32_t kDlCuda = 2;
enum class DlCode : std::uint8_t { kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

struct DlTensor {
  void* data;
  std::int32_t device_type;
  std::int32_t device_id;
  std::int32_t ndim;
  DlCode code;
  std::uint8_t bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;  ///< in elements; null: C-contiguous
  std::uint64_t byte_offset;
};

struct DlManagedTensor {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManagedTensor*);
};

}  // namespace shoal::python
