/// CUDA for a torch that was built without it, over the stand-in for CUDA's driver
/// (tests/fake_cuda): enough of a device for shoal's backend to be tested with: streams and events
/// (guard.cc), memory that is given back in the order of its streams (memory.cc), copies, and all
/// other operators by way of the host (kernels.cc).
///
/// As on a device: what is enqueued runs later, in its stream's order; a kernel holds no tensor, so
/// that one whose memory was given back too early faults.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/core/Stream.h>
#include <cuda.h>

#include <functional>

namespace fake_torch {

/// A function of the driver that SHOAL_CUDA_DRIVER names.
void* symbol(const char* name);
void check(CUresult result, const char* call);

// cuda.h gives some functions other names by macros: those count, as text too.
#define FAKE_TEXT_OF(name) #name
#define FAKE_NAME_OF(name) FAKE_TEXT_OF(name)
#define CALL_CUDA(name, ...)                                                                    \
  ::fake_torch::check(                                                                          \
      reinterpret_cast<decltype(&name)>(::fake_torch::symbol(FAKE_NAME_OF(name)))(__VA_ARGS__), \
      FAKE_NAME_OF(name))

/// Makes the device's context this thread's.
void activate(c10::DeviceIndex device);
/// Number 0 is the default stream.
c10::Stream stream_at(c10::DeviceIndex device, c10::StreamId id);
c10::Stream current_stream(c10::DeviceIndex device);
c10::Stream stream_of_pool(c10::DeviceIndex device);
/// The previous one.
c10::Stream exchange_stream(const c10::Stream& stream);
CUstream handle_of(const c10::Stream& stream);
void enqueue(const c10::Stream& stream, std::function<void()> work);

c10::Allocator& allocator();
/// Its memory is not given back before what is on the stream now has run.
void record(const c10::DataPtr& memory, const c10::Stream& stream);

}  // namespace fake_torch
