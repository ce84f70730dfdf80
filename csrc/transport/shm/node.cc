/// Sleeping without lost wake-ups is Dekker's pattern, each side a store and then a load:
///
///   the waker    stores what is awaited    | light fence |   loads `sleepers`
///   the sleeper  raises `sleepers`         | heavy fence |   looks at what is awaited
///
/// With both fences at least one of them sees the other's store: the waker sees a sleeper and makes
/// the system call, or the sleeper sees what it awaits and does not sleep. Between looking and
/// sleeping, futex compares `rings` with the value read first.
///
/// The heavy fence is membarrier(2): it makes every running thread of every process of the node
/// that has registered execute a full fence. So the light one has only to keep the compiler from
/// reordering.
#include "transport/shm/node.h"

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <limits>

#include "core/assert.h"
#include "core/clock.h"

namespace shoal::transport::shm {
namespace {

long membarrier(int command) noexcept { return ::syscall(SYS_membarrier, command, 0, 0); }

bool register_for_heavy_fences() noexcept {
#if defined(__SANITIZE_THREAD__)
  return false;  // it does not know membarrier
#else
  return membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) == 0 &&
         membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED) == 0;
#endif
}

/// Thread sanitizer does not know fences; for it, looking at `sleepers` is a read-modify-write,
/// which orders the two sides as well but moves the cache line to every waker.
bool has_sleepers(Doorbell& doorbell) noexcept {
#if defined(__SANITIZE_THREAD__)
  // seq_cst: pairs with the fetch_add in prepare_sleep()
  return doorbell.sleepers.fetch_add(0, std::memory_order_seq_cst) != 0;
#else
  // relaxed: ordered by light_fence(), which pairs with the heavy one in prepare_sleep()
  return doorbell.sleepers.load(std::memory_order_relaxed) != 0;
#endif
}

/// Not PRIVATE: waker and sleeper are different processes with different mappings.
void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, std::numeric_limits<int>::max(), nullptr, nullptr, 0);
}

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t seen,
                std::int64_t timeout_ns) noexcept {
  constexpr std::int64_t kNsPerSecond = 1'000'000'000;
  const timespec timeout{static_cast<time_t>(timeout_ns / kNsPerSecond),
                         static_cast<long>(timeout_ns % kNsPerSecond)};
  ::syscall(SYS_futex, &word, FUTEX_WAIT, seen, &timeout, nullptr, 0);
}

}  // namespace

Node::Node(memory::Arena& arena, int self) noexcept
    : arena_(&arena),
      page_(&Header(arena, self).page()),
      self_(self),
      has_heavy_fence_(register_for_heavy_fences()) {
  SHOAL_ASSERT(ranks() <= kMaxLocalRanks && self >= 0 && self < ranks());
}

void Node::light_fence() const noexcept {
#if !defined(__SANITIZE_THREAD__)
  if (light_fences_) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
  } else {
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
#endif
}

void Node::heavy_fence() const noexcept {
#if !defined(__SANITIZE_THREAD__)
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (light_fences_) {
    // Registered and tried in the constructor, so it cannot fail.
    SHOAL_ASSERT(membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED) == 0);
  }
#endif
}

Status Node::commit_header() noexcept {
  return arena_->commit(arena_->slice_begin(self_), header_bytes_used(ranks()));
}

void Node::wake_sleepers(Doorbell& doorbell) noexcept {
  // release: pairs with the acquire in prepare_sleep()
  doorbell.rings.fetch_add(1, std::memory_order_release);
  futex_wake_all(doorbell.rings);
}

void Node::ring(int local_rank) noexcept {
  Doorbell& doorbell = Header(*arena_, local_rank).doorbell();
  light_fence();
  if (has_sleepers(doorbell)) wake_sleepers(doorbell);
}

void Node::ring(std::span<const int> local_ranks) noexcept {
  light_fence();
  for (const int rank : local_ranks) {
    Doorbell& doorbell = Header(*arena_, rank).doorbell();
    if (rank != self_ && has_sleepers(doorbell)) wake_sleepers(doorbell);
  }
}

std::uint32_t Node::prepare_sleep() noexcept {
  Doorbell& doorbell = Header(*arena_, self_).doorbell();
  // acquire: pairs with the release in wake_sleepers(). Before `sleepers` rises, so that no ring
  // can come between.
  const std::uint32_t token = doorbell.rings.load(std::memory_order_acquire);
  doorbell.sleepers.fetch_add(1, std::memory_order_seq_cst);
  heavy_fence();
  return token;
}

void Node::sleep(std::uint32_t token, std::int64_t timeout_ns) noexcept {
  if (timeout_ns > 0) futex_wait(Header(*arena_, self_).doorbell().rings, token, timeout_ns);
  cancel_sleep();
}

void Node::cancel_sleep() noexcept {
  // relaxed: a waker that still sees a sleeper makes one system call too many
  Header(*arena_, self_).doorbell().sleepers.fetch_sub(1, std::memory_order_relaxed);
}

void Node::depart(std::uint32_t communicator) noexcept {
  // release: pairs with the acquire in has_departed()
  Header(*arena_, self_)
      .departures()
      .words[communicator / 64]
      .fetch_or(std::uint64_t{1} << communicator % 64, std::memory_order_release);
}

bool Node::has_departed(int local_rank, std::uint32_t communicator) const noexcept {
  // acquire: pairs with the release in depart()
  const std::uint64_t word = Header(*arena_, local_rank)
                                 .departures()
                                 .words[communicator / 64]
                                 .load(std::memory_order_acquire);
  return (word >> communicator % 64 & 1) != 0;
}

void Node::name_caller() noexcept {
  static thread_local const pid_t id = ::gettid();
  page_->caller_id.store(id, std::memory_order_relaxed);
}

abi::CommunicatorRow* Node::free_row() const noexcept {
  for (abi::CommunicatorRow& row : page_->communicators) {
    if (row.ranks.load(std::memory_order_relaxed) == 0) return &row;
  }
  return nullptr;
}

void Node::count_staged(std::int64_t bytes) noexcept {
  add(page_->staged, 1);
  add(page_->staged_bytes, bytes);
}

abi::ProgressPage& Node::page(int local_rank) const noexcept {
  return Header(*arena_, local_rank).page();
}

}  // namespace shoal::transport::shm
