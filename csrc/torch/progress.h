/// Completes asynchronous operations while nobody waits for them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "shoal/communicator.h"
#include "torch/work.h"

namespace shoal::torch {

/// One thread a job, asleep while nothing is pending. Any thread.
class Progress {
 public:
  explicit Progress(Communicator world);
  ~Progress() { stop(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void add(c10::intrusive_ptr<BackendWork> work);
  /// Ends the thread; what is pending is left to those who wait for it. Idempotent.
  void stop();

 private:
  void run();
  bool take_new();
  void conclude_done();

  Communicator world_;
  std::vector<c10::intrusive_ptr<BackendWork>> pending_;  // the thread's own
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<c10::intrusive_ptr<BackendWork>> added_;  // mutex_
  bool stop_ = false;                                   // mutex_
  std::atomic<bool> has_news_{false};                   ///< added_ or stop_ has changed
  bool is_driving_ = false;                             // mutex_
  int pid_;
  std::unique_ptr<std::thread> thread_;  // a forked child has the object but not the thread
};

}  // namespace shoal::torch
