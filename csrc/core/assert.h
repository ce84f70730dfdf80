/// SHOAL_ASSERT: always on. A failed one is a bug in shoal, never the user's fault.
#pragma once

namespace shoal {
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line) noexcept;
}

#define SHOAL_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::shoal::assertion_failed(#condition, __FILE__, __LINE__))
