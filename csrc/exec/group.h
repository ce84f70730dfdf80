/// A communicator as the executor sees it: where its ranks are, and what has become of it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/probes.h"
#include "core/status.h"
#include "exec/abort_board.h"
#include "exec/distance.h"
#include "exec/health.h"
#include "memory/arena.h"
#include "memory/pool.h"
#include "shoal/types.h"
#include "transport/shm/node.h"
#include "transport/shm/node_group.h"
#include "transport/transport.h"

namespace shoal::exec {

class Run;

/// How one rank of the communicator is reached.
struct Route {
  transport::Transport* transport = nullptr;
  int peer = 0;         ///< the transport's number for it
  int node_index = -1;  ///< in the node group; -1: another node
  Rank world = 0;
};

/// Where the ranks of a node group find what they share besides, in a block of its own: its offset
/// in the arena plus 1, once the first of them has needed it (comm/device_calls.h). 0: none.
using SideBlock = std::atomic<std::uint64_t>;

constexpr std::int64_t side_block_offset(int ranks) noexcept {
  return transport::shm::control_bytes(ranks) + AbortBoard::bytes(ranks);
}
/// Bytes of a node group's control memory: entry lines and phases, the abort board, and where the
/// side block is. Zeroed by the rank that makes it.
constexpr std::int64_t control_bytes(int ranks) noexcept {
  return side_block_offset(ranks) + transport::shm::kCacheLine;
}

/// Resolved once per communicator; immutable.
struct Binding {
  std::uint32_t communicator = 0;
  Rank rank = 0;
  Rank ranks = 1;
  Rank node_ranks = 1;  ///< as schedule::Shape has it
  std::vector<Route> routes;
  transport::shm::NodeGroup node;  ///< the ranks on this node; at least this one
  std::vector<Rank> node_members;  ///< node index -> rank of the communicator
  std::vector<int> local_ranks;    ///< node index -> local rank in the arena
  AbortBoard board;
  SideBlock* side_block = nullptr;
  transport::shm::Node* shm = nullptr;
  Health* health = nullptr;

  [[nodiscard]] bool one_node() const noexcept { return node.ranks() == ranks; }
  [[nodiscard]] memory::Arena& arena() const noexcept { return shm->arena(); }
  /// After a store that the other ranks of the node group may sleep for.
  void ring_node() const noexcept { shm->ring(local_ranks); }
};

/// What comm/ does on the executor's rare events. Called with the engine's lock held; may allocate,
/// must not wait.
struct GroupEvents {
  /// Ends every text, e.g. "; this is rank 1 of 4".
  std::string signature;
  /// Once, when this rank finds the group's error first: the text users read. `run` may be null.
  std::function<std::string(const Run* run, Status status)> explain;
  /// Ranks `status.rank` and `status.detail` have entered #sequence with different fingerprints.
  std::function<std::string(std::uint64_t sequence, Status status)> explain_mismatch;
  /// A run has not moved for a while, or a message of another collective came: ask the others.
  std::function<void(const Run& run)> suspect_mismatch;
  /// Once, when this rank finds the error first: tell ranks on other nodes.
  std::function<void(Status status, const std::string& text)> announce;
};

/// Sequence numbers, window and failure of one communicator. Under the engine's lock.
class Group {
 public:
  Group(Binding binding, GroupEvents events)
      : binding_(std::move(binding)), events_(std::move(events)) {}

  /// From here until leave_page() the rank's progress page says how far it is in this communicator,
  /// if the page has room.
  void enter_page() noexcept;
  void leave_page() noexcept;

  [[nodiscard]] const Binding& binding() const noexcept { return binding_; }
  [[nodiscard]] const GroupEvents& events() const noexcept { return events_; }

  /// Takes the next sequence number (from 1) for a collective with this fingerprint.
  std::uint64_t issue(std::uint64_t fingerprint) noexcept {
    const std::uint64_t sequence = issued_ + 1;
    issued_ = sequence;
    history_[sequence % kHistory] = fingerprint;
    if constexpr (kObservable) row_->posted.store(sequence, std::memory_order_relaxed);
    return sequence;
  }
  [[nodiscard]] std::uint64_t issued() const noexcept { return issued_; }
  /// Fingerprint of an issued sequence number; 0 if it is not known (any more).
  [[nodiscard]] std::uint64_t fingerprint_of(std::uint64_t sequence) const noexcept {
    const bool known = sequence > 0 && sequence <= issued_ && issued_ - sequence < kHistory;
    return known ? history_[sequence % kHistory] : 0;
  }

  /// At most kMaxInFlight sequence numbers are under way here, and kMaxAhead between the ranks of
  /// the node; see node_group.h. May find a mismatch of earlier operations.
  [[nodiscard]] bool may_enter(std::uint64_t sequence) noexcept {
    constexpr std::uint64_t kAhead = transport::shm::kMaxAhead;
    if (sequence > completed_ + transport::shm::kMaxInFlight) return false;
    return sequence <= met_ + kAhead || has_met(sequence - kAhead);
  }
  /// Every rank of the node has entered #sequence: compares the lines before it that nobody here
  /// has compared yet. A mismatch there ends the communicator: some rank may have returned.
  void meet(std::uint64_t sequence) noexcept {
    if (compared_ + 1 < sequence) compare_until(sequence - 1);
    if (sequence > met_) met_ = sequence;
  }
  /// Compares the lines up to #sequence as far as all ranks have written them, where no operation
  /// of this rank waits for the others. A mismatch ends the communicator.
  void compare(std::uint64_t sequence) noexcept {
    if (compared_ < sequence && !ended()) compare_until(sequence);
  }
  /// The lines of #sequence have been compared, and what there was to say has been said.
  void mark_compared(std::uint64_t sequence) noexcept {
    if (compared_ + 1 == sequence) compared_ = sequence;
  }
  /// A rank of the communicator that is too far behind for #sequence to be entered; -1: none.
  [[nodiscard]] Rank laggard(std::uint64_t sequence) const noexcept;
  void complete(std::uint64_t sequence) noexcept {
    if (sequence == completed_ + 1 && beyond_ == 0) {
      completed_ = sequence;
      show_completed(sequence);
    } else {
      complete_out_of_order(sequence);
    }
  }

  /// Where this rank puts its input of a kOneShot operation. The slots are taken from `pool` at the
  /// first call and belong to whoever destroys the group: the others may still read them.
  /// kNoOffset: out of memory.
  memory::Offset slot(std::uint64_t sequence, std::int64_t slot_bytes, memory::Pool& pool) noexcept;
  [[nodiscard]] memory::Offset slots() const noexcept { return slots_; }
  /// Of those who read what this rank stages.
  [[nodiscard]] Distance& distance() noexcept { return distance_; }

  /// Whose message a receive from any source got last; tags may share one.
  [[nodiscard]] Rank& last_source(std::uint32_t tag) noexcept {
    return last_sources_[tag % last_sources_.size()];
  }

  /// Ends the communicator: no run executes a step any more. The first call counts.
  void fail(Status status, const Run* run, std::string text, bool announce) noexcept;
  /// Any thread. True: failure() and failure_text() are final and may be read without the lock.
  [[nodiscard]] bool ended() const noexcept {
    return ended_.load(std::memory_order_acquire);  // pairs with the release in fail()
  }
  [[nodiscard]] const Status& failure() const noexcept { return failure_; }
  [[nodiscard]] const std::string& failure_text() const noexcept { return failure_text_; }
  [[nodiscard]] std::int64_t failed_ns() const noexcept { return failed_ns_; }

  /// Looks at the node's abort flag and at dead ranks; fails the group on either.
  /// `run`: on whose behalf, for the message; may be null.
  void check(const Run* run) noexcept {
    if (binding_.board.is_raised() || binding_.health->changes() != seen_changes_) look(run);
  }

 private:
  void show_completed(std::uint64_t sequence) noexcept {
    if constexpr (kObservable) row_->completed.store(sequence, std::memory_order_relaxed);
  }
  [[nodiscard]] bool all_have_entered(std::uint64_t sequence) const noexcept;
  bool has_met(std::uint64_t sequence) noexcept;
  void compare_until(std::uint64_t sequence) noexcept;
  void complete_out_of_order(std::uint64_t sequence) noexcept;
  void look(const Run* run) noexcept;

  static constexpr std::uint64_t kHistory = 64;
  Binding binding_;
  GroupEvents events_;
  abi::CommunicatorRow unseen_{};  ///< where the progress page has no row left
  abi::CommunicatorRow* row_ = &unseen_;
  std::uint64_t issued_ = 0;
  std::uint64_t met_ = 0;        ///< all ranks of the node are known to have entered
  std::uint64_t compared_ = 0;   ///< and found to have meant the same
  std::uint64_t completed_ = 0;  ///< every sequence number up to this one is complete
  std::uint32_t beyond_ = 0;     ///< bit i: completed_ + 1 + i is complete
  std::array<std::uint64_t, kHistory> history_{};
  memory::Offset slots_ = memory::kNoOffset;
  Distance distance_;
  std::array<Rank, 64> last_sources_{};
  std::uint32_t seen_changes_ = 0;
  Status failure_{};
  std::string failure_text_;
  std::int64_t failed_ns_ = 0;
  std::atomic<bool> ended_{false};
};

}  // namespace shoal::exec
