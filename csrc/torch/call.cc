#include "torch/call.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "torch/pool.h"

namespace shoal::torch {

namespace {

/// Work on a device that was queued before this call and writes, or reads, the tensor.
void finish_queued(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(tensor.device().type());
  guard.getStream(tensor.device()).synchronize();
}

/// The tensors of the list as one, if they lie one behind the other in one storage.
at::Tensor adjacent(const Call::Tensors& list) {
  std::int64_t total = 0;
  for (const at::Tensor& tensor : list) {
    const bool follows = tensor.is_cpu() && tensor.is_contiguous() &&
                         tensor.dtype() == list[0].dtype() && tensor.is_alias_of(list[0]) &&
                         tensor.storage_offset() == list[0].storage_offset() + total;
    if (!follows) return {};
    total += tensor.numel();
  }
  return list.empty() ? at::Tensor() : list[0].as_strided({total}, {1});
}

std::int64_t elements_in(const Call::Tensors& list) {
  std::int64_t total = 0;
  for (const at::Tensor& tensor : list) total += tensor.numel();
  return total;
}

}  // namespace

Call::Call(ShoalBackend& backend, What what, const Tensors& profiled)
    : backend_(backend), what_(what) {
  auto timeout = what.timeout;
  if (timeout == c10d::kUnsetTimeout) timeout = backend.options_->timeout;
  options_.timeout_ms = timeout.count();
  options_.deterministic = at::globalContext().deterministicAlgorithms();
  const std::uint64_t sequence = backend.next_sequence(what.op);
  if (backend.coalescing_ != nullptr) {
    work_ = backend.coalescing_;
  } else {
    work_ = c10::make_intrusive<BackendWork>(backend.getRank(), what.op, what.title, profiled,
                                             sequence);
  }
  record(sequence, profiled);
}

void Call::record(std::uint64_t sequence, const Tensors& tensors) {
  Recorder::Entry entry;
  entry.group = backend_.communicator_id_;
  entry.sequence = sequence;
  entry.operation = what_.title;
  entry.timeout_ms = options_.timeout_ms;
  if (!tensors.empty()) {
    entry.elements = elements_in(tensors);
    entry.dtype = c10::toString(tensors[0].scalar_type());
  }
  const std::uint64_t number = backend_.recorder_->begin(entry);
  // Of a coalescing block, the first: it ends when the block does.
  if (!work_->is_recorded()) work_->record_in(backend_.recorder_, number);
}

void Call::require_dense(const at::Tensor& tensor) const {
  TORCH_CHECK(tensor.layout() == at::kStrided, name(), ": needs dense tensors, got ",
              tensor.layout(), "; sparse tensors have all_reduce only");
}

void Call::count_copy(const at::Tensor& tensor) {
  backend_.copies_.tensors.fetch_add(1, std::memory_order_relaxed);
  backend_.copies_.bytes.fetch_add(static_cast<std::int64_t>(tensor.nbytes()),
                                   std::memory_order_relaxed);
}

at::Tensor Call::in(const at::Tensor& tensor) {
  require_dense(tensor);
  work_->hold(tensor);
  if (tensor.is_cpu() && tensor.is_contiguous()) return tensor;
  finish_queued(tensor);
  count_copy(tensor);
  const at::Tensor copy = tensor.to(at::kCPU).contiguous();
  work_->hold(copy);
  return copy;
}

at::Tensor Call::out(const at::Tensor& tensor) {
  require_dense(tensor);
  work_->hold(tensor);
  if (tensor.is_cpu() && tensor.is_contiguous()) return tensor;
  finish_queued(tensor);
  count_copy(tensor);
  const at::Tensor copy = at::empty(tensor.sizes(), tensor.options().device(at::kCPU));
  then([tensor, copy] { tensor.detach().copy_(copy); });
  return copy;
}

at::Tensor Call::in_out(const at::Tensor& tensor) {
  const at::Tensor copy = in(tensor);
  if (!copy.is_same(tensor)) then([tensor, copy] { tensor.detach().copy_(copy); });
  return copy;
}

void Call::hold(const Tensors& list) {
  for (const at::Tensor& tensor : list) {
    require_dense(tensor);
    work_->hold(tensor);
  }
}

at::Tensor Call::in(const Tensors& list) {
  hold(list);
  if (const at::Tensor whole = adjacent(list); whole.defined()) return whole;
  const at::Tensor flat = pool_empty(backend_.job_, {elements_in(list)}, list[0].scalar_type());
  work_->hold(flat);
  std::int64_t at = 0;
  for (const at::Tensor& tensor : list) {
    finish_queued(tensor);
    count_copy(tensor);
    flat.narrow(0, at, tensor.numel()).view(tensor.sizes()).copy_(tensor.detach());
    at += tensor.numel();
  }
  return flat;
}

at::Tensor Call::out(const Tensors& list) {
  hold(list);
  if (const at::Tensor whole = adjacent(list); whole.defined()) return whole;
  const at::Tensor flat = pool_empty(backend_.job_, {elements_in(list)}, list[0].scalar_type());
  for (const at::Tensor& tensor : list) {
    finish_queued(tensor);
    count_copy(tensor);
  }
  then([list, flat] {
    std::int64_t at = 0;
    for (const at::Tensor& tensor : list) {
      tensor.detach().copy_(flat.narrow(0, at, tensor.numel()).view(tensor.sizes()));
      at += tensor.numel();
    }
  });
  return flat;
}

void Call::exchange(const std::vector<Message>& messages) {
  for (shoal::Work& part : communicator().batch(messages, options_)) add(std::move(part));
}

c10::intrusive_ptr<c10d::Work> Call::launch(Tensors outputs) {
  // torch waits for what a blocking call returns; in a block that is for its end to do.
  if (backend_.coalescing_ != nullptr) return what_.async ? work_ : nullptr;
  work_->set_outputs(std::move(outputs));
  if (what_.async) {
    backend_.job_->progress.add(work_);
  } else {
    work_->wait();
  }
  return work_;
}

}  // namespace shoal::torch
