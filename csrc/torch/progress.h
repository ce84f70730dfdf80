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

/// Threads of a job, asleep while nothing is pending. One of them leads: it drives what is pending.
/// Callbacks of futures run in these threads, and may wait for other futures: so before it runs
/// any, the leader lets another one lead. Any thread.
class Progress {
 public:
  explicit Progress(Communicator world);
  ~Progress() { stop(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Concludes it once it is done: at once, or later.
  void add(c10::intrusive_ptr<BackendWork> work);
  /// Ends the threads; what is pending is left to those who wait for it. Idempotent.
  void stop();

 private:
  using Works = std::vector<c10::intrusive_ptr<BackendWork>>;

  void run();
  void drive();
  c10::intrusive_ptr<BackendWork> take_done();
  void conclude(BackendWork* done);
  void let_another_lead();
  void call_for_leader(std::unique_lock<std::mutex>& lock);

  /// Callbacks that wait for one another's operations; more of them would wait for ever.
  static constexpr std::size_t kMostThreads = 32;

  Communicator world_;
  Works pending_;  // the leader's
  std::mutex mutex_;
  /// By pointer: a forked child must not destroy one that the parent's threads wait for.
  std::unique_ptr<std::condition_variable> changed_ = std::make_unique<std::condition_variable>();
  Works added_;                        // mutex_
  bool has_leader_ = false;            // mutex_
  bool has_pending_ = false;           // mutex_: pending_ or added_ is not empty
  int idle_ = 0;                       // mutex_
  bool stop_ = false;                  // mutex_
  std::atomic<bool> has_news_{false};  ///< added_ or stop_ has changed
  int pid_;
  /// mutex_. A forked child has the objects but not the threads.
  std::vector<std::unique_ptr<std::thread>> threads_;
};

}  // namespace shoal::torch
