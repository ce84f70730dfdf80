#include "torch/backend.h"

#include <ATen/Functions.h>
#include <c10/core/StreamGuard.h>

#include <algorithm>
#include <array>
#include <utility>

#include "torch/call.h"
#include "torch/elements.h"
#include "torch/pool.h"
#include "torch/stream_work.h"

namespace shoal::torch {

using c10d::OpType;
using Tensors = ShoalBackend::Tensors;
using WorkPtr = ShoalBackend::WorkPtr;

namespace {

/// Why such calls take no stream. In a block (batch_isend_irecv) they do: see Coalesced.
constexpr const char* kOneByOne =
    "on a stream, messages that are no batch would wait for one another";

const at::Tensor& only(const char* call, const Tensors& tensors) {
  TORCH_CHECK(tensors.size() == 1, call, ": needs one tensor a rank, got ", tensors.size());
  return tensors[0];
}

const Tensors& one_each(const char* call, const Tensors& list, int size) {
  TORCH_CHECK(list.size() == static_cast<std::size_t>(size), call, ": the list has ", list.size(),
              " tensors, needs one for each of ", size, " ranks");
  return list;
}

const Tensors& only(const char* call, const std::vector<Tensors>& lists, int size) {
  TORCH_CHECK(lists.size() == 1, call, ": needs one list of tensors, got ", lists.size());
  return one_each(call, lists[0], size);
}

void require_same_type(const char* call, const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), call, ": input is ", a.scalar_type(),
              ", output is ", b.scalar_type(), "; they must be the same");
}

void require_same_type(const char* call, const Tensors& list, const at::Tensor& other) {
  for (const at::Tensor& tensor : list) require_same_type(call, tensor, other);
}

bool equally_long(const Tensors& list) {
  return std::ranges::all_of(list,
                             [&](const at::Tensor& t) { return t.numel() == list[0].numel(); });
}

/// One of `blocks` equal parts of a tensor's elements.
Count block_of(Elements elements, int blocks) { return {elements.count.value / blocks}; }

void require_multiple(const char* call, const char* larger_name, const at::Tensor& larger,
                      const at::Tensor& block, int size) {
  TORCH_CHECK(larger.numel() == block.numel() * size, call, ": ", larger_name, " has ",
              larger.numel(), " elements, needs ", block.numel() * size, " (", block.numel(),
              " for each of ", size, " ranks)");
}

bool overlap(const at::Tensor& a, const at::Tensor& b) {
  const auto* first = static_cast<const std::byte*>(a.const_data_ptr());
  const auto* second = static_cast<const std::byte*>(b.const_data_ptr());
  return first < second + b.nbytes() && second < first + a.nbytes();
}

/// An input as it is; a copy of it where `output` would overwrite it, other than in the place where
/// shoal has it in place: `is_place`. (all_to_all has no such place.)
at::Tensor apart(const at::Tensor& input, const at::Tensor& output, bool is_place) {
  const bool is_same = is_place && input.const_data_ptr() == output.const_data_ptr();
  return is_same || !overlap(input, output) ? input : input.clone();
}

at::Tensor apart(const at::Tensor& input, const Tensors& outputs, int place) {
  at::Tensor x = input;
  for (int k = 0; k < static_cast<int>(outputs.size()); ++k) x = apart(x, outputs[k], k == place);
  return x;
}

Tensors apart(const Tensors& inputs, const at::Tensor& output, int place) {
  Tensors list;
  for (int k = 0; k < static_cast<int>(inputs.size()); ++k) {
    list.push_back(apart(inputs[k], output, k == place));
  }
  return list;
}

}  // namespace

ShoalBackend::ShoalBackend(JoinedGroup group, c10::intrusive_ptr<Options> options,
                           std::string ucx_directory)
    : Backend(group.communicator.rank(), group.communicator.size()),
      job_(std::move(group.job)),
      communicator_(std::move(group.communicator)),
      communicator_id_(communicator_.id()),
      options_(std::move(options)),
      ucx_directory_(std::move(ucx_directory)),
      recorder_(job_->recorder) {
  init();
}

ShoalBackend::~ShoalBackend() = default;

Communicator& ShoalBackend::communicator() {
  TORCH_CHECK(!is_shut_down(), "shoal: this process group has been shut down");
  return communicator_;
}

void ShoalBackend::startCoalescing() {
  // A call that throws in a block is its end: torch does not say so.
  if (coalescing_ != nullptr) endCoalescing();
  coalescing_ = c10::make_intrusive<BackendWork>(getRank(), OpType::COALESCED, "shoal:coalesced",
                                                 Tensors{}, next_sequence(OpType::COALESCED));
  coalescing_->set_open(true);
  coalesced_ = {};
}

WorkPtr ShoalBackend::endCoalescing() {
  TORCH_CHECK(coalescing_ != nullptr, "shoal: endCoalescing without startCoalescing");
  const auto work = std::exchange(coalescing_, nullptr);
  Coalesced block = std::exchange(coalesced_, {});
  return guarded([&]() -> WorkPtr {
    start_coalesced_messages(block, *work);
    work->set_open(false);
    job_->progress.add(work);
    if (!block.stream) return work;
    return c10::make_intrusive<StreamWork>(StreamWork::What{
        .operation = work, .stream = *block.stream, .waits_on_host = block.has_host_parts});
  });
}

void ShoalBackend::start_coalesced_messages(Coalesced& block, BackendWork& work) {
  if (block.messages.empty()) return;
  const c10::StreamGuard on(*block.stream);
  for (shoal::Work& part : communicator().batch(block.messages, block.options)) {
    work.add(std::move(part));
  }
  for (const auto& step : block.after) step();
}

void ShoalBackend::tell_of_host(const char* call, const std::string& why) {
  std::call_once(told_of_host_, [&] {
    TORCH_WARN("shoal: ", call, ": CUDA tensors go through host memory: ", why,
               ". shoal.torch.statistics() counts them; this is said once a group.");
  });
}

// --- one tensor --------------------------------------------------------------------------------

WorkPtr ShoalBackend::broadcast(Tensors& tensors, const c10d::BroadcastOptions& opts) {
  return guarded([&] {
    Call call(*this, {OpType::BROADCAST, "shoal:broadcast", opts.timeout, opts.asyncOp}, tensors);
    const at::Tensor& user = only(call.name(), tensors);
    const at::Tensor x = getRank() == opts.rootRank ? call.in(user) : call.out(user);
    const Elements elements = moved(x);
    call.add(call.communicator().broadcast(call.input_of(x), call.output_of(x), elements.count,
                                           elements.dtype, static_cast<Rank>(opts.rootRank),
                                           call.options()));
    return call.launch(tensors);
  });
}

WorkPtr ShoalBackend::allreduce(Tensors& tensors, const c10d::AllreduceOptions& opts) {
  if (tensors.size() == 1 && tensors[0].is_sparse()) return allreduce_sparse(tensors, opts);
  only("all_reduce", tensors);
  return allreduce_each(tensors, opts);
}

WorkPtr ShoalBackend::allreduce_coalesced(Tensors& tensors,
                                          const c10d::AllreduceCoalescedOptions& opts) {
  return allreduce_each(tensors, opts);
}

WorkPtr ShoalBackend::allreduce_each(const Tensors& tensors, const c10d::AllreduceOptions& opts) {
  return guarded([&] {
    const bool is_one = tensors.size() == 1;
    Call call(*this,
              {is_one ? OpType::ALLREDUCE : OpType::ALLREDUCE_COALESCED, "shoal:all_reduce",
               opts.timeout, opts.asyncOp},
              tensors);
    for (const at::Tensor& user : tensors) {
      if (opts.reduceOp == c10d::ReduceOp::PREMUL_SUM) {
        user.detach().copy_(prescaled(user, opts.reduceOp));
      }
      const at::Tensor x = call.in_out(user);
      const Elements elements = reduced(call.name(), x);
      call.add(call.communicator().all_reduce(
          call.input_of(x), call.output_of(x), elements.count, elements.dtype,
          op_for(call.name(), opts.reduceOp, x.scalar_type()), call.options()));
    }
    return call.launch(tensors);
  });
}

WorkPtr ShoalBackend::reduce(Tensors& tensors, const c10d::ReduceOptions& opts) {
  return guarded([&] {
    Call call(*this, {OpType::REDUCE, "shoal:reduce", opts.timeout, opts.asyncOp}, tensors);
    const at::Tensor& user = only(call.name(), tensors);
    const bool is_root = getRank() == opts.rootRank;
    const at::Tensor y = is_root ? call.in_out(user) : call.in(user);
    const at::Tensor x = call.in(prescaled(y, opts.reduceOp));
    const Elements elements = reduced(call.name(), x);
    call.add(call.communicator().reduce(call.input_of(x), is_root ? call.output_of(y) : Buffer{},
                                        elements.count, elements.dtype,
                                        op_for(call.name(), opts.reduceOp, x.scalar_type()),
                                        static_cast<Rank>(opts.rootRank), call.options()));
    return call.launch(tensors);
  });
}

// --- gathering ---------------------------------------------------------------------------------

WorkPtr ShoalBackend::_allgather_base(at::Tensor& output, at::Tensor& input,
                                      const c10d::AllgatherOptions& opts) {
  Tensors outputs{output}, inputs{input};
  return allgather_into_tensor_coalesced(outputs, inputs, opts);
}

WorkPtr ShoalBackend::allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                      const c10d::AllgatherOptions& opts) {
  return guarded([&] {
    Call call(*this,
              {OpType::_ALLGATHER_BASE, "shoal:_all_gather_base", opts.timeout, opts.asyncOp},
              inputs);
    TORCH_CHECK(outputs.size() == inputs.size(), call.name(), ": ", inputs.size(),
                " inputs need as many outputs, got ", outputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      require_same_type(call.name(), inputs[i], outputs[i]);
      require_multiple(call.name(), "output", outputs[i], inputs[i], getSize());
      const at::Tensor x = call.in(inputs[i]), y = call.out(outputs[i]);
      const Elements elements = moved(x);
      call.add(call.communicator().all_gather(call.input_of(x), call.output_of(y), elements.count,
                                              elements.dtype, call.options()));
    }
    return call.launch(outputs);
  });
}

WorkPtr ShoalBackend::allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                const c10d::AllgatherOptions& opts) {
  only("all_gather", inputs);
  return allgather_lists(outputs, inputs, opts);
}

/// `by_rank`: one list for each rank, of the outputs of all inputs.
WorkPtr ShoalBackend::allgather_coalesced(std::vector<Tensors>& by_rank, Tensors& inputs,
                                          const c10d::AllgatherOptions& opts) {
  TORCH_CHECK(by_rank.size() == static_cast<std::size_t>(getSize()), "all_gather: ", by_rank.size(),
              " lists of outputs, needs one for each of ", getSize(), " ranks");
  std::vector<Tensors> by_input(inputs.size());
  for (const Tensors& list : by_rank) {
    TORCH_CHECK(list.size() == inputs.size(), "all_gather: ", inputs.size(),
                " inputs need as many outputs of each rank, got ", list.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) by_input[i].push_back(list[i]);
  }
  return allgather_lists(by_input, inputs, opts);
}

/// `outputs`: for each input, one tensor of each rank. All ranks know the lengths of all of them,
/// so they agree on whether they differ: then it is one broadcast a rank.
WorkPtr ShoalBackend::allgather_lists(const std::vector<Tensors>& outputs, const Tensors& inputs,
                                      const c10d::AllgatherOptions& opts) {
  return guarded([&] {
    Call call(*this, {OpType::ALLGATHER, "shoal:all_gather", opts.timeout, opts.asyncOp}, inputs);
    TORCH_CHECK(outputs.size() == inputs.size(), call.name(), ": ", inputs.size(),
                " inputs need as many lists of outputs, got ", outputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const Tensors& list = one_each(call.name(), outputs[i], getSize());
      require_same_type(call.name(), list, inputs[i]);
      TORCH_CHECK(list[getRank()].numel() == inputs[i].numel(), call.name(), ": the input has ",
                  inputs[i].numel(), " elements, its place among the outputs ",
                  list[getRank()].numel());
      const at::Tensor x = call.in(apart(inputs[i], list, getRank()));
      if (equally_long(list)) {
        const Elements elements = moved(x);
        call.add(call.communicator().all_gather(call.input_of(x), call.out(list), elements.count,
                                                elements.dtype, call.options()));
        continue;
      }
      for (Rank root = 0; root < getSize(); ++root) {
        const at::Tensor y = call.out(list[root]);
        const Elements elements = moved(y);
        call.add(call.communicator().broadcast(root == getRank() ? call.input_of(x) : ConstBuffer{},
                                               call.output_of(y), elements.count, elements.dtype,
                                               root, call.options()));
      }
    }
    Tensors all;
    for (const Tensors& list : outputs) all.insert(all.end(), list.begin(), list.end());
    return call.launch(all);
  });
}

WorkPtr ShoalBackend::gather(std::vector<Tensors>& outputs, Tensors& inputs,
                             const c10d::GatherOptions& opts) {
  return guarded([&] {
    Call call(*this, {OpType::GATHER, "shoal:gather", opts.timeout, opts.asyncOp}, inputs);
    const at::Tensor& input = only(call.name(), inputs);
    const bool is_root = getRank() == opts.rootRank;
    TORCH_CHECK(is_root || outputs.empty() || outputs[0].empty(), call.name(),
                ": outputs are for the root only");
    const Tensors list = is_root ? only(call.name(), outputs, getSize()) : Tensors{};
    require_same_type(call.name(), list, input);
    for (const at::Tensor& tensor : list) {
      TORCH_CHECK(tensor.numel() == input.numel(), call.name(), ": outputs must have the ",
                  input.numel(), " elements of the input; one has ", tensor.numel());
    }
    const at::Tensor x = call.in(apart(input, list, getRank()));
    const Elements elements = moved(x);
    call.add(call.communicator().gather(call.input_of(x), is_root ? call.out(list) : Blocks{},
                                        elements.count, elements.dtype,
                                        static_cast<Rank>(opts.rootRank), call.options()));
    return call.launch(is_root ? outputs[0] : Tensors{});
  });
}

WorkPtr ShoalBackend::scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                              const c10d::ScatterOptions& opts) {
  return guarded([&] {
    Call call(*this, {OpType::SCATTER, "shoal:scatter", opts.timeout, opts.asyncOp}, outputs);
    const at::Tensor y = call.out(only(call.name(), outputs));
    const bool is_root = getRank() == opts.rootRank;
    TORCH_CHECK(is_root || inputs.empty() || inputs[0].empty(), call.name(),
                ": inputs are for the root only");
    const Tensors list = is_root ? only(call.name(), inputs, getSize()) : Tensors{};
    require_same_type(call.name(), list, y);
    for (const at::Tensor& tensor : list) {
      TORCH_CHECK(tensor.numel() == y.numel(), call.name(), ": inputs must have the ", y.numel(),
                  " elements of the output; one has ", tensor.numel());
    }
    const Elements elements = moved(y);
    const Tensors from = apart(list, y, getRank());
    call.add(call.communicator().scatter(is_root ? call.in(from) : ConstBlocks{}, call.output_of(y),
                                         elements.count, elements.dtype,
                                         static_cast<Rank>(opts.rootRank), call.options()));
    return call.launch(outputs);
  });
}

// --- reduce_scatter ----------------------------------------------------------------------------

WorkPtr ShoalBackend::_reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                           const c10d::ReduceScatterOptions& opts) {
  Tensors outputs{output}, inputs{input};
  return reduce_scatter_tensor_coalesced(outputs, inputs, opts);
}

WorkPtr ShoalBackend::reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                      const c10d::ReduceScatterOptions& opts) {
  return guarded([&] {
    Call call(
        *this,
        {OpType::_REDUCE_SCATTER_BASE, "shoal:_reduce_scatter_base", opts.timeout, opts.asyncOp},
        inputs);
    TORCH_CHECK(outputs.size() == inputs.size(), call.name(), ": ", inputs.size(),
                " inputs need as many outputs, got ", outputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      require_same_type(call.name(), inputs[i], outputs[i]);
      require_multiple(call.name(), "input", inputs[i], outputs[i], getSize());
      const at::Tensor x = call.in(prescaled(inputs[i], opts.reduceOp)), y = call.out(outputs[i]);
      const Elements elements = reduced(call.name(), y);
      call.add(call.communicator().reduce_scatter(
          call.input_of(x), call.output_of(y), elements.count, elements.dtype,
          op_for(call.name(), opts.reduceOp, y.scalar_type()), call.options()));
    }
    return call.launch(outputs);
  });
}

/// All ranks know the lengths of all parts, as in allgather_coalesced().
WorkPtr ShoalBackend::reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                     const c10d::ReduceScatterOptions& opts) {
  return guarded([&] {
    Call call(*this, {OpType::REDUCE_SCATTER, "shoal:reduce_scatter", opts.timeout, opts.asyncOp},
              inputs.empty() ? Tensors{} : inputs[0]);
    const Tensors& list = only(call.name(), inputs, getSize());
    const at::Tensor& output = only(call.name(), outputs);
    require_same_type(call.name(), list, output);
    TORCH_CHECK(list[getRank()].numel() == output.numel(), call.name(), ": the output has ",
                output.numel(), " elements, its part of the input ", list[getRank()].numel());
    const at::Tensor y = call.out(output);
    const ReduceOp op = op_for(call.name(), opts.reduceOp, y.scalar_type());
    if (equally_long(list)) {
      Tensors from = apart(list, y, getRank());
      for (at::Tensor& tensor : from) tensor = prescaled(tensor, opts.reduceOp);
      const Elements elements = reduced(call.name(), y);
      call.add(call.communicator().reduce_scatter(call.in(from), call.output_of(y), elements.count,
                                                  elements.dtype, op, call.options()));
      return call.launch(outputs);
    }
    for (Rank root = 0; root < getSize(); ++root) {
      const at::Tensor x = call.in(prescaled(list[root], opts.reduceOp));
      const Elements elements = reduced(call.name(), x);
      call.add(call.communicator().reduce(
          call.input_of(x), root == getRank() ? call.output_of(y) : Buffer{}, elements.count,
          elements.dtype, op, root, call.options()));
    }
    return call.launch(outputs);
  });
}

// --- all_to_all --------------------------------------------------------------------------------

namespace {

/// Parts of this rank's tensors, by peer.
using Parts = std::vector<std::pair<void*, std::int64_t>>;  // address, bytes

/// By messages: lengths may differ between any two ranks, and nobody knows those of the others.
void exchange_parts(Call& call, Rank rank, const Parts& inputs, const Parts& outputs,
                    DataType dtype, std::int64_t tag) {
  const auto size = static_cast<Rank>(inputs.size());
  TORCH_CHECK(inputs[rank].second == outputs[rank].second, call.name(), ": this rank sends itself ",
              inputs[rank].second, " bytes and expects ", outputs[rank].second);
  if (inputs[rank].second > 0) {
    call.copy(outputs[rank].first, inputs[rank].first, inputs[rank].second);
  }
  std::vector<Message> messages;
  for (Rank step = 1; step < size; ++step) {
    const Rank to = (rank + step) % size, from = (rank - step + size) % size;
    Message send, receive;
    send.peer = to;
    send.source = {inputs[to].first, {inputs[to].second}};
    receive.sends = false;
    receive.peer = from;
    receive.target = {outputs[from].first, {outputs[from].second}};
    send.tag = receive.tag = tag;
    send.dtype = receive.dtype = dtype;
    if (receive.target.bytes.value > 0) messages.push_back(receive);
    if (send.source.bytes.value > 0) messages.push_back(send);
  }
  call.exchange(messages);
}

/// Rows of a tensor, which lie at `data`, cut by their numbers (equally, if there are none).
Parts cut(const char* call, const at::Tensor& tensor, void* data,
          const std::vector<std::int64_t>& splits, int size) {
  const std::int64_t rows = tensor.dim() == 0 ? 1 : tensor.size(0);
  TORCH_CHECK(splits.empty() ? rows % size == 0 : splits.size() == static_cast<std::size_t>(size),
              call, ": ", rows, " rows cannot be cut into parts for ", size, " ranks by ",
              splits.size(), " split sizes");
  const auto bytes = static_cast<std::int64_t>(tensor.nbytes());
  const std::int64_t row_bytes = rows == 0 ? 0 : bytes / rows;
  auto* at = static_cast<std::byte*>(data);
  Parts parts;
  std::int64_t used = 0;
  for (int i = 0; i < size; ++i) {
    const std::int64_t count = splits.empty() ? rows / size : splits[i];
    TORCH_CHECK(count >= 0, call, ": split size ", count, " is negative");
    parts.emplace_back(at, count * row_bytes);
    at += count * row_bytes;
    used += count;
  }
  TORCH_CHECK(used == rows, call, ": split sizes add up to ", used, ", the tensor has ", rows,
              " rows");
  return parts;
}

Parts inputs_of(const Call& call, const Tensors& tensors) {
  Parts parts;
  for (const at::Tensor& tensor : tensors) {
    const ConstBuffer part = call.input_of(tensor);
    parts.emplace_back(const_cast<void*>(part.data), part.bytes.value);
  }
  return parts;
}

Parts outputs_of(const Call& call, const Tensors& tensors) {
  Parts parts;
  for (const at::Tensor& tensor : tensors) {
    const Buffer part = call.output_of(tensor);
    parts.emplace_back(part.data, part.bytes.value);
  }
  return parts;
}

}  // namespace

WorkPtr ShoalBackend::alltoall_base(at::Tensor& output, at::Tensor& input,
                                    std::vector<std::int64_t>& output_splits,
                                    std::vector<std::int64_t>& input_splits,
                                    const c10d::AllToAllOptions& opts) {
  return guarded([&] {
    Call call(*this, {OpType::ALLTOALL_BASE, "shoal:all_to_all", opts.timeout, opts.asyncOp},
              {input});
    require_same_type(call.name(), input, output);
    const at::Tensor x = call.in(apart(input, output, false)), y = call.out(output);
    const Parts inputs =
        cut(call.name(), x, const_cast<void*>(call.input_of(x).data), input_splits, getSize());
    const Parts outputs = cut(call.name(), y, call.output_of(y).data, output_splits, getSize());
    const Elements elements = moved(x);
    if (!input_splits.empty() || !output_splits.empty()) {
      exchange_parts(call, getRank(), inputs, outputs, elements.dtype, next_exchange_tag());
    } else {
      TORCH_CHECK(x.numel() == y.numel(), call.name(), ": input has ", x.numel(),
                  " elements, output ", y.numel());
      call.add(call.communicator().all_to_all(call.input_of(x), call.output_of(y),
                                              block_of(elements, getSize()), elements.dtype,
                                              call.options()));
    }
    return call.launch({output});
  });
}

WorkPtr ShoalBackend::alltoall(Tensors& outputs, Tensors& inputs,
                               const c10d::AllToAllOptions& opts) {
  return guarded([&] {
    Call call(*this, {OpType::ALLTOALL, "shoal:all_to_all", opts.timeout, opts.asyncOp}, inputs);
    const auto size = static_cast<std::size_t>(getSize());
    TORCH_CHECK(inputs.size() == size && outputs.size() == size, call.name(), ": needs ", size,
                " tensors in both lists, one for each rank; got ", inputs.size(), " and ",
                outputs.size());
    Tensors from, to;
    for (std::size_t i = 0; i < size; ++i) {
      require_same_type(call.name(), inputs[i], outputs[i]);
      from.push_back(call.in(inputs[i]));
      to.push_back(call.out(outputs[i]));
    }
    exchange_parts(call, getRank(), inputs_of(call, from), outputs_of(call, to),
                   moved(from[0]).dtype, next_exchange_tag());
    return call.launch(outputs);
  });
}

// --- point to point ----------------------------------------------------------------------------

WorkPtr ShoalBackend::message(Tensors& tensors, int peer, int tag, OpType op) {
  return guarded([&] {
    const bool sends = op == OpType::SEND;
    const char* title = sends                ? "shoal:send"
                        : peer == kAnySource ? "shoal:recvAnySource"
                                             : "shoal:recv";
    Call call(*this, {op, title, c10d::kUnsetTimeout, true, coalescing_ ? nullptr : kOneByOne},
              tensors);
    TORCH_CHECK(tag >= 0 && tag < kTags, call.name(), ": tag ", tag, " is not in [0, ", kTags, ")");
    const at::Tensor& user = only(call.name(), tensors);
    const at::Tensor x = sends ? call.in(user) : call.out(user);
    Message message;
    message.peer = peer;
    message.tag = tag;
    message.sends = sends;
    message.dtype = moved(x).dtype;
    if (sends) {
      message.source = call.input_of(x);
    } else {
      message.target = call.output_of(x);
    }
    call.exchange({message});
    return call.launch(tensors);
  });
}

WorkPtr ShoalBackend::send(Tensors& tensors, int to, int tag) {
  return message(tensors, to, tag, OpType::SEND);
}
WorkPtr ShoalBackend::recv(Tensors& tensors, int from, int tag) {
  return message(tensors, from, tag, OpType::RECV);
}
WorkPtr ShoalBackend::recvAnysource(Tensors& tensors, int tag) {
  return message(tensors, kAnySource, tag, OpType::RECVANYSOURCE);
}

// --- barriers ----------------------------------------------------------------------------------

WorkPtr ShoalBackend::barrier(const c10d::BarrierOptions& opts) {
  return guarded([&] {
    Call call(*this, {OpType::BARRIER, "shoal:barrier", opts.timeout, opts.asyncOp}, {});
    // torch does not say which device it is for: that of the group's tensors, as under NCCL.
    if (const auto device = streams_.device()) call.come_after_stream(*device);
    call.add(call.communicator().barrier(call.options()));
    return call.launch();
  });
}

namespace {

std::string listed(const std::vector<int>& ranks) {
  std::string text;
  for (const int rank : ranks) text += (text.empty() ? "" : ", ") + std::to_string(rank);
  return text;
}

/// One byte, to or from somebody.
Message signal(bool sends, Rank peer, std::int64_t tag, std::uint8_t& byte) {
  Message message;
  message.peer = peer;
  message.tag = tag;
  message.sends = sends;
  message.source = {&byte, {1}};
  message.target = {&byte, {1}};
  return message;
}

}  // namespace

void ShoalBackend::monitoredBarrier(const c10d::BarrierOptions& opts, bool wait_all_ranks) {
  translated([&] {
    const auto timeout = opts.timeout == c10d::kUnsetTimeout ? options_->timeout : opts.timeout;
    const std::int64_t here_tag = next_exchange_tag(), leave_tag = next_exchange_tag();
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    const auto left_ms = [&] {
      const auto left = deadline - std::chrono::steady_clock::now();
      return std::max<std::int64_t>(
          0, std::chrono::duration_cast<std::chrono::milliseconds>(left).count());
    };
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(getSize()));
    Communicator& comm = communicator();
    if (getRank() != 0) {
      const std::array<Message, 2> messages{signal(true, 0, here_tag, bytes[0]),
                                            signal(false, 0, leave_tag, bytes[1])};
      std::vector<shoal::Work> works = comm.batch(messages);
      const bool let_go = works[1].wait_for(left_ms()) && works[1].code() == ErrorCode::kOk;
      if (let_go) return;
      const std::string why = works[1].done() ? works[1].message() : "it has not answered in time";
      if (!works[1].done()) comm.abort("monitored_barrier: rank 0 has not answered");
      TORCH_CHECK(false, "Rank ", getRank(),
                  " successfully reached monitoredBarrier, but received errors while waiting for "
                  "send/recv from rank 0. Please check rank 0 logs for faulty rank. (",
                  why, ")");
    }
    TORCH_CHECK(timeout.count() > 0, "Rank 0 timed out in monitoredBarrier after ", timeout.count(),
                " ms; give the others time to come");
    std::vector<Message> receives, sends;
    for (Rank rank = 1; rank < getSize(); ++rank) {
      receives.push_back(signal(false, rank, here_tag, bytes[rank]));
      sends.push_back(signal(true, rank, leave_tag, bytes[0]));
    }
    std::vector<shoal::Work> works = comm.batch(receives);
    std::vector<int> late;
    for (Rank rank = 1; rank < getSize(); ++rank) {
      if (!late.empty() && !wait_all_ranks) break;
      shoal::Work& work = works[rank - 1];
      if (!work.wait_for(left_ms()) || work.code() != ErrorCode::kOk) late.push_back(rank);
    }
    if (late.empty()) {
      for (shoal::Work& work : comm.batch(sends)) work.wait();
      return;
    }
    const std::string text = (late.size() == 1 ? "Rank " : "Ranks ") + listed(late) +
                             " failed to pass monitoredBarrier in " +
                             std::to_string(timeout.count()) + " ms";
    comm.abort("monitored_barrier: " + text);
    TORCH_CHECK(false, "[Rank 0]: ", text);
  });
}

// --- sparse ------------------------------------------------------------------------------------

/// Everybody gets all indices and values, and adds them up. Blocking, whatever asyncOp says: how
/// much there is to gather is known after a first exchange only.
WorkPtr ShoalBackend::allreduce_sparse(Tensors& tensors, const c10d::AllreduceOptions& opts) {
  const at::NoGradGuard no_grad;
  at::Tensor user = only("all_reduce", tensors);
  TORCH_CHECK(opts.reduceOp == c10d::ReduceOp::SUM, "all_reduce: sparse tensors have sums only");
  const at::Tensor mine = user.coalesce().cpu();
  const at::Tensor counts = at::empty({getSize()}, at::kLong);
  c10d::AllgatherOptions now;
  now.timeout = opts.timeout;
  now.asyncOp = false;
  at::Tensor count = at::scalar_tensor(mine._nnz(), at::kLong), all_counts = counts;
  _allgather_base(all_counts, count, now);
  // Rows of equal number, so that one exchange of each will do.
  const std::int64_t most = counts.max().item<std::int64_t>();
  const auto gathered = [&](const at::Tensor& rows) {
    auto sizes = rows.sizes().vec();
    sizes[0] = most;
    at::Tensor padded = at::zeros(sizes, rows.options());
    padded.narrow(0, 0, rows.size(0)).copy_(rows);
    sizes[0] = most * getSize();
    at::Tensor all = at::empty(sizes, rows.options());
    _allgather_base(all, padded, now);
    Tensors parts;
    for (int rank = 0; rank < getSize(); ++rank) {
      parts.push_back(all.narrow(0, rank * most, counts[rank].item<std::int64_t>()));
    }
    return at::cat(parts);
  };
  const at::Tensor indices = gathered(mine.indices().t().contiguous()).t();
  const at::Tensor values = gathered(mine.values().contiguous());
  const at::Tensor sum = at::sparse_coo_tensor(indices, values, mine.sizes()).coalesce();
  user.copy_(sum);
  auto work = c10::make_intrusive<BackendWork>(getRank(), OpType::_ALLREDUCE_SPARSE,
                                               "shoal:all_reduce_sparse", tensors,
                                               next_sequence(OpType::_ALLREDUCE_SPARSE));
  work->set_outputs(tensors);
  work->conclude();
  return work;
}

// --- groups, and the end -----------------------------------------------------------------------

c10::intrusive_ptr<ShoalBackend> ShoalBackend::make_subgroup(
    const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks, int rank,
    const c10::intrusive_ptr<Options>& opts) {
  return translated([&] {
    const GroupRequest request{store, rank, static_cast<int>(ranks.size()), opts->timeout,
                               "group " + opts->group_name};
    JoinedGroup group = join_subgroup(job_, communicator(), {ranks.begin(), ranks.end()}, request);
    return c10::make_intrusive<ShoalBackend>(std::move(group), opts, ucx_directory_);
  });
}

c10::intrusive_ptr<c10d::Backend> ShoalBackend::split(const c10::intrusive_ptr<c10d::Store>& store,
                                                      const std::vector<int>& ranks,
                                                      const c10::intrusive_ptr<Options>& opts) {
  const auto found = std::ranges::find(ranks, getRank());
  if (found == ranks.end()) return nullptr;
  const auto rank = static_cast<int>(found - ranks.begin());
  auto options =
      c10::make_intrusive<Options>(kBackendName, opts ? opts->timeout : options_->timeout);
  if (opts) {
    options->group_name = opts->group_name;
    options->group_desc = opts->group_desc;
    options->global_ranks_in_group = opts->global_ranks_in_group;
  }
  return make_subgroup(store, ranks, rank, options);
}

void ShoalBackend::abort() {
  if (!is_shut_down()) communicator_.abort("the process group's abort() was called");
}

void ShoalBackend::shutdown() {
  if (is_shut_down()) return;
  const Communicator last = std::move(communicator_);
  job_.reset();
}

c10d::ErrorType ShoalBackend::getError() {
  if (is_shut_down()) return c10d::ErrorType::SUCCESS;
  switch (communicator_.error()) {
    case ErrorCode::kOk:
      return c10d::ErrorType::SUCCESS;
    case ErrorCode::kTimeout:
      return c10d::ErrorType::TIMEOUT;
    case ErrorCode::kPeerFailed:
      return c10d::ErrorType::REMOTE_ERROR;
    default:
      return c10d::ErrorType::COMM_ERROR;
  }
}

bool ShoalBackend::supportsTensorAlloc(c10::DeviceIndex /*device*/) { return true; }

at::Tensor ShoalBackend::allocateTensor(long size, at::TensorOptions options) {
  const at::ScalarType type = c10::typeMetaToScalarType(options.dtype());
  if (options.device().is_cpu()) return pool_empty(job_, {size}, type);
  return translated([&] {
    const c10::Device device = current_stream(options.device()).device();
    const std::string why = streams_.why_through_host(communicator(), device);
    TORCH_CHECK(why.empty(), "allocate_tensor: no pool memory on ", device, ": ", why);
    return cuda_pool_empty(job_, {size}, type, device);
  });
}

c10::intrusive_ptr<ShoalBackend> make_backend(
    const GroupRequest& request, const c10::intrusive_ptr<c10d::Backend::Options>& opts,
    const std::string& ucx_directory) {
  install_allocator();
  return translated([&] {
    return c10::make_intrusive<ShoalBackend>(join_group(request, ucx_directory), opts,
                                             ucx_directory);
  });
}

}  // namespace shoal::torch
