/// Collectives on CUDA memory as a communicator sees them, whoever carries them out: the GPUs of a
/// node (device_calls.h), or the host, where there are several nodes (host_calls.h).
#pragma once

#include <cstdint>
#include <string>

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

}  // namespace shoal::comm
