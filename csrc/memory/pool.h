/// Hands out aligned blocks of one rank's slice of an arena.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "memory/arena.h"
#include "memory/registrar.h"

namespace shoal::memory {

struct PoolUse {
  std::int64_t used_bytes = 0;       ///< in blocks that are handed out
  std::int64_t committed_bytes = 0;  ///< pages held
  std::int64_t peak_bytes = 0;       ///< largest used_bytes ever
  std::int64_t limit_bytes = 0;      ///< what the pool may grow to
  std::int64_t blocks = 0;           ///< handed out now
};

/// What a pool keeps of slabs without blocks, so that a loop that allocates and frees does not pay
/// for pages each time (about 0.3 ms a MiB).
inline constexpr std::int64_t kPoolReserveBytes = 64 << 20;

/// Best fit with coalescing; what is known of blocks lies in private memory, never beside them.
/// Blocks of 4 KiB and more are whole pages, so that cutting one off (Arena::cut_off) takes no
/// neighbour with it; cutting off a smaller one also ends sharing for
/// its neighbours in the page.
///
/// Any thread (a mutex of this process; not used on the data path after a Run has its scratch).
class Pool {
 public:
  /// `limit_bytes` <= the slice's pool part. The arena outlives the pool.
  Pool(Arena& arena, int local_rank, std::int64_t limit_bytes);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  /// A block of at least `bytes` (0 counts as 1), aligned to `alignment` (power of two, at most
  /// 4096; blocks of 4 KiB and more are page-aligned). Pages are committed here, slab by slab:
  /// first use costs, reuse does not. kOutOfMemory: see explain_out_of_memory().
  Result<Offset> allocate(std::int64_t bytes, std::int64_t alignment = 64) noexcept;
  /// Gives a block back (anything but a block of this pool is a bug: assertion). Slabs without
  /// blocks are decommitted beyond kPoolReserveBytes.
  void free(Offset block) noexcept;
  /// Like free(), but the block is never handed out again (it was cut off).
  void retire(Offset block) noexcept;

  [[nodiscard]] PoolUse use() const noexcept;
  /// "pool: asked 4.0 GiB, 1.2 GiB of the limit of 4.0 GiB are in use; raise it with ..." or, where
  /// the node or a cgroup has no pages left, which limit that is.
  [[nodiscard]] std::string explain_out_of_memory(std::int64_t asked_bytes) const;

  /// From now on slabs are registered on demand. nullptr: stop, deregister all.
  void set_registrar(Registrar* registrar) noexcept;
  /// Handle of the slab group that holds [data, data + bytes), registering it first if needed;
  /// nullptr if it is not a block of this pool or cannot be registered. It stays valid while the
  /// block is not freed (and set_registrar() not called).
  void* registration(const void* data, std::int64_t bytes) noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shoal::memory
