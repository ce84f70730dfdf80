/// Collectives on CUDA memory as a communicator sees them, whoever carries them out: the GPUs of a
/// node (device_calls.h), or the host, where there are several nodes (host_calls.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "core/kept.h"
#include "core/log.h"
#include "exec/plan.h"
#include "exec/task.h"

namespace shoal::comm {

class StreamCalls {
 public:
  virtual ~StreamCalls() = default;

  /// Enqueues a call; returns what its Work waits for, or nullptr: it was captured. Any thread.
  /// Throws Error if nothing has been enqueued.
  virtual exec::Task* call(const exec::Plan& plan, const void* input, void* output, void* stream,
                           std::int64_t timeout_ms) = 0;

  /// " during all_reduce #5": the oldest operation that is not over; else "". Engine's lock.
  [[nodiscard]] virtual std::string describe_current() const = 0;
};

/// As the driver knows it.
inline std::uint64_t address_of(const void* data) noexcept {
  return reinterpret_cast<std::uintptr_t>(data);
}

/// What a stream uses that has not come to its end: it may still do so.
template <class Group>
void leave_behind(std::unique_ptr<Group> group, int rank, std::uint32_t communicator) {
  log(LogLevel::kWarn,
      "rank %d: a stream has not come to the end of communicator %u's operations; "
      "what they use is not given back",
      rank, communicator);
  keep_for_ever(std::move(group));
}

}  // namespace shoal::comm
