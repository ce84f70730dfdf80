#include "torch/progress.h"

#include <torch/csrc/utils/pybind.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

namespace shoal::torch {

Progress::Progress(Communicator world) : world_(std::move(world)), pid_(::getpid()) {}

void Progress::stop() {
  if (pid_ != ::getpid()) {
    for (auto& thread : threads_) (void)thread.release();
    (void)changed_.release();
    return;
  }
  // The last reference to a process group is often dropped by Python, with the GIL held; the
  // threads may need it to drop a tensor.
  std::optional<pybind11::gil_scoped_release> released;
  if (Py_IsInitialized() != 0 && PyGILState_Check() != 0) released.emplace();
  std::vector<std::unique_ptr<std::thread>> threads;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    has_news_.store(true);
    threads = std::move(threads_);
  }
  changed_->notify_all();
  world_.wake();
  for (auto& thread : threads) {
    // A callback that drops the last group ends its own thread.
    if (thread->get_id() == std::this_thread::get_id()) {
      thread->detach();
    } else {
      thread->join();
    }
  }
}

void Progress::add(c10::intrusive_ptr<BackendWork> work) {
  if (work->parts_done()) return work->conclude();
  std::unique_lock lock(mutex_);
  added_.push_back(std::move(work));
  has_pending_ = true;
  has_news_.store(true);
  if (!has_leader_) return call_for_leader(lock);
  lock.unlock();
  world_.wake();
}

/// Somebody is to lead; a new thread, if all are busy with callbacks.
void Progress::call_for_leader(std::unique_lock<std::mutex>& lock) {
  if (idle_ == 0 && !stop_ && threads_.size() < kMostThreads) {
    threads_.push_back(std::make_unique<std::thread>([this] { run(); }));
    return;
  }
  lock.unlock();
  changed_->notify_one();
}

void Progress::run() {
  ::pthread_setname_np(::pthread_self(), "shoal-progress");
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (has_leader_ || !has_pending_) {
      ++idle_;
      changed_->wait(lock);
      --idle_;
      continue;
    }
    has_leader_ = true;
    lock.unlock();
    drive();
    const auto done = take_done();
    conclude(done.get());
    lock.lock();
  }
}

/// Until something is done, or there is news.
void Progress::drive() {
  {
    const std::lock_guard lock(mutex_);
    has_news_.store(false);
    std::ranges::move(added_, std::back_inserter(pending_));
    added_.clear();
    if (stop_) return;
  }
  world_.drive([this] {
    if (has_news_.load()) return true;
    return std::ranges::any_of(pending_, [](const auto& work) { return work->parts_done(); });
  });
}

/// One at a time: its callbacks may wait for another one that is done too.
c10::intrusive_ptr<BackendWork> Progress::take_done() {
  const auto found =
      std::ranges::find_if(pending_, [](const auto& work) { return work->parts_done(); });
  if (found == pending_.end()) return nullptr;
  auto work = std::move(*found);
  pending_.erase(found);
  return work;
}

/// The leader is one until it comes to callbacks, or to the end.
void Progress::conclude(BackendWork* done) {
  bool leads = true;
  if (done != nullptr) {
    done->conclude([&] {
      let_another_lead();
      leads = false;
    });
  }
  if (!leads) return;
  const std::lock_guard lock(mutex_);
  has_leader_ = false;
  has_pending_ = !pending_.empty() || !added_.empty();
}

void Progress::let_another_lead() {
  std::unique_lock lock(mutex_);
  has_leader_ = false;
  has_pending_ = !pending_.empty() || !added_.empty();
  if (has_pending_) call_for_leader(lock);
}

}  // namespace shoal::torch
