/// Forked children, told apart without a system call.
#pragma once

#include <atomic>
#include <cstdint>

namespace shoal {

namespace detail {
extern std::atomic<std::uint32_t> forks;
}

/// How many forks lie between this process and the one that loaded the library. An object that
/// remembers the number it was made under knows by comparing whether it is in a child's copy.
/// (A child made by a bare clone() is not noticed.)
inline std::uint32_t fork_generation() noexcept {
  return detail::forks.load(std::memory_order_relaxed);
}

}  // namespace shoal
