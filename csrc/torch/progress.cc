#include "torch/progress.h"

#include <torch/csrc/utils/pybind.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

namespace shoal::torch {

Progress::Progress(Communicator world) : world_(std::move(world)), pid_(::getpid()) {}

void Progress::stop() {
  if (thread_ == nullptr) return;
  // The last reference to a process group is often dropped by Python, with the GIL held; the thread
  // may need it to drop a tensor.
  std::optional<pybind11::gil_scoped_release> released;
  if (Py_IsInitialized() != 0 && PyGILState_Check() != 0) released.emplace();
  if (pid_ != ::getpid()) {
    (void)thread_.release();
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    has_news_.store(true);
  }
  changed_.notify_one();
  world_.wake();
  thread_->join();
  thread_.reset();
}

void Progress::add(c10::intrusive_ptr<BackendWork> work) {
  bool is_driving = false;
  {
    const std::lock_guard lock(mutex_);
    added_.push_back(std::move(work));
    has_news_.store(true);
    is_driving = is_driving_;
    if (thread_ == nullptr && !stop_) thread_ = std::make_unique<std::thread>([this] { run(); });
  }
  if (is_driving) {
    world_.wake();
  } else {
    changed_.notify_one();
  }
}

/// False: the thread is to end. Sleeps while there is nothing.
bool Progress::take_new() {
  std::unique_lock lock(mutex_);
  is_driving_ = false;
  changed_.wait(lock, [this] { return stop_ || !added_.empty() || !pending_.empty(); });
  is_driving_ = true;
  has_news_.store(false);
  std::ranges::move(added_, std::back_inserter(pending_));
  added_.clear();
  return !stop_;
}

void Progress::conclude_done() {
  for (auto& work : pending_) {
    if (!work->parts_done()) continue;
    work->conclude();
    work.reset();
  }
  std::erase(pending_, nullptr);
}

void Progress::run() {
  ::pthread_setname_np(::pthread_self(), "shoal-progress");
  while (take_new()) {
    world_.drive([this] {
      if (has_news_.load()) return true;
      return std::ranges::any_of(pending_, [](const auto& work) { return work->parts_done(); });
    });
    conclude_done();
  }
}

}  // namespace shoal::torch
