/// The rendezvous store: where ranks find one another, and the hub of control messages later.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/clock.h"
#include "shoal/export.h"
#include "shoal/types.h"

namespace shoal::bootstrap {

struct StoreOptions {
  std::string bind_host = "127.0.0.1";  ///< one address, never all of them
  std::uint16_t port = 0;               ///< 0: any free one
  int socket = -1;  ///< that listens there already, taken over; -1: one is opened
  Rank ranks = 1;
  std::string job;
  std::string secret;
  /// True: a launcher will call report_exit() for each rank that ends, so a lost connection waits
  /// 300 ms for it, to be announced with its cause.
  bool launcher_reports_exits = false;
};

/// A thread of its own (epoll). Start it before the ranks. Raises the process's soft limit of open
/// files where it is too low for one connection per rank.
class SHOAL_API Store {
 public:
  /// Throws Error(kBootstrap): address in use, no such address, ...
  explicit Store(const StoreOptions& options);
  ~Store();  ///< tells those still joined that it ends in order
  [[nodiscard]] std::uint16_t port() const noexcept;
  /// From now on whoever asks to join is told that this store ends. Any thread.
  void close_door();
  /// Waits until no rank is joined any more; false: the deadline passed first. Any thread.
  bool wait_until_empty(Deadline deadline);
  /// Tells every rank that `rank` has ended, e.g. cause = "killed by signal 9". Any thread.
  void report_exit(Rank rank, const std::string& cause);
  /// Ranks that have not come yet (for the launcher's report).
  [[nodiscard]] std::vector<Rank> missing() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shoal::bootstrap
