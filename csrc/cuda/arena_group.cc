#include "cuda/arena_group.h"

#include <algorithm>
#include <string>

namespace shoal::cuda {

namespace {

/// Kernels that wait for one another must all run at the same time.
int blocks_limit(const Kernels& kernels, const GroupOptions& options) noexcept {
  if (!options.spins) return 0;
  return std::max(1, kernels.multiprocessors() / std::max(1, options.ranks_on_device));
}

Members make_members(DeviceArena& arena, const GroupOptions& options) {
  const Kernels& kernels = arena.kernels();  // throws before anything is lent
  Members members{options.self, static_cast<int>(options.local_ranks.size()), options.spins,
                  blocks_limit(kernels, options)};
  if (options.spins) members.workspace = arena.lend(WorkspaceLayout(members.ranks).bytes());
  return members;
}

}  // namespace

ArenaGroup::ArenaGroup(DeviceArena& arena, const GroupOptions& options)
    : arena_(&arena),
      members_(make_members(arena, options)),
      self_(options.local_ranks[static_cast<std::size_t>(options.self)]),
      group_(arena.context(), arena.kernels(), members_,
             arena.mapped(options.control, ControlLayout(members_.ranks).bytes()), arena.bases()) {}

ArenaGroup::~ArenaGroup() {
  if (members_.spins && group_.leave()) arena_->take_back(members_.workspace);
  arena_->forget(group_);
  for (const Block& block : blocks_) arena_->free(block.address);
}

void ArenaGroup::check(const Outcome& outcome) const {
  require(arena_->context().driver(), outcome);
}

std::uint64_t ArenaGroup::address_of(const Buffer& buffer) const noexcept {
  return buffer.staging == kNone ? buffer.user : blocks_[buffer.staging].address;
}

/// A block that no operation uses any more, or a new one.
std::size_t ArenaGroup::take_block(std::int64_t bytes) {
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const bool is_taken = i == input_.staging;
    if (!is_taken && blocks_[i].bytes >= bytes && group_.is_over(blocks_[i].number)) return i;
  }
  blocks_.push_back({arena_->allocate(bytes), bytes, 0});
  return blocks_.size() - 1;
}

ArenaGroup::Buffer ArenaGroup::find(const GroupCall& call, const char* which, std::uint64_t address,
                                    std::int64_t bytes) {
  Buffer buffer;
  buffer.user = address;
  buffer.bytes = bytes;
  if (bytes == 0) return buffer;
  std::optional<Place> place = arena_->offset_of(address, bytes);
  if (place.has_value()) {
    buffer.is_own = place->local_rank == self_;
  } else {
    arena_->require_device_memory(which, address);
    if (goes_one_shot(call)) return buffer;
    if (way_ == Way::kCaptured) {
      throw Error(ErrorCode::kInvalidArgument,
                  std::string(name_of(call.collective)) + ": " + which +
                      " is not pool memory, which a captured call needs; use "
                      "comm.empty(..., device=\"cuda\")");
    }
    buffer.staging = take_block(bytes);
    place = arena_->offset_of(blocks_[buffer.staging].address, bytes);
  }
  buffer.location = {place->local_rank, place->offset};
  return buffer;
}

bool ArenaGroup::goes_one_shot(const GroupCall& call) const noexcept {
  return way_ == Way::kOrdered &&
         group_.is_one_shot(call.collective, call.count * size_of(call.dtype));
}

DeviceGroup::Way ArenaGroup::prepare(const GroupCall& call) {
  const auto stream = static_cast<CUstream>(call.stream);
  {
    const StreamGuard guard(arena_->context());
    bool captured = false;
    check(ask_captured(arena_->context().driver(), stream, captured));
    way_ = captured ? Way::kCaptured : Way::kOrdered;
  }
  if (way_ == Way::kCaptured && group_.captures_left() == 0) {
    throw Error(ErrorCode::kInvalidArgument,
                std::string(name_of(call.collective)) + ": a communicator has no more than " +
                    std::to_string(group_.captures()) +
                    " captured calls over its life; capture again with one that was split off");
  }
  input_.staging = output_.staging = kNone;
  input_ = find(call, "input", call.input, call.input_bytes);
  output_ = call.output == call.input && call.output_bytes == call.input_bytes
                ? input_
                : find(call, "output", call.output, call.output_bytes);
  call_ = {call.collective,
           call.dtype,
           call.op,
           call.root,
           call.count,
           0,
           0,
           input_.location,
           output_.location,
           address_of(input_),
           address_of(output_),
           stream,
           output_.staging != kNone};
  return way_;
}

void ArenaGroup::copy(std::uint64_t to, std::uint64_t from, std::int64_t bytes) {
  const StreamGuard guard(arena_->context());
  check({"cuMemcpyDtoDAsync", arena_->context().driver().memcpy_dtod_async(
                                  to, from, static_cast<std::size_t>(bytes), call_.stream)});
}

void ArenaGroup::submit(std::uint64_t sequence, std::uint64_t fingerprint) {
  call_.sequence = sequence;
  call_.fingerprint = fingerprint;
  if (way_ == Way::kCaptured) return check(group_.capture(call_));
  const std::uint32_t number = group_.issued() + 1;
  if (input_.staging != kNone) {
    copy(blocks_[input_.staging].address, input_.user, input_.bytes);
    blocks_[input_.staging].number = number;
  }
  if (output_.staging != kNone) blocks_[output_.staging].number = number;
  check(group_.enqueue(call_));
  if (call_.ends_later) {
    copy(output_.user, blocks_[output_.staging].address, output_.bytes);
    check(group_.finish(call_.stream));
  }
  const DeviceArena::Operations by{&group_, number, call_.stream};
  if (input_.is_own) arena_->used(input_.user, by);
  // A call in place may have no input here: a broadcast, but at its root.
  const bool is_same = input_.is_own && output_.user == input_.user;
  if (output_.is_own && !is_same) arena_->used(output_.user, by);
}

}  // namespace shoal::cuda
