#include "torch/call.h"

#include <ATen/Context.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "torch/large_blocks.h"
#include "torch/stream_work.h"

namespace shoal::torch {

namespace {

std::int64_t elements_in(const Call::Tensors& list) {
  std::int64_t total = 0;
  for (const at::Tensor& tensor : list) total += tensor.numel();
  return total;
}

/// torch's Python waits for what it gets, which takes 1 us, and not for nothing: NCCL does the
/// same. But it keeps what it gets in this mode, and does not look whether it is nothing.
c10::intrusive_ptr<c10d::Work> of_blocking_call(const c10::intrusive_ptr<BackendWork>& work) {
  if (c10d::allow_inflight_collective_as_graph_input()) return work;
  return nullptr;
}

Call::Tensors flattened(const Call::Tensors& list) {
  Call::Tensors flat;
  for (const at::Tensor& tensor : list) flat.push_back(tensor.detach().reshape({-1}));
  return flat;
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

// --- streams -----------------------------------------------------------------------------------

/// Of a tensor that is not the host's. The first one decides for the call.
bool Call::takes_stream(const at::Tensor& tensor) {
  if (goes_through_host_) return false;
  if (on_stream_ == nullptr) {
    const std::string why = what_.through_host != nullptr ? what_.through_host
                                                          : backend_.streams_.why_through_host(
                                                                communicator(), tensor.device());
    if (!why.empty()) {
      goes_through_host_ = true;
      backend_.tell_of_host(name(), why);
      return false;
    }
    begin_on_stream(tensor.device());
  }
  TORCH_CHECK(tensor.device() == on_stream_->stream.device(), name(), ": tensors on ",
              on_stream_->stream.device(), " and on ", tensor.device(), "; they must be on one");
  return true;
}

void Call::begin_on_stream(c10::Device device) {
  const c10::Stream current = current_stream(device);
  const bool is_beside = what_.async || backend_.coalescing_ != nullptr;
  on_stream_ = std::make_unique<OnStream>(is_beside ? backend_.streams_.side(device) : current);
  order_after(current, on_stream_->stream);
  if (on_stream_->stream != current) on_stream_->guard.emplace(on_stream_->stream);
  options_.on_stream = true;
  options_.stream = handle_of(on_stream_->stream);
}

void Call::come_after_stream(c10::Device device) {
  const c10::Stream current = current_stream(device);
  if (backend_.streams_.why_through_host(communicator(), device).empty()) {
    options_.on_stream = true;
    options_.stream = handle_of(current);
  } else {
    current.synchronize();
  }
}

void Call::hold(const at::Tensor& tensor) {
  if (on_stream_ != nullptr) {
    on_stream_->held.push_back(tensor);
  } else {
    work_->hold(tensor, backend_.job_);
  }
}

void Call::then(std::function<void()> step) {
  if (on_stream_ != nullptr) {
    on_stream_->after.push_back(std::move(step));
  } else {
    work_->then(std::move(step));
  }
}

// --- tensors -----------------------------------------------------------------------------------

/// If it is the host that copies, it waits for what is queued on the tensor's device.
void Call::count_copy(const at::Tensor& tensor) {
  Copies& copies = backend_.copies_;
  copies.tensors.fetch_add(1, std::memory_order_relaxed);
  copies.bytes.fetch_add(static_cast<std::int64_t>(tensor.nbytes()), std::memory_order_relaxed);
  if (tensor.is_cpu() || on_stream_ != nullptr) return;
  copies.through_host.fetch_add(1, std::memory_order_relaxed);
  current_stream(tensor.device()).synchronize();
}

at::Tensor Call::room_for(const at::Tensor& tensor) const {
  const c10::Device device = on_stream_ != nullptr ? tensor.device() : c10::Device(at::kCPU);
  return at::empty(tensor.sizes(), tensor.options().device(device));
}

at::Tensor Call::in(const at::Tensor& tensor) {
  require_dense(tensor);
  const bool is_taken = tensor.is_cpu() || takes_stream(tensor);
  hold(tensor);
  if (is_taken && tensor.is_contiguous()) return tensor;
  count_copy(tensor);
  const at::Tensor copy = room_for(tensor);
  copy.copy_(tensor.detach());
  hold(copy);
  return copy;
}

at::Tensor Call::out(const at::Tensor& tensor) {
  require_dense(tensor);
  const bool is_taken = tensor.is_cpu() || takes_stream(tensor);
  hold(tensor);
  if (is_taken && tensor.is_contiguous()) return tensor;
  count_copy(tensor);
  const at::Tensor copy = room_for(tensor);
  hold(copy);
  then([tensor, copy] { tensor.detach().copy_(copy); });
  return copy;
}

at::Tensor Call::in_out(const at::Tensor& tensor) {
  const at::Tensor copy = in(tensor);
  if (!copy.is_same(tensor)) then([tensor, copy] { tensor.detach().copy_(copy); });
  return copy;
}

/// Of a list: its tensors are on a stream's device.
bool Call::lists_stream(const Tensors& list) {
  for (const at::Tensor& tensor : list) {
    require_dense(tensor);
    if (!tensor.is_cpu()) (void)takes_stream(tensor);
  }
  return on_stream_ != nullptr;
}

/// The tensors of the list as one, if they lie one behind the other in one storage.
at::Tensor Call::adjacent(const Tensors& list) {
  std::int64_t total = 0;
  for (const at::Tensor& tensor : list) {
    const bool follows = tensor.is_contiguous() && tensor.dtype() == list[0].dtype() &&
                         tensor.is_alias_of(list[0]) &&
                         tensor.storage_offset() == list[0].storage_offset() + total;
    if (!follows) return {};
    total += tensor.numel();
  }
  return list[0].as_strided({total}, {1});
}

void Call::hold_copied(const Tensors& list) {
  for (const at::Tensor& tensor : list) {
    hold(tensor);
    count_copy(tensor);
  }
}

ConstBlocks Call::in(const Tensors& list) {
  if (lists_stream(list)) {
    if (const at::Tensor whole = adjacent(list); whole.defined()) return input_of(in(whole));
    hold_copied(list);
    const at::Tensor flat = at::cat(flattened(list));
    hold(flat);
    return input_of(flat);
  }
  blocks_in_.clear();
  for (const at::Tensor& tensor : list) blocks_in_.push_back(input_of(in(tensor)));
  return ConstBlocks(blocks_in_);
}

Blocks Call::out(const Tensors& list) {
  if (lists_stream(list)) {
    if (const at::Tensor whole = adjacent(list); whole.defined()) return output_of(out(whole));
    hold_copied(list);
    const at::Tensor flat = at::empty({elements_in(list)}, list[0].options());
    hold(flat);
    then([list, flat] {
      std::int64_t begin = 0;
      for (const at::Tensor& tensor : list) {
        tensor.detach().copy_(flat.narrow(0, begin, tensor.numel()).view(tensor.sizes()));
        begin += tensor.numel();
      }
    });
    return output_of(flat);
  }
  blocks_out_.clear();
  for (const at::Tensor& tensor : list) blocks_out_.push_back(output_of(out(tensor)));
  return Blocks(blocks_out_);
}

// --- parts, and the end ------------------------------------------------------------------------

void* Call::address_of(const at::Tensor& tensor, void* data) const {
  if (on_stream_ != nullptr || tensor.storage().nbytes() < LargeBlocks::kSmallest) return data;
  void* const address = LargeBlocks::instance().pool_address(data);
  // It may be another job's pool.
  return backend_.communicator_.in_pool(address, {1}) ? address : data;
}

ConstBuffer Call::input_of(const at::Tensor& tensor) const {
  return {address_of(tensor, const_cast<void*>(tensor.const_data_ptr())),
          {static_cast<std::int64_t>(tensor.nbytes())}};
}

Buffer Call::output_of(const at::Tensor& tensor) const {
  return {address_of(tensor, tensor.data_ptr()), {static_cast<std::int64_t>(tensor.nbytes())}};
}

void Call::exchange(const std::vector<Message>& messages) {
  if (on_stream_ != nullptr && backend_.coalescing_ != nullptr) {
    ShoalBackend::Coalesced& block = backend_.coalesced_;
    block.messages.insert(block.messages.end(), messages.begin(), messages.end());
    block.options = options_;
    on_stream_->starts_with_block = true;
    return;
  }
  for (shoal::Work& part : communicator().batch(messages, options_)) add(std::move(part));
}

void Call::copy(void* to, const void* from, std::int64_t bytes) {
  if (on_stream_ == nullptr) {
    std::memmove(to, from, static_cast<std::size_t>(bytes));
    return;
  }
  const c10::Device device = on_stream_->stream.device();
  const auto at_address = [&](void* data) {
    return at::for_blob(data, {bytes})
        .options(at::TensorOptions(at::kByte).device(device))
        .target_device(device)
        .make_tensor();
  };
  at_address(to).copy_(at_address(const_cast<void*>(from)));
}

c10::intrusive_ptr<c10d::Work> Call::launch(const Tensors& outputs) {
  if (on_stream_ != nullptr) return launch_on_stream(outputs);
  if (backend_.coalescing_ != nullptr) {
    backend_.coalesced_.has_host_parts = true;
    return what_.async ? work_ : nullptr;
  }
  if (!what_.async) {
    work_->wait();
    return of_blocking_call(work_);
  }
  work_->set_outputs(outputs);
  backend_.job_->progress.add(work_);
  return work_;
}

c10::intrusive_ptr<c10d::Work> Call::launch_on_stream(const Tensors& outputs) {
  OnStream& mine = *on_stream_;
  ShoalBackend::Coalesced& block = backend_.coalesced_;
  if (mine.starts_with_block) {
    std::ranges::move(mine.after, std::back_inserter(block.after));
  } else {
    for (const auto& step : mine.after) step();
  }
  if (backend_.coalescing_ != nullptr) {
    for (const at::Tensor& tensor : mine.held) work_->hold(tensor, backend_.job_);
    block.stream = mine.stream;
    return what_.async ? work_ : nullptr;
  }
  backend_.job_->progress.add(work_);
  if (!what_.async) {
    // It is the current stream: order is all there is to wait for, and memory that is freed is used
    // again by what comes after on it.
    if (work_->parts_done()) work_->wait();  // throws what is known by now
    return of_blocking_call(work_);
  }
  return c10::make_intrusive<StreamWork>(
      StreamWork::What{work_, mine.stream, std::move(mine.held), outputs});
}

}  // namespace shoal::torch
