/// One sparse memfd per node, mapped once by every local rank.
///
///   | slice of local rank 0 | slice of local rank 1 | ... |      slice = | header | pool ... |
///
/// An address is base + offset; offsets mean the same in every rank's mapping. The header of a
/// slice (kHeaderBytes) belongs to transport/shm and the progress page; the rest is the rank's pool.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/fd.h"
#include "core/status.h"

namespace shoal::memory {

/// Offset in an arena. Same meaning in every rank.
using Offset = std::int64_t;
inline constexpr Offset kNoOffset = -1;

struct ArenaShape {
  int ranks = 1;                  ///< local ranks
  std::int64_t slice_bytes = 0;   ///< multiple of kSlabBytes; kHeaderBytes of it are the header
};

/// Unit of commitment and registration.
inline constexpr std::int64_t kSlabBytes = 2 << 20;
/// Control memory at the start of each slice.
inline constexpr std::int64_t kHeaderBytes = 8 << 20;

/// Owns one mapping of the arena. Any thread, after construction; cut_off() one thread at a time.
class Arena {
 public:
  /// Creates the memfd (sealed against shrinking), sized and sparse. The creator passes fd() on.
  static Result<Arena> create(const ArenaShape& shape) noexcept;
  /// Maps an arena that another rank has created. Takes the fd.
  static Result<Arena> open(Fd fd, const ArenaShape& shape) noexcept;

  Arena() noexcept = default;
  Arena(Arena&&) noexcept;
  Arena& operator=(Arena&&) noexcept;
  ~Arena();

  [[nodiscard]] const ArenaShape& shape() const noexcept { return shape_; }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] std::byte* base() const noexcept { return base_; }
  [[nodiscard]] std::byte* at(Offset offset) const noexcept { return base_ + offset; }
  [[nodiscard]] Offset slice_begin(int local_rank) const noexcept {
    return local_rank * shape_.slice_bytes;
  }
  [[nodiscard]] Offset pool_begin(int local_rank) const noexcept {
    return slice_begin(local_rank) + kHeaderBytes;
  }
  /// Offset of [data, data + bytes) if it lies wholly inside and has not been cut off, else
  /// kNoOffset.
  [[nodiscard]] Offset offset_of(const void* data, std::int64_t bytes) const noexcept;

  /// Gives pages to [offset, offset + bytes) before anyone touches them, so that a full node is an
  /// error here and never SIGBUS later. detail = errno.
  [[nodiscard]] Status commit(Offset offset, std::int64_t bytes) noexcept;
  /// Gives the pages back; their content is lost.
  void decommit(Offset offset, std::int64_t bytes) noexcept;

  /// Replaces the pages of [offset, offset + bytes) in *this* mapping by private copies of them:
  /// what other ranks store there later does not arrive here. The range leaves the arena for good
  /// (offset_of() no longer finds it) and must not be handed out again.
  [[nodiscard]] Status cut_off(Offset offset, std::int64_t bytes) noexcept;

 private:
  struct CutOff;  // ranges that were cut off
  Fd fd_;
  ArenaShape shape_{};
  std::byte* base_ = nullptr;
  CutOff* cut_off_ = nullptr;
};

}  // namespace shoal::memory
