/// What programs that use NCCL call: its C interface, as far as libnccl.so.2 is asked for it here.
/// Values and layouts are NCCL's (nccl.h of 2.32); tests/nccl compiles a program against that
/// header and compares them.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct ncclComm;
using ncclComm_t = ncclComm*;
using cudaStream_t = struct CUstream_st*;

struct ncclUniqueId {
  char internal[128];
};

enum ncclResult_t {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7,
  ncclTimeout = 8,
};

enum ncclRedOp_t : int { ncclSum = 0, ncclProd, ncclMax, ncclMin, ncclAvg, ncclNumOps };

enum ncclDataType_t : int {
  ncclInt8 = 0,
  ncclUint8,
  ncclInt32,
  ncclUint32,
  ncclInt64,
  ncclUint64,
  ncclFloat16,
  ncclFloat32,
  ncclFloat64,
  ncclBfloat16,
  ncclFloat8e4m3,
  ncclFloat8e5m2,
  ncclNumTypes,
};

enum ncclScalarResidence_t : int { ncclScalarDevice = 0, ncclScalarHostImmediate = 1 };

/// Only what every version begins with is looked at.
struct ncclConfig_t {
  std::size_t size;
  unsigned int magic;
  unsigned int version;
  int blocking;
};

}  // extern "C"

namespace shoal::nccl {

/// Every function of that NCCL is exported, so that programs made for it find each name.
inline constexpr int kVersion = 23203;

/// An exported function, under NCCL's two names for it.
#define SHOAL_NCCL_API extern "C" __attribute__((visibility("default")))
#define SHOAL_NCCL_SECOND_NAME(name) \
  extern "C" __attribute__((visibility("default"), alias(#name))) decltype(name) p##name

}  // namespace shoal::nccl
