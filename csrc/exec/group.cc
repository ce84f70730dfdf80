#include "exec/group.h"

#include "core/clock.h"

namespace shoal::exec {

void Group::complete_out_of_order(std::uint64_t sequence) noexcept {
  beyond_ |= 1u << (sequence - completed_ - 1);
  while ((beyond_ & 1u) != 0) {
    beyond_ >>= 1;
    ++completed_;
  }
}

memory::Offset Group::slot(std::uint64_t sequence, std::int64_t slot_bytes,
                           memory::Pool& pool) noexcept {
  if (slots_ == memory::kNoOffset) {
    const Result<memory::Offset> made = pool.allocate(transport::shm::kWindowSlots * slot_bytes);
    if (!made.ok()) return memory::kNoOffset;
    slots_ = made.value();
  }
  return slots_ + static_cast<std::int64_t>(sequence % transport::shm::kWindowSlots) * slot_bytes;
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
