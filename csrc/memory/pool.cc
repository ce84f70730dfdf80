#include "memory/pool.h"

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/assert.h"
#include "memory/free_ranges.h"
#include "memory/host_room.h"

namespace shoal::memory {
namespace {

constexpr std::int64_t kGrain = 64;
constexpr std::int64_t kPage = 4096;
/// Named in the message about the limit.
constexpr char kLimitSetting[] = "SHOAL_POOL_BYTES";

constexpr std::int64_t round_up(std::int64_t value, std::int64_t unit) noexcept {
  return (value + unit - 1) / unit * unit;
}

/// Whole pages from 4 KiB on, so that a large block can be cut off without its neighbours.
constexpr std::int64_t granted_bytes(std::int64_t bytes) noexcept {
  return bytes < kPage ? round_up(std::max<std::int64_t>(bytes, 1), kGrain)
                       : round_up(bytes, kPage);
}

std::string readable(std::int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

struct Range {
  Offset begin;
  Offset end;
};

struct SlabRun {
  int first;
  int last;  // inclusive
  [[nodiscard]] bool holds(const SlabRun& other) const noexcept {
    return first <= other.first && other.last <= last;
  }
};

struct Registration {
  SlabRun run;
  void* handle;
};

}  // namespace

/// Everything under one mutex.
struct Pool::State {
  struct Slab {
    std::int32_t blocks = 0;  // that touch it
    bool committed = false;
  };

  State(Arena& the_arena, int local_rank, std::int64_t limit)
      : arena(the_arena),
        begin(the_arena.pool_begin(local_rank)),
        slabs(static_cast<std::size_t>(round_up(limit, kSlabBytes) / kSlabBytes)) {
    use.limit_bytes = limit / kGrain * kGrain;
    free.give(begin, use.limit_bytes);
  }

  [[nodiscard]] SlabRun slabs_of(Offset offset, std::int64_t bytes) const noexcept {
    return {static_cast<int>((offset - begin) / kSlabBytes),
            static_cast<int>((offset + std::max<std::int64_t>(bytes, 1) - 1 - begin) / kSlabBytes)};
  }
  [[nodiscard]] Offset slab_begin(int slab) const noexcept { return begin + slab * kSlabBytes; }
  [[nodiscard]] bool idle(int slab) const noexcept {
    return slabs[slab].committed && slabs[slab].blocks == 0;
  }

  Status commit(SlabRun run) noexcept;
  void decommit(SlabRun run) noexcept;
  void occupy(SlabRun run) noexcept;
  void vacate(SlabRun run) noexcept;
  void trim(std::int64_t reserve_bytes) noexcept;
  void deregister_idle_runs() noexcept;
  void deregister_all() noexcept;
  std::int64_t forget_block(Offset block) noexcept;
  void give_unless_retired(Offset offset, std::int64_t bytes) noexcept;

  Arena& arena;
  const Offset begin;
  mutable std::mutex mutex;
  FreeRanges free;
  std::unordered_map<Offset, std::int64_t> blocks;  // handed out: begin -> bytes
  std::vector<Range> retired;                       // whole pages, never handed out again
  std::vector<Slab> slabs;
  std::int64_t idle_bytes = 0;  // of committed slabs without blocks
  PoolUse use;
  Registrar* registrar = nullptr;
  std::vector<Registration> registrations;
};

/// Commits what is not yet, in runs as long as possible (one system call each).
Status Pool::State::commit(SlabRun run) noexcept {
  for (int first = run.first; first <= run.last; ++first) {
    if (slabs[first].committed) continue;
    int end = first + 1;
    while (end <= run.last && !slabs[end].committed) ++end;
    const std::int64_t bytes = (end - first) * kSlabBytes;
    const Status status = arena.commit(slab_begin(first), bytes);
    if (!status.ok()) {
      arena.decommit(slab_begin(first), bytes);  // a part may have got huge pages before the end
      return status;
    }
    for (int slab = first; slab < end; ++slab) slabs[slab].committed = true;
    use.committed_bytes += bytes;
    idle_bytes += bytes;
    first = end;  // committed, or past the run
  }
  return kOkStatus;
}

void Pool::State::decommit(SlabRun run) noexcept {
  const std::int64_t bytes = (run.last - run.first + 1) * kSlabBytes;
  arena.decommit(slab_begin(run.first), bytes);
  for (int slab = run.first; slab <= run.last; ++slab) slabs[slab].committed = false;
  use.committed_bytes -= bytes;
  idle_bytes -= bytes;
}

void Pool::State::occupy(SlabRun run) noexcept {
  for (int slab = run.first; slab <= run.last; ++slab) {
    if (slabs[slab].blocks++ == 0) idle_bytes -= kSlabBytes;
  }
}

void Pool::State::vacate(SlabRun run) noexcept {
  for (int slab = run.first; slab <= run.last; ++slab) {
    if (--slabs[slab].blocks == 0) idle_bytes += kSlabBytes;
  }
}

/// A registration goes when all of its slabs are idle: until then a block in one of them may be
/// under a device's hands through it.
void Pool::State::deregister_idle_runs() noexcept {
  std::erase_if(registrations, [this](const Registration& registration) {
    for (int slab = registration.run.first; slab <= registration.run.last; ++slab) {
      if (!idle(slab)) return false;
    }
    registrar->deregister_memory(registration.handle);
    return true;
  });
}

void Pool::State::deregister_all() noexcept {
  for (const Registration& registration : registrations) {
    registrar->deregister_memory(registration.handle);
  }
  registrations.clear();
}

/// Decommits idle slabs, the highest first, until no more than the reserve is idle. Slabs that a
/// remaining registration pins stay.
void Pool::State::trim(std::int64_t reserve_bytes) noexcept {
  if (idle_bytes <= reserve_bytes) return;
  deregister_idle_runs();
  const auto may_go = [this](int slab) {
    return idle(slab) && std::none_of(registrations.begin(), registrations.end(),
                                      [slab](const Registration& registration) {
                                        return registration.run.holds({slab, slab});
                                      });
  };
  for (int last = static_cast<int>(slabs.size()) - 1; last >= 0 && idle_bytes > reserve_bytes;
       --last) {
    if (!may_go(last)) continue;
    int first = last;
    std::int64_t left = idle_bytes - kSlabBytes;
    for (; first > 0 && left > reserve_bytes && may_go(first - 1); --first) left -= kSlabBytes;
    decommit({first, last});
    last = first;
  }
}

std::int64_t Pool::State::forget_block(Offset block) noexcept {
  const auto found = blocks.find(block);
  SHOAL_ASSERT(found != blocks.end() && "a block of this pool, freed once");
  const std::int64_t bytes = found->second;
  blocks.erase(found);
  use.used_bytes -= bytes;
  --use.blocks;
  return bytes;
}

void Pool::State::give_unless_retired(Offset offset, std::int64_t bytes) noexcept {
  free.give(offset, bytes);
  for (const Range& range : retired) free.remove(range.begin, range.end - range.begin);
}

Pool::Pool(Arena& arena, int local_rank, std::int64_t limit_bytes) {
  SHOAL_ASSERT(local_rank >= 0 && local_rank < arena.shape().ranks);
  SHOAL_ASSERT(limit_bytes >= 0 && limit_bytes <= arena.shape().slice_bytes - kHeaderBytes);
  state_ = std::make_unique<State>(arena, local_rank, limit_bytes);
}

/// Blocks still handed out keep their pages; the arena's owner may outlive the pool.
Pool::~Pool() {
  const std::lock_guard lock(state_->mutex);
  state_->deregister_all();
  state_->trim(0);
}

Result<Offset> Pool::allocate(std::int64_t bytes, std::int64_t alignment) noexcept {
  SHOAL_ASSERT(bytes >= 0 && alignment > 0 && alignment <= kPage &&
               (alignment & (alignment - 1)) == 0);
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  if (bytes > state.use.limit_bytes) return Status{ErrorCode::kOutOfMemory};  // may not round up
  const std::int64_t granted = granted_bytes(bytes);
  const Offset block =
      state.free.take(granted, granted >= kPage ? kPage : std::max(alignment, kGrain));
  if (block == kNoOffset) return Status{ErrorCode::kOutOfMemory};
  const SlabRun run = state.slabs_of(block, granted);
  const Status status = state.commit(run);
  if (!status.ok()) {
    state.free.give(block, granted);
    return status;
  }
  state.occupy(run);
  state.blocks.emplace(block, granted);
  PoolUse& use = state.use;
  use.used_bytes += granted;
  use.peak_bytes = std::max(use.peak_bytes, use.used_bytes);
  ++use.blocks;
  return block;
}

void Pool::free(Offset block) noexcept {
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  const std::int64_t bytes = state.forget_block(block);
  state.give_unless_retired(block, bytes);
  state.vacate(state.slabs_of(block, bytes));
  state.trim(kPoolReserveBytes);
}

/// The block's pages leave the free ranges too: in this mapping they are no longer the arena's. Its
/// slabs keep the count of it and so are never decommitted.
void Pool::retire(Offset block) noexcept {
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  const std::int64_t bytes = state.forget_block(block);
  const Range pages{block / kPage * kPage, round_up(block + bytes, kPage)};
  state.retired.push_back(pages);
  state.free.remove(pages.begin, pages.end - pages.begin);
}

PoolUse Pool::use() const noexcept {
  const std::lock_guard lock(state_->mutex);
  return state_->use;
}

std::string Pool::explain_out_of_memory(std::int64_t asked_bytes) const {
  const std::lock_guard lock(state_->mutex);
  const PoolUse& use = state_->use;
  const std::string asked = "pool: asked " + readable(asked_bytes) + ", ";
  if (asked_bytes > use.limit_bytes - use.used_bytes) {
    return asked + readable(use.used_bytes) + " of the limit of " + readable(use.limit_bytes) +
           " are in use; raise it with " + kLimitSetting + ", or free arrays";
  }
  if (granted_bytes(asked_bytes) > state_->free.largest()) {
    return asked + "the largest free piece is " + readable(state_->free.largest()) + " (" +
           readable(use.used_bytes) + " of " + readable(use.limit_bytes) +
           " in use, in pieces); free arrays, or raise the limit with " + kLimitSetting;
  }
  const HostRoom room = host_room();
  return asked + "there is room below the pool's limit of " + readable(use.limit_bytes) +
         " but the machine has " + readable(room.bytes) + " left (" + room.limit +
         "); raise that limit or use less memory";
}

void Pool::set_registrar(Registrar* registrar) noexcept {
  const std::lock_guard lock(state_->mutex);
  state_->deregister_all();
  state_->registrar = registrar;
}

void* Pool::registration(const void* data, std::int64_t bytes) noexcept {
  State& state = *state_;
  const Offset offset = state.arena.offset_of(data, bytes);
  const std::lock_guard lock(state.mutex);
  const Offset end = state.begin + state.use.limit_bytes;
  if (state.registrar == nullptr || offset < state.begin || offset + bytes > end) return nullptr;
  const SlabRun run = state.slabs_of(offset, bytes);
  for (const Registration& registration : state.registrations) {
    if (registration.run.holds(run)) return registration.handle;
  }
  for (int slab = run.first; slab <= run.last; ++slab) {
    if (state.slabs[slab].blocks == 0) return nullptr;  // not handed out: pinning would commit it
  }
  const Result<void*> handle = state.registrar->register_memory(
      state.arena.at(state.slab_begin(run.first)), (run.last - run.first + 1) * kSlabBytes);
  if (!handle.ok() || handle.value() == nullptr) return nullptr;
  state.registrations.push_back({run, handle.value()});
  return handle.value();
}

}  // namespace shoal::memory
