/// Where an operation finds its buffers at this rank: the user's memory as it is or, where ranks of
/// the node are to reach what is not in the arena, pool blocks that stand for it. Scratch is always
/// a pool block. Blocks are kept from one operation to the next.
#pragma once

#include <cstdint>

#include "exec/group.h"
#include "exec/plan.h"
#include "memory/pool.h"
#include "schedule/catalog.h"

namespace shoal::exec {

/// One operation at a time.
class Buffers {
 public:
  explicit Buffers(memory::Pool& pool) noexcept : pool_(&pool) {}
  ~Buffers() { give_back(0); }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  /// Of the next operation, as the user gave them. The input is never written.
  void begin(const void* input, void* output) noexcept {
    spaces_[static_cast<int>(schedule::Space::kInput)] =
        static_cast<std::byte*>(const_cast<void*>(input));
    spaces_[static_cast<int>(schedule::Space::kOutput)] = static_cast<std::byte*>(output);
    is_private_ = stages_input_ = stages_output_ = false;
  }
  /// Makes them what a schedule of `plan` needs. False: the pool has no room.
  bool prepare(const Plan& plan, const Binding& binding) noexcept;

  [[nodiscard]] std::byte* at(schedule::Space which) const noexcept {
    return spaces_[static_cast<int>(which)];
  }
  /// What the others should see is not in the arena: the schedule takes it as it is ...
  [[nodiscard]] bool is_private() const noexcept { return is_private_; }
  /// ... or it is copied into a pool block before the operation, out of one after it.
  [[nodiscard]] bool stages_input() const noexcept { return stages_input_; }
  [[nodiscard]] bool stages_output() const noexcept { return stages_output_; }

  /// Where the others find them, by the entry line.
  [[nodiscard]] transport::shm::Places places(const Plan& plan,
                                              const memory::Arena& arena) const noexcept;
  /// kNoOffset: there is none.
  [[nodiscard]] memory::Offset scratch_offset() const noexcept;

  /// Those of more than `bytes`.
  void give_back(std::int64_t bytes) noexcept {
    for (Block* block : {&input_block_, &output_block_, &scratch_block_}) {
      if (block->bytes > bytes) drop(*block, false);
    }
  }
  /// Gives back all but those that others may still write, which are never used again.
  void abandon(bool staged, bool scratch) noexcept;

 private:
  struct Block {
    memory::Offset offset = memory::kNoOffset;
    std::int64_t bytes = 0;
  };

  bool reserve(Block& block, std::int64_t bytes) noexcept;
  bool reserve_scratch(std::int64_t bytes) noexcept;
  void drop(Block& block, bool retire) noexcept;

  memory::Pool* pool_;
  std::byte* spaces_[3] = {};  ///< by schedule::Space
  bool is_private_ = false;
  bool stages_input_ = false;
  bool stages_output_ = false;
  Block input_block_, output_block_, scratch_block_;
  std::int64_t scratch_begin_ = 0, scratch_end_ = 0;  ///< of this operation, in its block
};

}  // namespace shoal::exec
