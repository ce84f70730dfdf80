#include "torch/work.h"

#include <ATen/record_function.h>
#include <Python.h>
#include <torch/csrc/utils/pybind.h>

namespace shoal::torch {

namespace {

/// Looks for signals (Ctrl-C) every 50 ms of waiting. Called without the GIL; in a thread that
/// handles no signals it finds none.
class SignalCheck {
 public:
  void operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_ || Py_IsInitialized() == 0) return;
    next_ = now + kPause;
    const pybind11::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
  }

 private:
  static constexpr std::chrono::milliseconds kPause{50};
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + kPause;
};

}  // namespace

std::exception_ptr to_torch(ErrorCode code, const std::string& message, Recorder* recorder) {
  try {
    // "Timed out": what programs look for in the texts of other backends.
    std::string text = "shoal: " + std::string(name_of(code)) + ": " +
                       (code == ErrorCode::kTimeout ? "Timed out in " : "") + message;
    if (code == ErrorCode::kTimeout && recorder != nullptr) {
      const std::string file = recorder->dump(message);
      if (!file.empty()) text += "; this process's last operations: " + file;
    }
    if (code == ErrorCode::kInvalidArgument || code == ErrorCode::kBufferInUse) {
      TORCH_CHECK(false, text);
    }
    TORCH_CHECK_WITH(DistBackendError, false, text);
  } catch (...) {
    return std::current_exception();
  }
}

BackendWork::BackendWork(int rank, c10d::OpType op, const char* title,
                         const std::vector<at::Tensor>& inputs, std::uint64_t sequence)
    : Work(rank, op, at::hasCallbacks() ? title : nullptr,  // a profiler's; 150 ns without one
           at::hasCallbacks() ? std::optional(inputs) : std::nullopt),
      sequence_(sequence) {}

bool BackendWork::parts_done() const noexcept {
  for (const shoal::Work& part : parts_) {
    if (!part.done()) return false;
  }
  return true;
}

std::exception_ptr BackendWork::first_error() const {
  for (const shoal::Work& part : parts_) {
    if (part.code() == ErrorCode::kOk) continue;
    std::string message = part.message();
    // With split sizes it is messages, without a collective: neither side knows of the other.
    if (part.code() == ErrorCode::kTimeout && opType_ == c10d::OpType::ALLTOALL_BASE) {
      message += "; all ranks of an all_to_all_single have to give split sizes, or none";
    }
    return to_torch(part.code(), message, recorder_.get());
  }
  return nullptr;
}

void BackendWork::conclude(const std::function<void()>& before_callbacks) {
  if (concluding_.exchange(true)) {
    std::unique_lock lock(mutex_);
    cv_.wait(lock, [this] { return completed_; });
    return;
  }
  std::exception_ptr error = first_error();
  try {
    for (const auto& step : steps_) {
      if (error == nullptr) step();
    }
  } catch (...) {
    error = std::current_exception();
  }
  if (recorder_ != nullptr) recorder_->end(record_, error != nullptr);
  steps_.clear();
  held_.clear();  // ends the uses: before anybody is told
  finish(error);
  c10::intrusive_ptr<c10::ivalue::Future> future, result_future;
  {
    const std::lock_guard lock(mutex_);
    future = future_;
    result_future = result_future_;
  }
  if (before_callbacks && (future || result_future)) before_callbacks();
  if (future) complete_future(future);
  if (result_future) complete_result(result_future);
}

bool BackendWork::isCompleted() {
  {
    const std::lock_guard lock(mutex_);
    if (completed_) return true;
  }
  if (open_) return false;
  for (shoal::Work& part : parts_) {
    if (!part.test()) return false;
  }
  conclude();
  return true;
}

bool BackendWork::isSuccess() const {
  const std::lock_guard lock(mutex_);
  return completed_ && exception_ == nullptr;
}

std::exception_ptr BackendWork::exception() const {
  const std::lock_guard lock(mutex_);
  return exception_;
}

int BackendWork::sourceRank() const { return parts_.empty() ? -1 : parts_.front().peer(); }

std::vector<at::Tensor> BackendWork::result() { return outputs_; }

void BackendWork::wait_for_parts(std::chrono::milliseconds timeout) {
  if (parts_done()) return;
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (shoal::Work& part : parts_) {
    if (part.done()) continue;
    if (timeout == kNoTimeout) {
      try {
        part.wait(SignalCheck());
      } catch (const Error&) {  // conclude() looks at it
      }
      continue;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    const bool is_there = part.wait_for(std::max<std::int64_t>(left.count(), 0));
    TORCH_CHECK_WITH(DistBackendError, is_there, "Operation timed out! ",
                     c10d::opTypeToString(opType_), " #", sequence_, " was waited for ",
                     timeout.count(), " ms");
  }
}

bool BackendWork::wait(std::chrono::milliseconds timeout) {
  TORCH_CHECK(!open_, "shoal: wait() inside of a coalescing block; its operations end with it");
  if (!concluding_.load(std::memory_order_acquire)) {  // else conclude() knows when it is over
    wait_for_parts(timeout);
  }
  conclude();
  if (exception_ != nullptr) std::rethrow_exception(exception_);
  return true;
}

void BackendWork::complete_future(const c10::intrusive_ptr<c10::ivalue::Future>& future) {
  if (exception_ != nullptr) {
    future->setError(exception_);
  } else {
    future->markCompleted(at::IValue(outputs_));
  }
}

void BackendWork::complete_result(const c10::intrusive_ptr<c10::ivalue::Future>& future) {
  const auto result = exception_ ? c10d::WorkResult::COMM_ERROR : c10d::WorkResult::SUCCESS;
  future->markCompleted(static_cast<int>(result));
}

c10::intrusive_ptr<c10::ivalue::Future> BackendWork::getFuture() {
  std::unique_lock lock(mutex_);
  if (future_) return future_;
  auto future =
      c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
  if (!completed_) return future_ = future;
  lock.unlock();
  complete_future(future);
  return future;
}

c10::intrusive_ptr<c10::ivalue::Future> BackendWork::getFutureResult() {
  std::unique_lock lock(mutex_);
  if (result_future_) return result_future_;
  auto future = c10::make_intrusive<c10::ivalue::Future>(c10::IntType::get());
  if (!completed_) return result_future_ = future;
  lock.unlock();
  complete_result(future);
  return future;
}

}  // namespace shoal::torch
