/// From an identity to a group of ranks that know one another. Throws Error(kBootstrap) or
/// Error(kTimeout) naming the ranks that are missing, duplicate, out of range, of another version.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bootstrap/identity.h"
#include "bootstrap/traffic.h"
#include "core/clock.h"
#include "core/fd.h"

namespace shoal::bootstrap {

/// What every rank knows of every other.
struct Peer {
  std::string host;
  std::int64_t pid = 0;
  int node = 0;        ///< nodes are numbered by their lowest rank
  int local_rank = 0;  ///< by rank within the node
  /// Lowest rank on the same machine. Several nodes may be on one: containers, namespaces.
  Rank machine = 0;
};

/// Called on the control thread; must not block.
struct Listener {
  std::function<void()> tick;  ///< every 100 ms
  /// A rank is gone, e.g. "killed by signal 9" or "exited with code 1"; once per rank. Our own
  /// rank: the store, and with it the launcher, is gone.
  std::function<void(Rank, const std::string& cause)> failed;
  /// A rank of this node has left in order, and its process has ended; of rank 0, that it serves no
  /// store any more. Once per rank.
  std::function<void(Rank)> left;
  /// What another rank has published to this one.
  std::function<void(Rank from, const std::string& message)> message;
};

class Session {
 public:
  /// Connects to the store (starts it where identity.serves_store), authenticates, waits for all
  /// ranks until the deadline. Where this rank serves the store at port 0, any free one is taken,
  /// and `on_store` is told "host:port" once it listens.
  Session(const Identity& identity, Deadline deadline,
          const std::function<void(const std::string&)>& on_store = {});
  ~Session();  ///< says goodbye: leaving in order is no failure
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  [[nodiscard]] Rank rank() const noexcept;
  [[nodiscard]] Rank ranks() const noexcept;

  /// Every rank's bytes, in rank order: dissemination (Bruck) over sockets between the ranks,
  /// ceil(log2 n) rounds. Collective over the world; not after the session has been closed.
  std::vector<std::string> all_gather(const std::string& mine, Deadline deadline);

  /// This host's address towards the store, and so towards the other ranks; "" if there are none.
  [[nodiscard]] const std::string& host() const noexcept;

  /// Finds the ranks of this node by a real handshake and agrees on it with all ranks: candidates
  /// have the same boot id and network namespace; the lowest of them calls `create(local_ranks)`
  /// for an fd, which travels over an abstract unix socket to those whose SO_PEERCRED uid is the
  /// same. Whoever cannot get it is a node of its own (and calls create(1)). Returns the fd of this
  /// rank's node; fills peers(). Collective, once.
  Fd join_node(const std::function<Fd(int local_ranks)>& create, Deadline deadline);
  [[nodiscard]] const std::vector<Peer>& peers() const noexcept;

  /// What it took so far to find the others: O(log n) messages a rank. Like all_gather(), not while
  /// another thread uses the session.
  [[nodiscard]] Traffic traffic() const noexcept;

  /// Starts the control thread: deaths of local ranks by pidfd (where the pid is not our own), of
  /// remote ones by the store, messages, ticks. Call after join_node(), once.
  void listen(Listener listener);
  /// Sends `message` to these ranks, by the store. Any thread; never blocks long (bounded queue).
  void publish(std::span<const Rank> to, const std::string& message);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shoal::bootstrap
