#include "torch/stream_work.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

#include "torch/streams.h"

namespace shoal::torch {

StreamWork::StreamWork(What what)
    : Work(-1, what.operation->retrieveOpType()),
      what_(std::move(what)),
      end_(what_.stream.device_type()) {
  end_.record(what_.stream);
}

/// Nobody has waited: torch's allocator is told who uses the memory that it may now get back.
StreamWork::~StreamWork() {
  if (what_.held.empty() || what_.operation->parts_done()) return;
  const c10::impl::VirtualGuardImpl guard(what_.stream.device_type());
  for (const at::Tensor& tensor : what_.held) {
    guard.recordDataPtrOnStream(tensor.storage().data_ptr(), what_.stream);
  }
}

bool StreamWork::wait(std::chrono::milliseconds timeout) {
  const bool is_known = what_.operation->parts_done();  // then this throws, or returns at once
  if (is_known || what_.waits_on_host || timeout != kNoTimeout) what_.operation->wait(timeout);
  order_current_stream();
  return true;
}

void StreamWork::order_current_stream() {
  const c10::Stream current = current_stream(what_.stream.device());
  Tensors done_with;  // outlives the lock
  const std::lock_guard lock(mutex_);
  if (current != what_.stream) end_.block(current);
  done_with = std::move(what_.held);
  what_.held.clear();
}

/// The future takes an event of what is on the current stream when it is completed.
c10::intrusive_ptr<c10::ivalue::Future> StreamWork::getFuture() {
  const std::lock_guard lock(mutex_);
  if (!future_) {
    future_ = c10::make_intrusive<c10::ivalue::Future>(
        c10::ListType::create(c10::TensorType::get()), std::vector{what_.stream.device()});
    const c10::StreamGuard on(what_.stream);
    future_->markCompleted(at::IValue(what_.outputs));
  }
  return future_;
}

}  // namespace shoal::torch
