/// Makes every chunk of device memory known to all ranks of the node that use CUDA, before its
/// owner hands out any of it.
///
/// A rank that begins to use CUDA listens on an abstract unix socket and writes the socket's number
/// into its door, a word that all ranks of the node see. Then it connects to whoever has a number
/// in his door already; and whoever is connected to connects back. Of two that begin at the same
/// time at least one sees the other's door (Dekker), so each ordered pair gets one connection, from
/// the owner of chunks to their user:
///
///   owner                                   user
///   hello {rank, chunks so far} ------->    maps, chunk by chunk
///   chunk {ticket} + fd         ------->    maps
///                               <-------    ack {result}
///   drop                        ------->    unmaps the last chunk: another user refused it
///
/// A new user waits until it has mapped all that the owners' hellos promise; an owner hands out a
/// new chunk when all its users have acknowledged it. So no rank ever sees an offset that it has
/// not mapped. A rank that dies or leaves is not waited for.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "core/fd.h"
#include "cuda/device_memory.h"
#include "cuda/slice.h"

namespace shoal::cuda {

/// Of one rank; 0: it does not use CUDA. In memory that all ranks of the node share.
using Door = std::atomic<std::uint64_t>;

/// Bounds what one socket has to hold at once: pools grow geometrically, see DeviceArena.
inline constexpr int kMaxChunks = 128;

/// What the exchange tells its user, on its own thread.
struct ExchangeEvents {
  /// Another rank's chunks follow, from its first on: also of one that had left and is here again.
  std::function<void(int owner)> begin;
  /// Map a chunk of another rank. `same_process`: borrow it.
  std::function<Outcome(int owner, const ChunkTicket&, const Fd&, bool same_process)> map;
  /// Unmap the chunk at this offset, its owner's last, if it was mapped.
  std::function<void(int owner, std::int64_t offset)> drop;
  /// All users have this rank's chunk at the offset; or `refused`: one could not map it, and all
  /// have been told to drop it.
  std::function<void(std::int64_t offset, const std::string& refused)> settled;
  /// Every kTickMs while it returns true, else every kIdleMs; after wake() at once.
  std::function<bool()> tick;
};

/// Owns the service thread and the sockets. Any thread.
class ChunkExchange {
 public:
  static constexpr int kTickMs = 10;
  static constexpr int kIdleMs = 1000;

  /// Opens this rank's door. `describe` turns a failed mapping into words. Throws Error.
  ChunkExchange(std::span<Door* const> doors, int self, ExchangeEvents events,
                std::function<std::string(const Outcome&)> describe);
  /// Closes the door and ends the thread.
  ~ChunkExchange();
  ChunkExchange(const ChunkExchange&) = delete;
  ChunkExchange& operator=(const ChunkExchange&) = delete;

  /// Waits for the chunks of those who were there already. Throws Timeout, naming them, or
  /// DeviceError: one could not be mapped.
  void await_owners(Deadline deadline, const Interrupt& interrupt);
  /// Tells all users; settled() follows. In the order of the chunks.
  void announce(const ChunkTicket& ticket, Fd fd);
  void wake() noexcept;
  /// Local ranks that have not acknowledged what was announced.
  [[nodiscard]] std::vector<int> awaited() const;

 private:
  struct Message;
  struct Link;
  struct Announced {
    ChunkTicket ticket;
    Fd fd;
    std::uint64_t serial = 0;  // offsets come again after a chunk was refused
  };

  void serve();
  void run_requests();
  void accept_all();
  void connect_to(int rank);
  void read_from(Link& link);
  void handle(Link& link, const Message& message, const Fd& fd);
  void on_hello(Link& link, const Message& message);
  void on_chunk(Link& link, const Message& message, const Fd& fd);
  void on_ack(Link& link, const Message& message);
  void send_chunk(Link& link, const Announced& announced);
  bool send(Link& link, const Message& message, int fd = -1);
  void close(Link& link);
  void settle_if_done();
  void owner_done(int rank, const std::string& trouble);
  void expect_owners();

  const std::vector<Door*> doors_;
  const int self_;
  const ExchangeEvents events_;
  const std::function<std::string(const Outcome&)> describe_;
  Fd listener_;
  Fd wake_;

  // Of the service thread alone.
  std::vector<Announced> announced_;  // all chunks of this rank, for users that come later
  std::vector<std::unique_ptr<Link>> links_;
  std::uint64_t serials_ = 0;
  std::map<int, int> promised_;  // owner -> chunks that it still has to send of its hello
  bool under_way_ = false;       // the last of announced_ has not been settled
  std::string refused_;          // of that chunk

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Announced> requests_;
  std::set<int> owners_;   // not complete yet
  std::set<int> waiting_;  // users that have not acknowledged
  std::string trouble_;    // of an owner's chunk, at the start
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace shoal::cuda
