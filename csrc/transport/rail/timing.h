/// How long a rail may bring nothing while others do.
#pragma once

#include <cstdint>
#include <functional>

#include "core/clock.h"

namespace shoal::transport::rail {

struct Timing {
  /// A rail is asked when something has been waited for so long, and given up when it has not
  /// answered for so long again: longer than any healthy rail is silent, shorter than an
  /// operation's deadline.
  std::int64_t stall_ns = 2000 * kNsPerMs;
  std::function<std::int64_t()> now = now_ns;  ///< a test's own
};

}  // namespace shoal::transport::rail
