#include "exec/group.h"

#include "core/clock.h"

namespace shoal::exec {

void Group::enter_page() noexcept {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  abi::CommunicatorRow* row = binding_.shm->free_row();
  if (row == nullptr) return;
  row->communicator.store(binding_.communicator, kRelaxed);
  row->first.store(binding_.routes[0].world, kRelaxed);
  row->rank.store(binding_.rank, kRelaxed);
  row->posted.store(issued_, kRelaxed);
  row->completed.store(completed_, kRelaxed);
  // release: what lies in a row that is not free belongs together, for readers in other processes
  row->ranks.store(binding_.ranks, std::memory_order_release);
  row_ = row;
}

void Group::leave_page() noexcept {
  row_->ranks.store(0, std::memory_order_relaxed);
  row_ = &unseen_;
}

void Group::complete_out_of_order(std::uint64_t sequence) noexcept {
  beyond_ |= 1u << (sequence - completed_ - 1);
  while ((beyond_ & 1u) != 0) {
    beyond_ >>= 1;
    ++completed_;
  }
  show_completed(completed_);
}

bool Group::all_have_entered(std::uint64_t sequence) const noexcept {
  for (int i = 0; i < binding_.node.ranks(); ++i) {
    if (!binding_.node.entered(sequence, i)) return false;
  }
  return true;
}

bool Group::has_met(std::uint64_t sequence) noexcept {
  // A later one first: then the next few calls need not look.
  for (const std::uint64_t candidate : {sequence + transport::shm::kMaxAhead / 2, sequence}) {
    if (!all_have_entered(candidate)) continue;
    met_ = candidate;
    compare_until(candidate);
    return true;
  }
  return false;
}

/// The lines are still there: nobody is more than kMaxAhead ahead of this rank, which has not gone
/// further than kMaxAhead beyond what it has compared.
void Group::compare_until(std::uint64_t sequence) noexcept {
  const transport::shm::NodeGroup node = binding_.node;  // in registers, whatever is loaded between
  while (compared_ < sequence) {
    const std::uint64_t next = compared_ + 1;
    int other = 0;  // whose fingerprint is not that of the first
    for (int i = 0; i < node.ranks(); ++i) {
      if (!node.entered(next, i)) return;
      const bool equal = node.entry(next, i).fingerprint == node.entry(next, 0).fingerprint;
      if (!equal && other == 0) other = i;
    }
    compared_ = next;
    if (other == 0) continue;
    const Status status{ErrorCode::kMismatch, binding_.node_members[other],
                        binding_.node_members[0]};
    fail(status, nullptr,
         events_.explain_mismatch ? events_.explain_mismatch(next, status) : std::string(), true);
    return;
  }
}

Rank Group::laggard(std::uint64_t sequence) const noexcept {
  constexpr std::uint64_t kAhead = transport::shm::kMaxAhead;
  const auto& node = binding_.node;
  for (int i = 0; i < node.ranks() && sequence > met_ + kAhead; ++i) {
    if (!node.entered(sequence - kAhead, i)) return binding_.node_members[i];
  }
  return -1;
}

memory::Offset Group::slot(std::uint64_t sequence, std::int64_t slot_bytes,
                           memory::Pool& pool) noexcept {
  if (slots_ == memory::kNoOffset) {
    const Result<memory::Offset> made = pool.allocate(transport::shm::kInputSlots * slot_bytes);
    if (!made.ok()) return memory::kNoOffset;
    slots_ = made.value();
  }
  return slots_ + static_cast<std::int64_t>(sequence % transport::shm::kInputSlots) * slot_bytes;
}

void Group::fail(Status status, const Run* run, std::string text, bool announce) noexcept {
  if (!failure_.ok()) return;
  failure_ = status;
  failed_ns_ = now_ns();
  if (text.empty() && events_.explain) text = events_.explain(run, status);
  binding_.board.raise(status, text);
  binding_.board.acknowledge();
  // Either a rank that enters now sees the flag, or this rank sees below that it has entered.
  binding_.shm->heavy_fence();
  binding_.ring_node();
  if (announce && events_.announce) events_.announce(status, text);
  failure_text_ = std::move(text) + events_.signature;
  ended_.store(true, std::memory_order_release);  // pairs with the acquire in ended()
}

void Group::look(const Run* run) noexcept {
  if (!failure_.ok()) return;
  // The flag of another rank of the node; it has told the other nodes.
  if (const Status raised = binding_.board.raised(); !raised.ok()) {
    fail(raised, run, binding_.board.text(), false);
    return;
  }
  if (const std::uint32_t changes = binding_.health->changes(); changes != seen_changes_) {
    seen_changes_ = changes;
    for (Rank r = 0; r < binding_.ranks; ++r) {
      if (!binding_.health->failed(binding_.routes[r].world)) continue;
      fail({ErrorCode::kPeerFailed, r, 0}, run, {}, false);
      return;
    }
  }
}

}  // namespace shoal::exec
