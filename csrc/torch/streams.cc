#include "torch/streams.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace shoal::torch {

namespace {

std::string find_out(Communicator& communicator, c10::Device device) {
  if (!device.is_cuda())
    return "shoal's kernels are for CUDA, and the tensor is on " + device.str();
  try {
    (void)communicator.allocate_cuda({0}, device.index());
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kMissingLibrary) throw;
    return error.what();
  }
  return {};
}

}  // namespace

void* handle_of(const c10::Stream& stream) { return stream.native_handle(); }

c10::Stream current_stream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

void order_after(const c10::Stream& first, const c10::Stream& next) {
  if (first == next) return;
  c10::Event event(first.device_type());
  event.record(first);
  event.block(next);
}

std::string Streams::why_through_host(Communicator& communicator, c10::Device device) {
  const std::lock_guard lock(mutex_);
  if (asked_ != device) {
    why_ = find_out(communicator, device);
    asked_ = device;
    has_asked_.store(true, std::memory_order_relaxed);  // asked_ itself is under the mutex
  }
  return why_;
}

std::optional<c10::Device> Streams::device() const {
  if (!has_asked_.load(std::memory_order_relaxed)) return std::nullopt;
  const std::lock_guard lock(mutex_);
  return asked_;
}

c10::Stream Streams::side(c10::Device device) {
  const std::lock_guard lock(mutex_);
  if (!side_ || side_->device() != device) {
    side_ = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  }
  return *side_;
}

}  // namespace shoal::torch
