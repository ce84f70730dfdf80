#include "comm/leases.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/assert.h"

namespace shoal::comm {

namespace {

using memory::Offset;

/// Rows are made so many bytes at a time, in whole pages: a block that is cut off (Arena::cut_off)
/// takes its page with it, and a holder's words must not lie in it.
constexpr std::int64_t kTableBytes = 4096;
constexpr std::int64_t kLineBytes = 64;  // no two leases in one cache line

constexpr std::int64_t row_bytes(std::size_t local_ranks) noexcept {
  const std::int64_t bytes =
      static_cast<std::int64_t>(local_ranks * sizeof(std::atomic<std::uint32_t>));
  return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
}

constexpr bool overlap(Offset begin, Offset end, Offset other_begin, Offset other_end) noexcept {
  return begin < other_end && other_begin < end;
}

}  // namespace

Leases::Leases(memory::Arena& arena, memory::Pool& pool, const exec::Health& health, int self,
               std::vector<Rank> worlds)
    : arena_(arena), pool_(pool), health_(health), self_(self), worlds_(std::move(worlds)) {}

// --- the owner's side --------------------------------------------------------------------------

bool Leases::holds(const Row& row, int local_rank) const noexcept {
  // acquire: pairs with the release in give_back(); the holder has read what it wanted
  return released(row, local_rank).load(std::memory_order_acquire) != row.granted[local_rank] &&
         !health_.failed(worlds_[local_rank]);
}

bool Leases::is_held(const Row& row) const noexcept {
  for (int rank = 0; rank < static_cast<int>(worlds_.size()); ++rank) {
    if (holds(row, rank)) return true;
  }
  return false;
}

bool Leases::is_lent(const Block& block) const noexcept {
  return std::ranges::any_of(lent_, [&](const Lent& lent) {
    return overlap(lent.begin, lent.end, block.begin, block.end);
  });
}

bool Leases::make_rows() {
  const std::int64_t row = row_bytes(worlds_.size());
  const std::int64_t bytes = std::max(kTableBytes, 2 * row);
  const auto block = pool_.allocate(bytes, kTableBytes);
  if (!block.ok()) return false;
  std::memset(arena_.at(block.value()), 0, static_cast<std::size_t>(bytes));
  for (std::int64_t at = 0; at + row <= bytes; at += row) {
    if (board_ == memory::kNoOffset) {
      board_ = block.value();
    } else {
      spare_rows_.push_back({block.value() + at, std::vector<std::uint32_t>(worlds_.size())});
    }
  }
  return true;
}

std::optional<Leases::Row> Leases::take_row() {
  if (spare_rows_.empty() && !make_rows()) return std::nullopt;
  Row row = std::move(spare_rows_.back());
  spare_rows_.pop_back();
  return row;
}

std::optional<Lease> Leases::grant(Offset begin, std::int64_t bytes,
                                   std::span<const int> local_ranks) {
  const std::lock_guard lock(mutex_);
  reap_locked();
  auto lent = std::ranges::find_if(lent_, [&](const Lent& candidate) {
    return candidate.begin == begin && candidate.end == begin + bytes;
  });
  if (lent == lent_.end()) {
    std::optional<Row> row = take_row();
    if (!row.has_value()) return std::nullopt;
    lent_.push_back({begin, begin + bytes, std::move(*row)});
    lent = lent_.end() - 1;
  }
  for (const int rank : local_ranks) {
    if (rank != self_) ++lent->row.granted[rank];
  }
  lends_.store(true, std::memory_order_relaxed);  // relaxed: read by threads that know of the grant
  return Lease{begin, lent->row.offset, board_};
}

void Leases::withdraw(const Lease& lease, std::span<const int> local_ranks) {
  const std::lock_guard lock(mutex_);
  const auto lent = std::ranges::find_if(
      lent_, [&](const Lent& candidate) { return candidate.row.offset == lease.row; });
  SHOAL_ASSERT(lent != lent_.end() && "granted, and so not forgotten");
  for (const int rank : local_ranks) {
    if (rank != self_) --lent->row.granted[rank];
  }
  withdrawn_ = true;
  reap_locked();
}

std::vector<Rank> Leases::holders(Offset begin, std::int64_t bytes) {
  std::vector<Rank> found;
  if (!lends()) return found;
  const std::lock_guard lock(mutex_);
  reap_locked();
  for (const Lent& lent : lent_) {
    if (!overlap(lent.begin, lent.end, begin, begin + bytes)) continue;
    for (int rank = 0; rank < static_cast<int>(worlds_.size()); ++rank) {
      if (holds(lent.row, rank)) found.push_back(worlds_[rank]);
    }
  }
  std::ranges::sort(found);
  found.erase(std::ranges::unique(found).begin(), found.end());
  return found;
}

void Leases::free(Offset block, std::int64_t bytes) {
  const std::lock_guard lock(mutex_);
  reap_locked();
  const Block freed{block, block + bytes};
  if (is_lent(freed)) {
    waiting_.push_back(freed);
  } else {
    pool_.free(block);
  }
}

void Leases::reap() {
  if (!lends()) return;
  const std::lock_guard lock(mutex_);
  reap_locked();
}

void Leases::reap_locked() {
  if (lent_.empty()) return;
  // acquire: pairs with the release in give_back(); what it counts is seen too
  const std::uint32_t releases = word(board_).load(std::memory_order_acquire);
  const std::uint32_t failures = health_.changes();
  if (releases == seen_releases_ && failures == seen_failures_ && !withdrawn_) return;
  seen_releases_ = releases;
  seen_failures_ = failures;
  withdrawn_ = false;
  std::erase_if(lent_, [this](Lent& lent) {
    if (is_held(lent.row)) return false;
    for (int rank = 0; rank < static_cast<int>(worlds_.size()); ++rank) {
      // A dead holder's count stands still where it is. relaxed: its last store is long past
      lent.row.granted[rank] = released(lent.row, rank).load(std::memory_order_relaxed);
    }
    spare_rows_.push_back(std::move(lent.row));
    return true;
  });
  lends_.store(!lent_.empty(), std::memory_order_relaxed);
  std::erase_if(waiting_, [this](const Block& block) {
    if (is_lent(block)) return false;
    pool_.free(block.begin);
    return true;
  });
}

// --- the holder's side -------------------------------------------------------------------------

void Leases::hold(const Lease& lease) {
  const std::lock_guard lock(held_mutex_);
  Held& held = held_[lease.row];
  held.lease = lease;
  ++held.count;
}

void Leases::release(const Lease& lease) {
  const std::lock_guard lock(held_mutex_);
  const auto held = held_.find(lease.row);
  if (held == held_.end()) return;
  give_back(lease, 1);
  if (--held->second.count == 0) held_.erase(held);
}

void Leases::release_all() {
  const std::lock_guard lock(held_mutex_);
  for (const auto& [row, held] : held_) give_back(held.lease, held.count);
  held_.clear();
}

void Leases::give_back(const Lease& lease, int times) noexcept {
  const auto count = static_cast<std::uint32_t>(times);
  const Row row{lease.row, {}};
  // release: pairs with the acquire in holds()
  released(row, self_).fetch_add(count, std::memory_order_release);
  // release: pairs with the acquire in reap_locked()
  word(lease.board).fetch_add(count, std::memory_order_release);
}

}  // namespace shoal::comm
