/// Where the operations of a group on CUDA tensors run. Nothing here, or elsewhere in this
/// extension, is linked against CUDA: streams and events are what torch says they are, for whatever
/// device guard it has.
#pragma once

#include <c10/core/Stream.h>

#include <atomic>
#include <mutex>
#include <optional>
#include <string>

#include "shoal/communicator.h"

namespace shoal::torch {

/// What the driver knows a stream by (a cudaStream_t; null: the legacy default stream).
void* handle_of(const c10::Stream& stream);

/// The stream that is current for the device, in this thread.
c10::Stream current_stream(c10::Device device);

/// What this thread enqueues on the current stream next comes after all that is on `first` now.
void order_after(const c10::Stream& first, const c10::Stream& next);

/// Of one group. Any thread.
class Streams {
 public:
  /// Why collectives on this device's tensors have to go through host memory; "": they need not,
  /// and what they need has been loaded. The answer is the same on all ranks where their machines
  /// are set up alike; else the core finds a mismatch. Throws Error: see allocate_cuda().
  std::string why_through_host(Communicator& communicator, c10::Device device);

  /// The device that was asked for last; none: the group has not had CUDA tensors.
  std::optional<c10::Device> device() const;

  /// The group's own stream, for operations that computation is to go on beside.
  c10::Stream side(c10::Device device);

 private:
  mutable std::mutex mutex_;
  std::atomic<bool> has_asked_{false};
  std::optional<c10::Device> asked_;  // mutex_
  std::string why_;                   // mutex_: of asked_
  std::optional<c10::Stream> side_;   // mutex_
};

}  // namespace shoal::torch
