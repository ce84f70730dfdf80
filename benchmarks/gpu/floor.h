/// What the kernels of floor.cu are told.
#pragma once

#include <cstdint>

namespace floor_of {

/// Flags lie in device memory: what `from` tells `to` at flags[to * kStride + from].
inline constexpr int kStride = 32;

struct Round {
  std::uint32_t* flags = nullptr;
  std::int32_t self = 0, ranks = 1;
  std::uint32_t value = 0;  ///< of this round; not 0
};

/// Words of the host's memory.
struct Wait {
  std::uint32_t* begun = nullptr;
  const std::uint32_t* flag = nullptr;
};

/// No kernel of these waits for ever.
inline constexpr int kMostPolls = 1 << 22;

}  // namespace floor_of
