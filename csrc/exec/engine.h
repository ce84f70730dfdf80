/// Drives every task of one rank: whoever waits gives all of them a turn.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <thread>
#include <vector>

#include "exec/group.h"
#include "exec/run.h"
#include "exec/transfer.h"
#include "exec/turn.h"
#include "exec/wait_policy.h"

namespace shoal::exec {

/// Called now and then by a waiting thread, without the lock. May throw: the wait ends with it.
using Interrupt = std::function<void()>;

/// Any thread. Its lock is private to the process: no rank can hold it for another.
class Engine {
 public:
  /// `crowded`: more ranks than cores on this machine.
  Engine(transport::shm::Node& node, memory::Pool& pool, bool crowded);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// A transport to give turns to; `network`: it has an fd to sleep on. Before the first task.
  void add_transport(transport::Transport& transport, bool network);
  void add_group(Group& group);
  /// The group has no task in flight any more.
  void remove_group(Group& group);

  /// The task is driven from here on by wait(), by other waits, or by the progress thread. Give it
  /// back by release() when it is done. nullptr: it has succeeded already.
  Run* start(Group& group, const Call& call);
  /// All of them are posted before any is waited for, so that exchanges cannot deadlock.
  void start(Group& group, std::span<const TransferCall> calls, std::span<Transfer*> transfers);
  void wait(Task& task, const Interrupt& interrupt);
  /// Enters an operation whose work is done elsewhere, by a GPU: gives it the next sequence number
  /// and shows its line. 0: others are too far behind, or the group has ended. Under the lock, by
  /// synchronised().
  std::uint64_t enter(Group& group, const Plan& plan) noexcept;
  /// From here on a detached task is polled with the others.
  void adopt(Task& task);

  // Under the lock: by synchronised(), or from the poll() of another task.

  /// Adopts a task that is not among the polled ones.
  void begin(Task& task);
  /// As start(), for a sequence number that has been issued.
  Run& begin(Group& group, const Call& call, std::uint64_t sequence);
  void begin(Group& group, std::span<const TransferCall> calls, std::span<Transfer*> transfers);

  /// Gives turns until `until()`, which is asked between rounds, without the lock, and after every
  /// wake(); once more, too, when it has said yes just before a sleep. Stands back while others
  /// wait: they give the turns.
  void drive(const std::function<bool()>& until);
  /// One round without waiting; then tells whether the task is done.
  bool test(Task& task);
  void release(Task& task);

  /// Runs `action` under the lock, between two rounds.
  void synchronised(const std::function<void()>& action);
  /// From the control thread: acknowledges errors on behalf of threads that are outside a call.
  void tick() noexcept;
  /// Wakes sleeping waiters: something they look at has changed.
  void wake() noexcept { node_->ring_self(); }

  void start_progress_thread();

 private:
  bool round(std::int64_t now_ns) noexcept;
  bool try_round(bool look_at_clock) noexcept;
  /// What a thread waits for: a task, or whatever `until` says.
  struct Awaited {
    const Task* task;
    const std::function<bool()>* until;
    [[nodiscard]] bool is_there() const { return task != nullptr ? task->done() : (*until)(); }
  };
  void rest(WaitPolicy& policy, const Awaited& awaited);
  void sleep(const Awaited& awaited);
  [[nodiscard]] bool sleeps_on_network(const Task* task) const noexcept;

  transport::shm::Node* node_;
  bool crowded_;
  Turn turn_;
  std::vector<transport::Transport*> transports_;
  transport::Transport* network_ = nullptr;
  std::vector<Group*> groups_;
  std::vector<Task*> active_;
  TaskPool<Run> runs_;
  TaskPool<Transfer> transfers_;
  TransferLines transfer_lines_;
  std::atomic<int> waiters_{0};  ///< threads in wait() ...
  std::atomic<int> drivers_{0};  ///< ... and in drive()
  std::atomic<bool> stopping_{false};
  std::thread progress_thread_;
};

}  // namespace shoal::exec
