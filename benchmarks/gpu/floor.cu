/// The least that a small operation can cost: a kernel, and one round of flags between kernels.
#include "floor.h"

namespace floor_of {

extern "C" __global__ void floor_empty(const __grid_constant__ Round) {}

/// A thread for each other rank.
extern "C" __global__ void floor_round(const __grid_constant__ Round round) {
  const int other = static_cast<int>(threadIdx.x);
  if (other >= round.ranks || other == round.self) return;
  volatile std::uint32_t* const flags = round.flags;
  flags[other * kStride + round.self] = round.value;
  for (int i = 0; i < kMostPolls; ++i) {
    if (flags[round.self * kStride + other] == round.value) return;
  }
}

extern "C" __global__ void floor_wait(const __grid_constant__ Wait wait) {
  *const_cast<volatile std::uint32_t*>(wait.begun) = 1;
  for (int i = 0; i < kMostPolls; ++i) {
    if (*const_cast<const volatile std::uint32_t*>(wait.flag) != 0) return;
  }
}

}  // namespace floor_of
