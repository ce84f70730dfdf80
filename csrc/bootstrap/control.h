/// The control thread of a session: its connection to the store, the processes of this node, ticks.
///
/// A rank is lost when the store says so (kLost). When a pidfd says that a local process has ended,
/// that may be a rank which said goodbye to the store a moment ago; only the store knows. So the
/// rank becomes a suspect, the store is told (with the exit status where the kernel gives it) and
/// asked, and judgement is passed on its word, or after kVerdictMs without one.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "bootstrap/link.h"
#include "bootstrap/session.h"

namespace shoal::bootstrap {

struct LocalProcess {
  Rank rank;
  Fd pidfd;
};

struct Loss {
  Rank rank;
  std::string cause;
};

/// any thread (but one at a time: watch, listen).
class Control {
 public:
  /// `store`: open and welcomed; absent for a single rank. `store_name` is for messages.
  /// `rank_0_is_store`: with the store's connection rank 0 is lost too.
  Control(Rank rank, std::optional<Link> store, std::string store_name, bool rank_0_is_store);
  ~Control();  ///< says goodbye and waits (at most 1 s) until the store has taken it
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  void watch(std::vector<LocalProcess> processes);
  void listen(Listener listener);
  void publish(std::span<const Rank> to, const std::string& message);

  [[nodiscard]] int lost_event() const noexcept { return lost_event_.get(); }  ///< stays readable
  [[nodiscard]] std::optional<Loss> first_loss() const;

 private:
  struct Suspect {
    Fd pidfd;  ///< invalid: not a process of this node
    std::int64_t judge_at_ns;
    std::string vague;  ///< the cause, if nobody knows better by then
    bool store_judges;  ///< it has been asked whether this rank had left
    bool told = false;  ///< the store knows the cause
  };

  void run();
  void take_commands();
  void add(LocalProcess process);
  void wait();
  void serve_store();
  void handle(const Frame& frame);
  void store_is_gone();
  void suspect(Rank rank, bool store_judges, std::int64_t limit_ms, const std::string& vague);
  [[nodiscard]] std::string cause_of(const Suspect& suspect) const;
  void look_at_processes();
  void look_at_suspects();
  void tell_store(Rank rank, const std::string& cause);
  void lose(Rank rank, const std::string& cause);
  void settle_left(Rank rank);
  void deliver();
  void tick();
  bool finished();
  [[nodiscard]] std::int64_t next_wake_ns() const;

  const Rank rank_;
  const std::string store_name_;
  const bool rank_0_is_store_;
  Fd wake_;
  Fd lost_event_;
  Fd pidfds_;  ///< epoll over processes_: one entry for poll(), however many they are

  // control thread only
  std::optional<Link> store_;
  bool store_closing_ = false;
  std::map<Rank, Fd> processes_;
  std::map<Rank, Suspect> suspects_;
  std::map<Rank, std::string> settled_;  ///< failed, with the cause, or left: empty
  std::vector<Loss> undelivered_;
  std::vector<Rank> undelivered_left_;
  std::vector<std::pair<Rank, std::string>> messages_;
  std::optional<Listener> listener_;
  std::int64_t next_tick_ns_ = 0;
  std::optional<Deadline> closing_until_;
  bool farewell_ = false;

  mutable std::mutex mutex_;
  std::vector<LocalProcess> new_processes_;  // mutex_
  std::optional<Listener> new_listener_;     // mutex_
  std::vector<std::string> outbox_;          // mutex_
  std::optional<Loss> first_loss_;           // mutex_
  bool close_ = false;                       // mutex_
  std::thread thread_;
};

}  // namespace shoal::bootstrap
