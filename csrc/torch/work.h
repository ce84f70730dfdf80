/// An operation as torch sees it: one or more of shoal's, and what is to be done after them.
#pragma once

#include <c10/util/SmallVector.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "shoal/communicator.h"
#include "torch/large_blocks.h"
#include "torch/recorder.h"

namespace shoal::torch {

/// Any thread. Who finds all of its parts done finishes it: outputs are put where the user wants
/// them, the error is kept, the future completed. That is once, by whoever waits or by the job's
/// progress thread, whichever comes first.
class BackendWork final : public c10d::Work {
 public:
  BackendWork(int rank, c10d::OpType op, const char* title, const std::vector<at::Tensor>& inputs,
              std::uint64_t sequence);

  /// Who is to be told of the end of operation `number`.
  void record_in(std::shared_ptr<Recorder> recorder, std::uint64_t number) {
    recorder_ = std::move(recorder);
    record_ = number;
  }

  [[nodiscard]] bool is_recorded() const noexcept { return recorder_ != nullptr; }

  // Before it is shared with other threads.

  void add(shoal::Work part) { parts_.push_back(std::move(part)); }
  /// Memory that the parts work on.
  void hold(const at::Tensor& tensor, const std::shared_ptr<Job>& job) {
    held_.push_back({tensor, MemoryUse(tensor, job)});
  }
  void set_outputs(std::vector<at::Tensor> outputs) { outputs_ = std::move(outputs); }
  /// Runs after the parts, if none has failed.
  void then(std::function<void()> step) { steps_.push_back(std::move(step)); }

  /// It is one of a coalescing block that is still open (or is not any more): more parts may come.
  void set_open(bool open) noexcept { open_ = open; }

  /// Gives nobody a turn.
  [[nodiscard]] bool parts_done() const noexcept;
  /// All parts are done. `before_callbacks` is called if there is a future, whose callbacks run
  /// next, in this thread.
  void conclude(const std::function<void()>& before_callbacks = {});

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  int sourceRank() const override;
  std::vector<at::Tensor> result() override;
  void synchronize() override { wait(kNoTimeout); }
  /// Drives the operation in the calling thread. Ctrl-C ends it, and the group with it.
  bool wait(std::chrono::milliseconds timeout = kNoTimeout) override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override;
  std::uint64_t getSequencenumber() const override { return sequence_; }

 private:
  void wait_for_parts(std::chrono::milliseconds timeout);
  [[nodiscard]] std::exception_ptr first_error() const;
  void complete_future(const c10::intrusive_ptr<c10::ivalue::Future>& future);
  void complete_result(const c10::intrusive_ptr<c10::ivalue::Future>& future);

  struct Held {
    at::Tensor tensor;
    MemoryUse use;
  };

  c10::SmallVector<shoal::Work, 1> parts_;
  c10::SmallVector<Held, 2> held_;
  std::vector<at::Tensor> outputs_;
  std::vector<std::function<void()>> steps_;
  std::uint64_t sequence_;
  std::shared_ptr<Recorder> recorder_;  // the job's; shared_ptr: a work may be held longer
  std::uint64_t record_ = 0;
  std::atomic<bool> concluding_{false};
  std::atomic<bool> open_{false};
  // Those that were asked for before the work was over: conclude() completes them. mutex_
  c10::intrusive_ptr<c10::ivalue::Future> future_;
  c10::intrusive_ptr<c10::ivalue::Future> result_future_;
};

/// Shoal's error as torch's users expect it: DistBackendError, or a RuntimeError for wrong calls. A
/// time-out makes the recorder write down what this process did before, and names the file.
std::exception_ptr to_torch(ErrorCode code, const std::string& message,
                            Recorder* recorder = nullptr);

/// Runs `call` and turns a shoal::Error that it throws into torch's.
template <class Call>
auto translated(Call&& call) {
  try {
    return call();
  } catch (const Error& error) {
    std::rethrow_exception(to_torch(error.code(), error.what()));
  }
}

}  // namespace shoal::torch
