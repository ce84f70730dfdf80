#include "exec/buffers.h"

#include <algorithm>

namespace shoal::exec {

using schedule::Space;

bool Buffers::prepare(const Plan& plan, const Binding& binding) noexcept {
  const memory::Arena& arena = binding.arena();
  std::byte*& input = spaces_[static_cast<int>(Space::kInput)];
  std::byte*& output = spaces_[static_cast<int>(Space::kOutput)];
  if (plan.shares_buffers && binding.node.ranks() > 1) {
    const auto is_outside = [&](const std::byte* data, std::int64_t bytes) {
      return bytes > 0 && arena.offset_of(data, bytes) == memory::kNoOffset;
    };
    stages_input_ = is_outside(input, plan.input_bytes);
    stages_output_ = is_outside(output, plan.output_bytes);
    if (stages_input_ || stages_output_) {
      binding.shm->count_staged((stages_input_ ? plan.input_bytes : 0) +
                                (stages_output_ ? plan.output_bytes : 0));
    }
    if (plan.takes_private_memory()) {
      is_private_ = stages_input_ || stages_output_;
      stages_input_ = stages_output_ = false;
    }
  }
  const std::int64_t scratch = std::max(plan.program.scratch_bytes, plan.staged.scratch_bytes);
  const bool has_room = (!stages_input_ || reserve(input_block_, plan.input_bytes)) &&
                        (!stages_output_ || reserve(output_block_, plan.output_bytes)) &&
                        (scratch == 0 || reserve_scratch(scratch));
  if (!has_room) return false;
  if (stages_input_) input = arena.at(input_block_.offset);
  if (stages_output_) output = arena.at(output_block_.offset);
  spaces_[static_cast<int>(Space::kScratch)] =
      scratch_block_.bytes == 0 ? nullptr : arena.at(scratch_block_.offset + scratch_begin_);
  return true;
}

/// Where this rank's buffers are staged, each operation takes the part of the block behind that of
/// the one before.
bool Buffers::reserve_scratch(std::int64_t bytes) noexcept {
  const bool has_room = is_private_ && reserve(scratch_block_, std::max(bytes, kStagingBytes));
  if (!has_room && !reserve(scratch_block_, bytes)) return false;
  scratch_begin_ = scratch_end_;
  if (!is_private_ || scratch_begin_ + bytes > scratch_block_.bytes) scratch_begin_ = 0;
  constexpr std::int64_t kLine = transport::shm::kCacheLine;
  scratch_end_ = (scratch_begin_ + bytes + kLine - 1) / kLine * kLine;
  return true;
}

transport::shm::Places Buffers::places(const Plan& plan,
                                       const memory::Arena& arena) const noexcept {
  const auto place_of = [&](Space which, std::int64_t bytes) {
    return bytes == 0 ? memory::kNoOffset : arena.offset_of(at(which), bytes);
  };
  return {place_of(Space::kInput, plan.input_bytes), place_of(Space::kOutput, plan.output_bytes),
          scratch_offset(), is_private_ ? std::uint64_t{transport::shm::kPrivate} : 0};
}

memory::Offset Buffers::scratch_offset() const noexcept {
  return at(Space::kScratch) == nullptr ? memory::kNoOffset
                                        : scratch_block_.offset + scratch_begin_;
}

void Buffers::abandon(bool staged, bool scratch) noexcept {
  for (Block* block : {&input_block_, &output_block_}) drop(*block, staged);
  drop(scratch_block_, scratch);
}

bool Buffers::reserve(Block& block, std::int64_t bytes) noexcept {
  if (block.bytes >= bytes) return true;
  drop(block, false);
  const Result<memory::Offset> offset = pool_->allocate(bytes);
  if (!offset.ok()) return false;
  block = {offset.value(), bytes};
  return true;
}

void Buffers::drop(Block& block, bool retire) noexcept {
  if (block.bytes == 0) return;
  if (retire) {
    pool_->retire(block.offset);
  } else {
    pool_->free(block.offset);
  }
  block = {};
}

}  // namespace shoal::exec
