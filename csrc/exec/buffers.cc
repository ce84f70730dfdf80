#include "exec/buffers.h"

#include <algorithm>

#include "reduce/reduce.h"

namespace shoal::exec {

using schedule::Space;

void Buffers::begin_lists(const Call& call) noexcept {
  const Plan& plan = *call.plan;
  has_lists_ = call.has_lists();
  block_bytes_ = plan.key.count * plan.element_bytes;
  const auto take = [&](Space which, Side& side, void* const* list, int blocks) {
    side.list.clear();
    for (int k = 0; list != nullptr && k < blocks; ++k) {
      side.list.push_back(static_cast<std::byte*>(list[k]));
    }
    lists_[static_cast<int>(which)] = side.list.empty() ? nullptr : side.list.data();
  };
  take(Space::kInput, input_, call.input_list, schedule::input_blocks(plan.shape));
  take(Space::kOutput, output_, call.output_list, schedule::output_blocks(plan.shape));
}

bool Buffers::is_outside(const memory::Arena& arena, Space which,
                         std::int64_t bytes) const noexcept {
  if (bytes == 0) return false;
  if (lists_[static_cast<int>(which)] == nullptr) {
    return arena.offset_of(at(which), bytes) == memory::kNoOffset;
  }
  return std::ranges::any_of(side(which).list, [&](const std::byte* block) {
    return arena.offset_of(block, block_bytes_) == memory::kNoOffset;
  });
}

bool Buffers::prepare(const Plan& plan, const Binding& binding) noexcept {
  const memory::Arena& arena = binding.arena();
  std::byte* const*& input_list = lists_[static_cast<int>(Space::kInput)];
  std::byte* const*& output_list = lists_[static_cast<int>(Space::kOutput)];
  std::int64_t staged = 0;
  if (has_lists_ && !plan.takes_lists()) [[unlikely]] {
    input_.staged = input_list != nullptr;
    output_.staged = output_list != nullptr;
    if (plan.slot_bytes == 0) {  // what is small is copied wherever it lies
      staged = (input_.staged ? plan.input_bytes : 0) + (output_.staged ? plan.output_bytes : 0);
    }
  }
  if (plan.form == Form::kSchedule && plan.shares_buffers && binding.node.ranks() > 1) {
    const bool input_outside = !input_.staged && is_outside(arena, Space::kInput, plan.input_bytes);
    const bool output_outside =
        !output_.staged && is_outside(arena, Space::kOutput, plan.output_bytes);
    if (plan.takes_private_memory()) {
      is_private_ = input_outside || output_outside;
    } else {
      input_.staged = input_.staged || input_outside;
      output_.staged = output_.staged || output_outside;
    }
    staged += (input_outside ? plan.input_bytes : 0) + (output_outside ? plan.output_bytes : 0);
  }
  if (staged > 0) binding.shm->count_staged(staged);
  std::int64_t scratch = std::max(plan.program.scratch_bytes, plan.staged.scratch_bytes);
  if (has_lists_) [[unlikely]] {
    scratch = std::max(scratch, table_bytes());
  }
  const bool has_room = (!input_.staged || reserve(input_.stand_in, plan.input_bytes)) &&
                        (!output_.staged || reserve(output_.stand_in, plan.output_bytes)) &&
                        (scratch == 0 || reserve_scratch(scratch));
  if (!has_room) return false;
  if (input_.staged) {
    spaces_[static_cast<int>(Space::kInput)] = arena.at(input_.stand_in.offset);
    input_list = nullptr;
  }
  if (output_.staged) {
    spaces_[static_cast<int>(Space::kOutput)] = arena.at(output_.stand_in.offset);
    output_list = nullptr;
  }
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

std::int64_t Buffers::copy_staged(const Call& call, Space which, std::int64_t offset,
                                  std::int64_t most) const noexcept {
  const bool is_input = which == Space::kInput;
  const std::vector<std::byte*>& list = side(which).list;
  std::byte* given = nullptr;
  if (list.empty()) {
    given =
        static_cast<std::byte*>(is_input ? const_cast<void*>(call.input) : call.output) + offset;
  } else {
    given = in_list(list.data(), offset);
    most = std::min(most, block_bytes_ - offset % block_bytes_);
  }
  std::byte* const block = at(which) + offset;
  reduce::copy(is_input ? block : given, is_input ? given : block, most);
  return most;
}

std::int64_t Buffers::table_bytes() const noexcept {
  return static_cast<std::int64_t>((input_.list.size() + output_.list.size()) *
                                   sizeof(memory::Offset));
}

transport::shm::Places Buffers::places(const Plan& plan,
                                       const memory::Arena& arena) const noexcept {
  using namespace transport::shm;
  // Nobody looks at buffers where a rank's memory is private, and then its scratch is in use.
  if (is_private_) return {memory::kNoOffset, memory::kNoOffset, scratch_offset(), kPrivate};
  const auto place_of = [&](Space which, std::int64_t bytes) {
    return bytes == 0 ? memory::kNoOffset : arena.offset_of(at(which), bytes);
  };
  Places places{place_of(Space::kInput, plan.input_bytes),
                place_of(Space::kOutput, plan.output_bytes), scratch_offset(), 0};
  if (has_lists_) [[unlikely]] {
    write_tables(arena, places);
  }
  return places;
}

void Buffers::write_tables(const memory::Arena& arena,
                           transport::shm::Places& places) const noexcept {
  using namespace transport::shm;
  memory::Offset next = scratch_offset();
  const auto write = [&](Space which, const Side& side, memory::Offset& place, PlaceFlag flag) {
    if (lists_[static_cast<int>(which)] == nullptr) return;
    place = next;
    places.flags |= flag;
    for (const std::byte* block : side.list) {
      *reinterpret_cast<memory::Offset*>(arena.at(next)) = arena.offset_of(block, block_bytes_);
      next += static_cast<memory::Offset>(sizeof(memory::Offset));
    }
  };
  write(Space::kInput, input_, places.input, kInputList);
  write(Space::kOutput, output_, places.output, kOutputList);
}

void Buffers::cut_off_output(const Plan& plan, memory::Arena& arena) const noexcept {
  const auto cut_off = [&](const std::byte* data, std::int64_t bytes) {
    const memory::Offset at = arena.offset_of(data, bytes);
    if (at != memory::kNoOffset) (void)arena.cut_off(at, bytes);
  };
  if (output_.staged || plan.output_bytes == 0) return;
  if (!output_.list.empty()) {
    for (const std::byte* block : output_.list) cut_off(block, block_bytes_);
  } else if (at(Space::kOutput) != nullptr) {
    cut_off(at(Space::kOutput), plan.output_bytes);
  }
}

memory::Offset Buffers::scratch_offset() const noexcept {
  return at(Space::kScratch) == nullptr ? memory::kNoOffset
                                        : scratch_block_.offset + scratch_begin_;
}

void Buffers::abandon(bool staged, bool scratch) noexcept {
  for (Block* block : {&input_.stand_in, &output_.stand_in}) drop(*block, staged);
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
