/// One call on a process group while it is being put together.
#pragma once

#include <chrono>
#include <vector>

#include "torch/backend.h"

namespace shoal::torch {

/// Makes of users' tensors what shoal can work on, starts the operation's parts, and hands out the
/// Work. A contiguous CPU tensor is taken as it is. Another layout goes through a contiguous copy,
/// another device through the host; a list of tensors that do not lie one behind the other, through
/// a block of the pool. ShoalBackend::copies() counts what was copied so. One thread.
class Call {
 public:
  using Tensors = ShoalBackend::Tensors;

  struct What {
    c10d::OpType op;
    const char* title;  ///< "shoal:all_reduce": what profilers show
    std::chrono::milliseconds timeout = c10d::kUnsetTimeout;
    bool async = true;
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
  /// A list as one flat tensor.
  at::Tensor in(const Tensors& list);
  at::Tensor out(const Tensors& list);

  void add(shoal::Work part) { work_->add(std::move(part)); }
  void exchange(const std::vector<Message>& messages);
  void then(std::function<void()> step) { work_->then(std::move(step)); }

  /// The operation is on its way; of a blocking call, over.
  c10::intrusive_ptr<c10d::Work> launch(Tensors outputs = {});

 private:
  void record(std::uint64_t sequence, const Tensors& tensors);
  void hold(const Tensors& list);
  void require_dense(const at::Tensor& tensor) const;
  void count_copy(const at::Tensor& tensor);

  ShoalBackend& backend_;
  What what_;
  CallOptions options_;
  c10::intrusive_ptr<BackendWork> work_;
};

}  // namespace shoal::torch
