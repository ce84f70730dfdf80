/// Who reads whose memory without a copy: a lease is one rank's word that it will not change or
/// free a range of its pool while others look at it.
///
/// The owner grants a lease on behalf of every rank that it is about to tell of the range, before
/// it tells them; so one flag round is enough, and there is no moment at which a holder is not yet
/// known. Each holder gives it back by counting up a word of its own in the lease's row:
///
///   owner's pool:   | board | row of lease 0 | row of lease 1 | ...     row = one word per local
///                                                                       rank: how often released
///
/// How often a lease was granted to whom is known to the owner alone. A holder that dies gives
/// nothing back; the owner no longer counts it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "exec/health.h"
#include "memory/arena.h"
#include "memory/pool.h"

namespace shoal::comm {

/// What the owner tells the others. Offsets, so that it means the same to all.
struct Lease {
  memory::Offset begin = memory::kNoOffset;
  memory::Offset row = memory::kNoOffset;
  memory::Offset board = memory::kNoOffset;
};

/// One rank's leases: those it has granted and those it holds. Any thread.
class Leases {
 public:
  /// `worlds`: local rank -> rank of the world. Everything given outlives it.
  Leases(memory::Arena& arena, memory::Pool& pool, const exec::Health& health, int self,
         std::vector<Rank> worlds);

  // The owner's side.

  /// For [begin, begin + bytes) of this rank's pool, to each of `local_ranks` but this one.
  /// nullopt: out of memory.
  std::optional<Lease> grant(memory::Offset begin, std::int64_t bytes,
                             std::span<const int> local_ranks);
  /// Takes a grant back that nobody has learnt of.
  void withdraw(const Lease& lease, std::span<const int> local_ranks);
  /// Whether there may be any.
  [[nodiscard]] bool lends() const noexcept { return lends_.load(std::memory_order_relaxed); }
  /// World ranks that hold a lease of any of [begin, begin + bytes), in order.
  std::vector<Rank> holders(memory::Offset begin, std::int64_t bytes);
  /// Gives a block back to the pool, now or when nobody holds a lease of any of it.
  void free(memory::Offset block, std::int64_t bytes);
  /// Forgets leases that have ended and frees the blocks that waited for them. Two loads where
  /// nothing has happened since the last time.
  void reap();

  // The holder's side.

  /// This rank holds a lease that was granted to it, until it calls release().
  void hold(const Lease& lease);
  void release(const Lease& lease);
  /// This rank leaves: what it still holds it gives back, and release() has nothing left to do.
  void release_all();

 private:
  using Word = std::atomic<std::uint32_t>;
  struct Row {
    memory::Offset offset = memory::kNoOffset;
    std::vector<std::uint32_t> granted;  // per local rank; equal to `released`: not held
  };
  struct Lent {
    memory::Offset begin;
    memory::Offset end;
    Row row;
  };
  struct Block {
    memory::Offset begin;
    memory::Offset end;
  };
  struct Held {
    Lease lease;
    int count = 0;
  };

  [[nodiscard]] Word& word(memory::Offset offset) const noexcept {
    return *reinterpret_cast<Word*>(arena_.at(offset));
  }
  [[nodiscard]] Word& released(const Row& row, int local_rank) const noexcept {
    return word(row.offset + local_rank * static_cast<std::int64_t>(sizeof(Word)));
  }
  [[nodiscard]] bool holds(const Row& row, int local_rank) const noexcept;
  [[nodiscard]] bool is_held(const Row& row) const noexcept;
  [[nodiscard]] bool is_lent(const Block& block) const noexcept;
  std::optional<Row> take_row();
  bool make_rows();
  void reap_locked();
  void give_back(const Lease& lease, int times) noexcept;

  memory::Arena& arena_;
  memory::Pool& pool_;
  const exec::Health& health_;
  const int self_;
  const std::vector<Rank> worlds_;

  std::mutex mutex_;                          // of the owner's side
  memory::Offset board_ = memory::kNoOffset;  // counts what has been released of all rows
  std::vector<Lent> lent_;
  std::vector<Block> waiting_;  // freed by the user, and still lent
  std::vector<Row> spare_rows_;
  std::uint32_t seen_releases_ = 0;
  std::uint32_t seen_failures_ = 0;
  bool withdrawn_ = false;          // since the last look
  std::atomic<bool> lends_{false};  // lent_ is not empty

  std::mutex held_mutex_;
  std::map<memory::Offset, Held> held_;  // by row
};

}  // namespace shoal::comm
