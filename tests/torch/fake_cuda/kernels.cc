#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>

#include <chrono>
#include <thread>

#include "driver.h"

namespace fake_torch {

namespace {

c10::Device device_of(std::optional<c10::Device> device) {
  const c10::Device current(c10::kCUDA, 0);
  return device && device->has_index() ? *device : current;
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device_of(device));
  return at::detail::empty_generic(size, &allocator(), c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(device_of(device));
  return at::detail::empty_strided_generic(size, stride, &allocator(),
                                           c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           c10::dtype_or_default(dtype));
}

/// The stand-in's device memory is the host's, where the host is allowed to look.
at::Tensor bare(const at::Tensor& tensor) {
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(),
                       tensor.options().device(c10::kCPU));
}

/// An operation of the current stream, for which the host waits if some of the memory is its own.
at::Tensor& copy_(at::Tensor& to, const at::Tensor& from, bool /*non_blocking*/) {
  if (to.numel() == 0) return to;
  const c10::Device device = to.is_cpu() ? from.device() : to.device();
  const c10::Stream stream = current_stream(device.index());
  const at::Tensor source = from.expand_as(to);
  enqueue(stream, [to = bare(to), source = bare(source)]() mutable {
    const at::NoGradGuard no_grad;
    to.copy_(source);
  });
  if (to.is_cpu() || from.is_cpu()) stream.synchronize();
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  at::Tensor target = to;
  return copy_(target, from, false);
}

/// All else: copied to the host, done there, copied back.
void by_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("as_strided", [](const at::Tensor& x, at::IntArrayRef size, at::IntArrayRef stride,
                                std::optional<std::int64_t> offset) {
    return at::native::as_strided_tensorimpl(x, size, stride, offset);
  });
  library.impl("view",
               [](const at::Tensor& x, at::IntArrayRef size) { return at::native::view(x, size); });
  library.impl("view_as_real", &at::native::view_as_real);
  library.impl("copy_", &copy_);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&by_host>());
}

/// For programs: what torch.cuda would give them.
TORCH_LIBRARY(fake_cuda, library) {
  library.def("to_device(Tensor x, int device=0) -> Tensor",
              [](const at::Tensor& x, std::int64_t device) {
                return x.to(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device)));
              });
  // The same memory as elements of another type, whatever the storage's length.
  library.def("view_as_type(Tensor x, ScalarType dtype) -> Tensor", [](const at::Tensor& x,
                                                                       at::ScalarType dtype) {
    const auto elements = static_cast<std::int64_t>(x.nbytes() / c10::elementSize(dtype));
    at::Tensor view = at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(x.storage()), x.key_set(), c10::scalarTypeToTypeMeta(dtype));
    view.unsafeGetTensorImpl()->set_sizes_contiguous({elements});
    return view;
  });
  // The current stream does nothing for so long.
  library.def("delay(int ms) -> ()", [](std::int64_t ms) {
    enqueue(current_stream(0),
            [ms] { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); });
  });
  library.def("is_idle() -> bool", [] { return current_stream(0).query(); });
  library.def("synchronize() -> ()", [] { current_stream(0).synchronize(); });
  library.def("begin_capture() -> ()", [] {
    CALL_CUDA(cuStreamBeginCapture, handle_of(current_stream(0)), CU_STREAM_CAPTURE_MODE_RELAXED);
  });
  // A graph, for launch().
  library.def("end_capture() -> int", [] {
    CUgraph graph = nullptr;
    CUgraphExec runnable = nullptr;
    CALL_CUDA(cuStreamEndCapture, handle_of(current_stream(0)), &graph);
    CALL_CUDA(cuGraphInstantiate, &runnable, graph, 0);
    CALL_CUDA(cuGraphDestroy, graph);
    return reinterpret_cast<std::int64_t>(runnable);
  });
  library.def("launch(int graph) -> ()", [](std::int64_t graph) {
    CALL_CUDA(cuGraphLaunch, reinterpret_cast<CUgraphExec>(graph), handle_of(current_stream(0)));
  });
  library.def("new_stream() -> int", [] { return stream_of_pool(0).id(); });
  // Returns the one that was current.
  library.def("set_stream(int stream) -> int",
              [](std::int64_t id) { return exchange_stream(stream_at(0, id)).id(); });
}

}  // namespace

}  // namespace fake_torch
