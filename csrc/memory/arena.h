/// One sparse memfd per node, mapped once by every local rank.
///
///   | slice of local rank 0 | slice of local rank 1 | ... |      slice = | header | pool ... |
///
/// An address is base + offset; offsets mean the same in every rank's mapping. The header of a
/// slice (kHeaderBytes) belongs to transport/shm and the progress page; the rest is the rank's
/// pool.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/fd.h"
#include "core/status.h"

namespace shoal::memory {

/// Offset in an arena. Same meaning in every rank.
using Offset = std::int64_t;
inline constexpr Offset kNoOffset = -1;

struct ArenaShape {
  int ranks = 1;                 ///< local ranks
  std::int64_t slice_bytes = 0;  ///< multiple of kSlabBytes; kHeaderBytes of it are the header
};

/// Unit of commitment and registration.
inline constexpr std::int64_t kSlabBytes = 2 << 20;
/// Control memory at the start of each slice.
inline constexpr std::int64_t kHeaderBytes = 8 << 20;

/// Owns this process's mappings of the arena. Any thread, after construction; cut_off() one thread
/// at a time.
///
/// The memfd has no name in any file system and goes with its last mapping and fd: nothing stays
/// behind after kill -9. Pages come from the NUMA node of the thread that commits them, and are
/// huge where the system grants them (placement.h).
class Arena {
 public:
  /// Creates the memfd (sealed: its size never changes), sparse, with an abi::ArenaHeader that
  /// carries `job` (cut at 63 bytes). The creator passes fd() on. kInvalidArgument: shape;
  /// kSystem: detail = errno.
  static Result<Arena> create(const ArenaShape& shape, std::string_view job = {}) noexcept;
  /// Maps an arena that another rank has created. Takes the fd. kBootstrap: it is not a sealed
  /// arena of that shape and version.
  static Result<Arena> open(Fd fd, const ArenaShape& shape) noexcept;

  Arena() noexcept = default;
  Arena(Arena&&) noexcept;
  Arena& operator=(Arena&&) noexcept;
  ~Arena();

  [[nodiscard]] const ArenaShape& shape() const noexcept { return shape_; }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] std::byte* base() const noexcept { return base_; }
  [[nodiscard]] std::byte* at(Offset offset) const noexcept { return base_ + offset; }
  /// Maps the arena once more, for reading only, where views lie: whoever writes through one gets
  /// SIGSEGV, whatever numpy's flags or another library think. kOutOfMemory or kSystem, detail =
  /// errno.
  [[nodiscard]] Status map_read_only() noexcept;
  /// Address in that mapping, which has been made; what cut_off() does is not seen through it.
  [[nodiscard]] const std::byte* read_only_at(Offset offset) const noexcept {
    // acquire: pairs with the release in map_read_only()
    return read_only_.load(std::memory_order_acquire) + offset;
  }
  [[nodiscard]] bool has_read_only_mapping() const noexcept {
    return read_only_.load(std::memory_order_relaxed) != nullptr;
  }
  [[nodiscard]] bool is_read_only(const void* data) const noexcept {
    const std::byte* base = read_only_.load(std::memory_order_acquire);
    return base != nullptr &&
           reinterpret_cast<std::uintptr_t>(data) - reinterpret_cast<std::uintptr_t>(base) < size_;
  }
  [[nodiscard]] Offset slice_begin(int local_rank) const noexcept {
    return local_rank * shape_.slice_bytes;
  }
  [[nodiscard]] Offset pool_begin(int local_rank) const noexcept {
    return slice_begin(local_rank) + kHeaderBytes;
  }
  /// Offset of [data, data + bytes) if it lies wholly inside and has not been cut off, else
  /// kNoOffset.
  [[nodiscard]] Offset offset_of(const void* data, std::int64_t bytes) const noexcept {
    const std::uint64_t begin =
        reinterpret_cast<std::uintptr_t>(data) - reinterpret_cast<std::uintptr_t>(base_);
    const std::uint64_t length = static_cast<std::uint64_t>(bytes);
    if (begin >= size_ || length > size_ - begin) return kNoOffset;
    // acquire: pairs with the release in cut_off()
    const CutOff* cuts = cut_off_.load(std::memory_order_acquire);
    const Offset offset = static_cast<Offset>(begin);
    return cuts == nullptr || !touches(cuts, offset, bytes) ? offset : kNoOffset;
  }

  /// Gives pages to [offset, offset + bytes) before anyone touches them, so that a full node is an
  /// error here and never SIGBUS later. Asking for more than the node or a cgroup has left is
  /// refused before it could end in the OOM killer. kOutOfMemory or kSystem, detail = errno.
  [[nodiscard]] Status commit(Offset offset, std::int64_t bytes) noexcept;
  /// Gives the pages back; their content is lost.
  void decommit(Offset offset, std::int64_t bytes) noexcept;

  /// Replaces the pages of [offset, offset + bytes) in *this* mapping by private copies of them:
  /// what other ranks store there later does not arrive here. The range, rounded outward to whole
  /// pages, leaves the arena for good (offset_of() no longer finds it) and must not be handed out
  /// again. About 0.5 ms a MiB. kOutOfMemory or kSystem, detail = errno: nothing has changed.
  [[nodiscard]] Status cut_off(Offset offset, std::int64_t bytes) noexcept;

 private:
  struct CutOff;  // one range that was cut off, and the next; immutable once linked
  static bool touches(const CutOff* cuts, Offset offset, std::int64_t bytes) noexcept;
  static Result<Arena> map(Fd fd, const ArenaShape& shape) noexcept;
  void unmap() noexcept;

  Fd fd_;
  ArenaShape shape_{};
  std::byte* base_ = nullptr;
  std::uint64_t size_ = 0;
  std::atomic<CutOff*> cut_off_{nullptr};
  std::atomic<std::byte*> read_only_{nullptr};  // the second mapping, once somebody needs it
};

}  // namespace shoal::memory
