/// Where an operation finds its buffers at this rank: the user's memory as it is or, where a
/// schedule cannot take it so, pool blocks that stand for it. Scratch is always a pool block.
/// Blocks are kept from one operation to the next.
///
/// A side that has one block a rank (the input of a scatter, at its root) may be a list: each block
/// lies somewhere else. What ranks of the node want of it they find by a table of the blocks'
/// offsets, at the beginning of this rank's scratch.
#pragma once

#include <cstdint>
#include <vector>

#include "exec/call.h"
#include "exec/group.h"
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
  void begin(const Call& call) noexcept {
    spaces_[static_cast<int>(schedule::Space::kInput)] =
        static_cast<std::byte*>(const_cast<void*>(call.input));
    spaces_[static_cast<int>(schedule::Space::kOutput)] = static_cast<std::byte*>(call.output);
    is_private_ = input_.staged = output_.staged = false;
    if (has_lists_ || call.has_lists()) [[unlikely]] {
      begin_lists(call);
    }
  }
  /// Makes them what a schedule of `plan` needs. False: the pool has no room.
  bool prepare(const Plan& plan, const Binding& binding) noexcept;

  /// Of a space that lies in one piece: no list, or one that is staged.
  [[nodiscard]] std::byte* at(schedule::Space which) const noexcept {
    return spaces_[static_cast<int>(which)];
  }
  /// The byte at `offset` of a space.
  [[nodiscard]] std::byte* at(schedule::Space which, std::int64_t offset) const noexcept {
    std::byte* const* const list = lists_[static_cast<int>(which)];
    if (list != nullptr) [[unlikely]] {
      return in_list(list, offset);
    }
    return at(which) + offset;
  }
  /// Copies up to `most` bytes from `offset` on between an input or output as the user gave it and
  /// the pool block that stands for it. How many: as far as the user's memory is in one piece.
  std::int64_t copy_staged(const Call& call, schedule::Space which, std::int64_t offset,
                           std::int64_t most) const noexcept;

  /// Of the user's call: a side is one.
  [[nodiscard]] bool has_lists() const noexcept { return has_lists_; }
  /// What the others should see is not in the arena: the schedule takes it as it is ...
  [[nodiscard]] bool is_private() const noexcept { return is_private_; }
  /// ... or it is copied into a pool block before the operation, out of one after it.
  [[nodiscard]] bool stages_input() const noexcept { return input_.staged; }
  [[nodiscard]] bool stages_output() const noexcept { return output_.staged; }

  /// Where the others find them, by the entry line; tables of lists are written.
  [[nodiscard]] transport::shm::Places places(const Plan& plan,
                                              const memory::Arena& arena) const noexcept;
  /// kNoOffset: there is none.
  [[nodiscard]] memory::Offset scratch_offset() const noexcept;

  /// After an error others may still write the user's output: what they store there from now on
  /// does not arrive.
  void cut_off_output(const Plan& plan, memory::Arena& arena) const noexcept;
  /// Those of more than `bytes`.
  void give_back(std::int64_t bytes) noexcept {
    for (Block* block : {&input_.stand_in, &output_.stand_in, &scratch_block_}) {
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
  struct Side {
    bool staged = false;
    std::vector<std::byte*> list;  ///< as the user gave it; empty: it lies in one piece
    Block stand_in;                ///< for what is staged
  };

  [[nodiscard]] const Side& side(schedule::Space which) const noexcept {
    return which == schedule::Space::kInput ? input_ : output_;
  }
  [[nodiscard]] std::byte* in_list(std::byte* const* list, std::int64_t offset) const noexcept {
    return list[offset / block_bytes_] + offset % block_bytes_;
  }
  [[gnu::cold]] void begin_lists(const Call& call) noexcept;
  [[nodiscard]] bool is_outside(const memory::Arena& arena, schedule::Space which,
                                std::int64_t bytes) const noexcept;
  [[nodiscard]] std::int64_t table_bytes() const noexcept;
  [[gnu::cold]] void write_tables(const memory::Arena& arena,
                                  transport::shm::Places& places) const noexcept;
  bool reserve(Block& block, std::int64_t bytes) noexcept;
  bool reserve_scratch(std::int64_t bytes) noexcept;
  void drop(Block& block, bool retire) noexcept;

  memory::Pool* pool_;
  std::byte* spaces_[3] = {};  ///< by schedule::Space
  /// Of those that are lists and not staged; by schedule::Space.
  std::byte* const* lists_[3] = {};
  std::int64_t block_bytes_ = 0;  ///< of a list
  bool has_lists_ = false;
  bool is_private_ = false;
  Side input_, output_;
  Block scratch_block_;
  std::int64_t scratch_begin_ = 0, scratch_end_ = 0;  ///< of this operation, in its block
};

}  // namespace shoal::exec
