/// What of dlpack.h is needed here. Version 0.8 for CUDA memory: every consumer takes it, every
/// producer gives it. Version 1 for memory of the host: it says whether it may be written.
#pragma once

#include <cstdint>

#include "python/module.h"

namespace shoal::python {

inline constexpr std::int32_t kDlCpu = 1;
inline constexpr std::int32_t kDlCuda = 2;
enum class DlCode : std::uint8_t {
  kInt = 0,
  kUint = 1,
  kFloat = 2,
  kBfloat = 4,
  kBool = 6,
  kFloat8E4m3fn = 10,
  kFloat8E5m2 = 12,
};

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

struct DlManagedTensorVersioned {
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(DlManagedTensorVersioned*);
  std::uint64_t flags;
  DlTensor tensor;
};
inline constexpr std::uint64_t kDlReadOnly = 1;

/// numpy's dtype for the elements; one that check_array() refuses, if shoal has none such.
py::dtype dtype_of(const DlTensor& tensor);

/// Of a dtype that empty() makes.
DlCode code_of(const py::dtype& dtype);

/// Which kind of memory the object has, by DLPack; 0: it does not say.
std::int32_t dlpack_device(const py::object& object);

/// The memory of such an object, which lives as long as the array. Also elements that
/// numpy.from_dlpack() refuses: bfloat16, float8. Throws py::error_already_set.
py::array host_view(const py::object& object);

}  // namespace shoal::python
