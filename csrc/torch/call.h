/// One call on a process group while it is being put together.
#pragma once

#include <c10/core/Stream.h>
#include <c10/core/StreamGuard.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "torch/backend.h"

namespace shoal::torch {

/// Makes of users' tensors what shoal can work on, starts the operation's parts, and hands out the
/// Work. One thread.
///
/// A contiguous tensor is taken as it is, also one of a list. Another layout goes through a
/// contiguous copy, and so does, on a stream, a list of tensors that do not lie one behind the
/// other. ShoalBackend::copies() counts what was copied so.
///
/// CUDA tensors make the call an operation of a stream: the current one if it blocks, which on a
/// stream is no more than order; else the group's own, which first waits for the current one, so
/// that computation goes on beside. Until the Call ends that stream is the current one, so copies
/// are the stream's too. Where the core has no such operation (takes_stream() says why), all
/// tensors that are not the host's go through host memory, and the host waits for their streams.
class Call {
 public:
  using Tensors = ShoalBackend::Tensors;

  struct What {
    c10d::OpType op;
    const char* title;  ///< "shoal:all_reduce": what profilers show
    std::chrono::milliseconds timeout = c10d::kUnsetTimeout;
    bool async = true;
    /// Why CUDA tensors have to go through host memory here; nullptr: they need not.
    const char* through_host = nullptr;
  };
  Call(ShoalBackend& backend, What what, const Tensors& profiled);

  [[nodiscard]] Communicator& communicator() { return backend_.communicator(); }
  [[nodiscard]] const CallOptions& options() const noexcept { return options_; }
  [[nodiscard]] const char* name() const noexcept { return what_.title + sizeof "shoal:" - 1; }

  /// To be read.
  at::Tensor in(const at::Tensor& tensor);
  /// To be written; what is there before is of no interest.
  at::Tensor out(const at::Tensor& tensor);
  at::Tensor in_out(const at::Tensor& tensor);
  /// The same of a list of equally many elements each, and what parts work on: blocks, which are
  /// the call's until its next list.
  ConstBlocks in(const Tensors& list);
  Blocks out(const Tensors& list);

  /// Of a call without tensors: it comes after what is on the device's current stream, and the host
  /// waits for it as it does for a call on the host.
  void come_after_stream(c10::Device device);

  /// What parts work on, of a tensor that in(), out() or in_out() has returned.
  [[nodiscard]] ConstBuffer input_of(const at::Tensor& tensor) const;
  [[nodiscard]] Buffer output_of(const at::Tensor& tensor) const;

  void add(shoal::Work part) { work_->add(std::move(part)); }
  void exchange(const std::vector<Message>& messages);
  /// Within this rank's memory, before what comes after the call.
  void copy(void* to, const void* from, std::int64_t bytes);

  /// The operation is on its way. Of a blocking call it is over, or enqueued on the current stream;
  /// then, and within a coalescing block, there is nothing to wait for: null.
  c10::intrusive_ptr<c10d::Work> launch(const Tensors& outputs = {});

 private:
  /// A call that is an operation of a stream.
  struct OnStream {
    explicit OnStream(c10::Stream where) : stream(where) {}
    c10::Stream stream;
    std::optional<c10::StreamGuard> guard;  ///< if it is not the current one anyway
    Tensors held;
    std::vector<std::function<void()>> after;  ///< what the stream does when the parts are over
    bool starts_with_block = false;            ///< its parts are messages of a block
  };

  void record(std::uint64_t sequence, const Tensors& tensors);
  void require_dense(const at::Tensor& tensor) const;
  bool takes_stream(const at::Tensor& tensor);
  void begin_on_stream(c10::Device device);
  /// Of a tensor whose memory begins at `data`: where the pool has it, if it does. For all parts of
  /// a storage the same, so that what lies in one another's place still does.
  [[nodiscard]] void* address_of(const at::Tensor& tensor, void* data) const;
  /// Memory that the operation uses.
  void hold(const at::Tensor& tensor);
  /// What is to be done when the parts are over.
  void then(std::function<void()> step);
  void count_copy(const at::Tensor& tensor);
  /// A contiguous one to copy to or from, where the operation is to have it.
  [[nodiscard]] at::Tensor room_for(const at::Tensor& tensor) const;
  bool lists_stream(const Tensors& list);
  void hold_copied(const Tensors& list);
  [[nodiscard]] static at::Tensor adjacent(const Tensors& list);
  c10::intrusive_ptr<c10d::Work> launch_on_stream(const Tensors& outputs);

  ShoalBackend& backend_;
  What what_;
  CallOptions options_;
  c10::intrusive_ptr<BackendWork> work_;
  std::unique_ptr<OnStream> on_stream_;  // null: of the host
  bool goes_through_host_ = false;
  std::vector<ConstBuffer> blocks_in_;
  std::vector<Buffer> blocks_out_;
};

}  // namespace shoal::torch
