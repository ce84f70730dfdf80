/// An operation on a stream as torch sees it: over for the host when it has been enqueued.
#pragma once

#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <vector>

#include "torch/work.h"

namespace shoal::torch {

/// As ProcessGroupNCCL's works are. wait() and synchronize() let the current stream come after the
/// operation and return at once; with a time-out wait() is for the host, too. The future is
/// complete from the start: whoever uses it has a stream that comes after the operation. Whether
/// that is over, and how it went, isCompleted(), exception() and getFutureResult() say.
///
/// Any thread. Errors that are known are thrown by wait(); later ones by the group's next call.
class StreamWork final : public c10d::Work {
 public:
  using Tensors = std::vector<at::Tensor>;

  struct What {
    c10::intrusive_ptr<BackendWork> operation;  ///< driven by the job's progress thread
    c10::Stream stream;                         ///< where all of it has been enqueued
    Tensors held{};                             ///< what is used there: kept until somebody waits
    Tensors outputs{};
    /// Some of it is no stream's: wait() is the host's, always.
    bool waits_on_host = false;
  };
  explicit StreamWork(What what);
  ~StreamWork() override;

  bool isCompleted() override { return what_.operation->isCompleted(); }
  bool isSuccess() const override { return what_.operation->isSuccess(); }
  std::exception_ptr exception() const override { return what_.operation->exception(); }
  int sourceRank() const override { return what_.operation->sourceRank(); }
  std::vector<at::Tensor> result() override { return what_.outputs; }
  void synchronize() override { wait(kNoTimeout); }
  bool wait(std::chrono::milliseconds timeout = kNoTimeout) override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override {
    return what_.operation->getFutureResult();
  }
  std::uint64_t getSequencenumber() const override { return what_.operation->getSequencenumber(); }

 private:
  void order_current_stream();

  What what_;                                       // held: mutex_
  c10::Event end_;                                  // of the operation, on its stream
  c10::intrusive_ptr<c10::ivalue::Future> future_;  // mutex_
};

}  // namespace shoal::torch
