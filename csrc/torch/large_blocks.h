/// Ordinary memory that collectives use again and again becomes the pool's.
///
/// What does not lie in the pool is staged: every operation copies each byte once more. Gradient
/// buckets and the like are used at every step. So torch's large blocks of CPU memory are known
/// here from the first process group on; when kUsesBefore operations have used the whole of one,
/// the pages of a pool block, with the same content, take the place of its own: it is *adopted*.
/// Its address stays, and pointers to it with it; operations are given the pool's address of the
/// same pages. When the tensor is freed, its allocator gets pages of its own kind back.
///
/// - Nobody writes while pages change: that is at an operation's end, before anybody is told of it,
///   when no other one uses the block; and only a block of which the operation used the whole.
/// - A forked child gets copies before fork() returns, so that neither sees what the other writes.
/// - An operation that failed because a rank was stopped cuts its pages off the pool
///   (Arena::cut_off); the tensor then gets a copy, so that nothing is written there later.
/// - Pinned memory (cudaHostRegister) is left alone: its device knows its pages.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "shoal/communicator.h"

namespace shoal::torch {

class Job;

/// All that this process knows of; torch has one allocator, too. Any thread.
class LargeBlocks {
 public:
  /// Smaller ones are staged at less than the cost of looking here.
  static constexpr std::size_t kSmallest = 128 << 10;
  /// Then the copies that were made have cost about what adoption does.
  static constexpr int kUsesBefore = 3;

  static LargeBlocks& instance();

  /// A block of at least kSmallest bytes, of `source`'s memory. Address and context are the same,
  /// as torch wants it of memory that may be freed without its DataPtr (raw_deallocate).
  c10::DataPtr allocate(c10::Allocator& source, std::size_t bytes);
  /// The same for a block that is the pool's from the start, of any size.
  c10::DataPtr keep(PoolBlock pages);
  /// Frees such a block. False: it is none.
  bool free(void* address) noexcept;

  /// Where the pool has what lies there; `data` itself if that is not adopted.
  [[nodiscard]] void* pool_address(void* data) noexcept;

  struct Totals {
    std::int64_t blocks = 0, bytes = 0;
  };
  /// Adopted now.
  [[nodiscard]] Totals adopted() noexcept;

 private:
  friend class MemoryUse;

  struct Block {
    std::size_t bytes = 0;
    c10::DataPtr own;    ///< what the source gave; null: the pool's from the start
    PoolBlock pages;     ///< what lies there: of the pool from the start, or adopted
    Job* job = nullptr;  ///< whose pool that is; to be compared only
    int uses = 0;        ///< by operations on the whole of it
    int in_flight = 0;
    bool is_refused = false;

    [[nodiscard]] bool is_adopted() const {
      return own.get() != nullptr && pages.data() != nullptr;
    }
  };
  using Blocks = std::map<std::uintptr_t, Block>;  // by address

  LargeBlocks();
  Blocks::value_type* find(std::uintptr_t address) noexcept;  // mutex_
  void end_use(std::uintptr_t address, bool is_whole, Job* job) noexcept;
  bool adopt(std::uintptr_t address, Block& block, Job& job);
  void leave_pool(std::uintptr_t address, Block& block) noexcept;

  static void delete_block(void* address) noexcept;
  static void before_fork() noexcept;
  static void after_fork_in_parent() noexcept;
  static void after_fork_in_child() noexcept;

  std::mutex mutex_;
  Blocks blocks_;
  Blocks lost_;  ///< freed, and could not be given back
  bool is_forked_ = false;
  int copied_[2] = {-1, -1};  ///< a pipe while a fork is under way: ends when the child has copied
};

/// One operation's use of a tensor's memory, from its call to its end. One thread at a time.
class MemoryUse {
 public:
  /// The tensor outlives it.
  MemoryUse(const at::Tensor& tensor, const std::shared_ptr<Job>& job);
  MemoryUse(MemoryUse&& other) noexcept;
  MemoryUse& operator=(MemoryUse&&) = delete;
  /// It is over, and nobody has been told yet: pages may change.
  ~MemoryUse();

 private:
  std::uintptr_t block_ = 0;  ///< 0: in no large block, or moved from
  bool is_whole_ = false;
  std::weak_ptr<Job> job_;  // a work may be held longer than its job
};

}  // namespace shoal::torch
