#include "exec/run.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "core/assert.h"
#include "core/clock.h"
#include "core/probes.h"
#include "memory/copy.h"
#include "reduce/reduce.h"

namespace shoal::exec {

namespace {

using schedule::kEvery;
using schedule::Ref;
using schedule::Space;
using schedule::StepKind;

/// One poll moves at most this much, so that errors are seen and other runs get their turn.
constexpr std::int64_t kWorkBytes = 512 << 10;
/// A fold into several outputs goes in pieces that stay in the first-level cache.
constexpr std::int64_t kFoldBytes = 8 << 10;
/// Steps of one poll; only schedules of zero-byte messages come near.
constexpr int kStepsPerPoll = 64;
/// Pool blocks larger than this are given back after use.
constexpr std::int64_t kKeptBytes = 16 << 20;
/// How long a rank that does not acknowledge an error is waited for before it is cut off: more than
/// two ticks of the control thread, which acknowledges for ranks outside a call.
constexpr std::int64_t kFenceNs = 250 * kNsPerMs;
/// Silence before the others are asked what they are doing; doubled up to a second.
constexpr std::int64_t kFirstAskNs = 100 * kNsPerMs;
constexpr std::int64_t kLastAskNs = 1000 * kNsPerMs;
/// The network notices a death before the control connection brings its cause: so long it is
/// awaited.
constexpr std::int64_t kLostNs = 1000 * kNsPerMs;

/// Ended by the transport, and not because the sender runs another collective.
bool broken(const transport::Operation& operation) noexcept {
  return operation.done() && !operation.status.ok() &&
         operation.status.code != ErrorCode::kMismatch;
}

}  // namespace

void Run::start(Group& group, const Call& call) noexcept {
  restart();
  group_ = &group;
  call_ = call;
  sequence_ = group.issue(call.plan->fingerprint);
  stage_ = Stage::kQueued;
  step_pending_ = false;
  suspect_ = asked_ = false;
  lost_ns_ = 0;
  stage_input_ = stage_output_ = false;
  cursor_ = 0;
  phase_ = 0;
  steps_ = 0;
  awaited_index_ = 0;
  active_slots_ = 0;
  begin_ns_ = now_ns();
  ask_after_ns_ = kFirstAskNs;
  ask_ns_ = begin_ns_ + kFirstAskNs;
  const Binding& binding = group.binding();
  record_ = &binding.shm->page(binding.shm->self()).operations[sequence_ % abi::kPageOperations];
  record(abi::OperationState::kEntering);
  SHOAL_PROBE(begin, binding.communicator, sequence_, call.plan->fingerprint);
}

void Run::recycle() noexcept { home_->release(*this); }

bool Run::poll(std::int64_t now_ns) noexcept {
  moved_ = false;
  if (stage_ == Stage::kDone) return false;
  if (stage_ != Stage::kFencing) {
    group_->check(this);
    if (!group_->failure().ok()) begin_fencing();
  }
  if (stage_ == Stage::kFencing) return fence(now_ns);
  while (advance()) {
  }
  if (now_ns != 0 && stage_ != Stage::kDone) watch(now_ns);
  return moved_;
}

/// One transition; false: must wait, or is done.
bool Run::advance() noexcept {
  switch (stage_) {
    case Stage::kQueued:
      return group_->may_enter(sequence_) && prepare();
    case Stage::kStaging:
      if (!copy_some(input_, call_.input, call_.plan->input_bytes)) return false;
      enter();
      return true;
    case Stage::kEntering:
      return check_entries();
    case Stage::kRunning:
      return run_steps();
    case Stage::kUnstaging:
      if (!copy_some(call_.output, output_, call_.plan->output_bytes)) return false;
      leave();
      return false;
    case Stage::kFencing:
    case Stage::kDone:
      return false;
  }
  return false;
}

// --- staging and entry -------------------------------------------------------------------------

/// Decides where the schedule finds its buffers.
bool Run::prepare() noexcept {
  const Plan& plan = *call_.plan;
  const Binding& binding = group_->binding();
  input_ = static_cast<std::byte*>(const_cast<void*>(call_.input));  // never written
  output_ = static_cast<std::byte*>(call_.output);
  moved_ = true;
  // Only ranks of the node look into one another's buffers; networks take any memory.
  if (!plan.in_line && binding.node.ranks() > 1) {
    const memory::Arena& arena = binding.arena();
    stage_input_ =
        plan.input_bytes > 0 && arena.offset_of(input_, plan.input_bytes) == memory::kNoOffset;
    stage_output_ =
        plan.output_bytes > 0 && arena.offset_of(output_, plan.output_bytes) == memory::kNoOffset;
  }
  const bool reserved = (!stage_input_ || reserve(input_block_, plan.input_bytes)) &&
                        (!stage_output_ || reserve(output_block_, plan.output_bytes)) &&
                        (plan.scratch_bytes == 0 || reserve(scratch_block_, plan.scratch_bytes));
  if (!reserved) {
    fail({ErrorCode::kOutOfMemory, binding.rank,
          plan.input_bytes + plan.output_bytes + plan.scratch_bytes});
    return false;
  }
  const memory::Arena& arena = binding.arena();
  if (stage_input_) input_ = arena.at(input_block_.offset);
  if (stage_output_) output_ = arena.at(output_block_.offset);
  scratch_ = plan.scratch_bytes == 0 ? nullptr : arena.at(scratch_block_.offset);
  if (stage_input_) {
    stage_ = Stage::kStaging;
  } else {
    enter();
  }
  return true;
}

/// A part of a large copy; true when it is complete.
bool Run::copy_some(void* to, const void* from, std::int64_t bytes) noexcept {
  const std::int64_t n = std::min(kWorkBytes, bytes - cursor_);
  memory::copy_bytes(static_cast<std::byte*>(to) + cursor_,
                     static_cast<const std::byte*>(from) + cursor_, n);
  cursor_ += n;
  moved_ = true;
  if (cursor_ < bytes) return false;
  cursor_ = 0;
  return true;
}

void Run::enter() noexcept {
  const Plan& plan = *call_.plan;
  const Binding& binding = group_->binding();
  stage_ = Stage::kEntering;
  awaited_index_ = 0;
  transport::shm::EntryLine& line = binding.node.entry(sequence_, binding.node.self());
  line.fingerprint = plan.fingerprint;
  line.input = line.output = memory::kNoOffset;
  line.flags = static_cast<std::uint8_t>((stage_input_ ? transport::shm::kStagedInput : 0) |
                                         (stage_output_ ? transport::shm::kStagedOutput : 0));
  line.payload_bytes = 0;
  if (plan.in_line) {
    line.payload_bytes = static_cast<std::uint8_t>(plan.input_bytes);
    memory::copy_bytes(line.payload, input_, plan.input_bytes);  // a barrier has none
  } else if (binding.node.ranks() > 1) {
    const memory::Arena& arena = binding.arena();
    if (plan.input_bytes > 0) line.input = arena.offset_of(input_, plan.input_bytes);
    if (plan.output_bytes > 0) line.output = arena.offset_of(output_, plan.output_bytes);
  }
  binding.node.enter(sequence_);
  binding.ring_node();
}

/// True when every rank of the node has entered, with the same fingerprint.
bool Run::check_entries() noexcept {
  const Binding& binding = group_->binding();
  const auto& node = binding.node;
  for (; awaited_index_ < node.ranks(); ++awaited_index_) {
    if (!node.entered(sequence_, awaited_index_)) return false;
  }
  moved_ = true;
  awaited_index_ = 0;
  const std::uint64_t first = node.entry(sequence_, 0).fingerprint;
  for (int i = 1; i < node.ranks(); ++i) {
    if (node.entry(sequence_, i).fingerprint == first) continue;
    // Nothing has been written. In one node all ranks see the same lines and stay in step, so the
    // communicator lives on; ranks on other nodes cannot know, so there it ends.
    const Status status{ErrorCode::kMismatch, binding.node_members[i], binding.node_members[0]};
    if (!binding.one_node()) {
      fail(status);
      return false;
    }
    const GroupEvents& events = group_->events();
    if (events.explain) set_text(events.explain(this, status) + events.signature);
    stage_ = Stage::kDone;
    group_->complete(sequence_);
    record(abi::OperationState::kFailed);
    finish(status);
    return false;
  }
  if (call_.plan->in_line) {
    run_in_line();
    leave();
    return false;
  }
  begin_schedule();
  return true;
}

/// The small operations: everything is in the entry lines. Opaque; `direct` specifies it.
void Run::run_in_line() noexcept {
  const Plan& plan = *call_.plan;
  const auto& node = group_->binding().node;
  const int ranks = node.ranks();
  const std::int64_t block = bytes(plan.key.count);
  const auto payload = [&](int rank) { return node.entry(sequence_, rank).payload; };
  const auto fold = [&](std::int64_t from) {
    std::array<const void*, transport::shm::kMaxLocalRanks> sources;
    for (int r = 0; r < ranks; ++r) sources[r] = payload(r) + from;
    const bool average = plan.key.op == ReduceOp::kAvg;
    reduce::fold(plan.key.dtype, plan.key.op, output_, {sources.data(), std::size_t(ranks)},
                 plan.key.count, average ? 1.0 / ranks : 1.0);
  };
  const auto concatenate = [&](std::int64_t from) {
    for (int r = 0; r < ranks; ++r) std::memcpy(output_ + r * block, payload(r) + from, block);
  };
  const std::int64_t mine = plan.shape.rank * block;
  if (plan.output_bytes == 0) return;
  switch (plan.key.collective) {
    case Collective::kBarrier:
      return;
    case Collective::kBroadcast:
      std::memcpy(output_, payload(plan.shape.root), block);
      return;
    case Collective::kScatter:
      std::memcpy(output_, payload(plan.shape.root) + mine, block);
      return;
    case Collective::kReduce:
    case Collective::kAllReduce:
      fold(0);
      return;
    case Collective::kReduceScatter:
      fold(mine);
      return;
    case Collective::kAllGather:
    case Collective::kGather:
      concatenate(0);
      return;
    case Collective::kAllToAll:
      concatenate(mine);
      return;
  }
}

// --- steps -------------------------------------------------------------------------------------

void Run::begin_schedule() noexcept {
  schedule_ = schedule::Schedule(call_.plan->algorithm, call_.plan->shape);
  stage_ = Stage::kRunning;
  record(abi::OperationState::kRunning);
}

bool Run::run_steps() noexcept {
  for (int i = 0; i < kStepsPerPoll; ++i) {
    if (!step_pending_) {
      step_ = schedule_.next();
      step_pending_ = true;
      cursor_ = 0;
      ++steps_;
    }
    if (step_.kind == StepKind::kEnd) {
      SHOAL_ASSERT(active_slots_ == 0);
      cursor_ = 0;
      stage_ = stage_output_ ? Stage::kUnstaging : stage_;
      if (!stage_output_) leave();
      return stage_output_;
    }
    if (!execute()) break;
    step_pending_ = false;
    moved_ = true;
  }
  record_->step.store(steps_, std::memory_order_relaxed);
  return false;
}

/// One step; false: not yet (or failed).
bool Run::execute() noexcept {
  const Binding& binding = group_->binding();
  const transport::Match match{transport::collective_key(binding.communicator, sequence_),
                               short_fingerprint(call_.plan->fingerprint)};
  switch (step_.kind) {
    case StepKind::kSend:
    case StepKind::kRecv: {
      const Route& route = binding.routes[step_.peer];
      transport::Operation& operation = slots_[step_.slot];
      const bool sends = step_.kind == StepKind::kSend;
      const Ref& ref = sends ? step_.src : step_.dst;
      const bool started =
          sends
              ? route.transport->send(route.peer, match, own(ref), bytes(ref.count), operation)
              : route.transport->receive(route.peer, match, own(ref), bytes(ref.count), operation);
      if (!started) return false;
      active_slots_ = static_cast<std::uint8_t>(active_slots_ | 1u << step_.slot);
      slot_peer_[step_.slot] = step_.peer;
      slot_bytes_[step_.slot] = sends ? -1 : bytes(ref.count);
      return true;
    }
    case StepKind::kWait:
      return execute_wait(step_.slot);
    case StepKind::kWaitAll:
      for (int slot = 0; slot < schedule::kMaxSlots; ++slot) {
        if (!execute_wait(slot)) return false;
      }
      return true;
    case StepKind::kCopy:
    case StepKind::kReduce:
    case StepKind::kFold:
      return execute_elements();
    case StepKind::kPost:
      post();
      return true;
    case StepKind::kAwait:
      return execute_await();
    case StepKind::kEnd:
      break;
  }
  return true;
}

bool Run::execute_wait(int slot) noexcept {
  if ((active_slots_ >> slot & 1) == 0) return true;
  transport::Operation& operation = slots_[slot];
  if (!operation.done()) return false;
  if (broken(operation)) return false;  // watch() sees to it
  const bool receives = slot_bytes_[slot] >= 0;
  if (receives && (!operation.status.ok() || operation.bytes != slot_bytes_[slot] ||
                   operation.fingerprint != short_fingerprint(call_.plan->fingerprint))) {
    suspect_ = !asked_;  // watch() asks the others at once; their answer names both sides
    return false;
  }
  active_slots_ = static_cast<std::uint8_t>(active_slots_ & ~(1u << slot));
  return true;
}

/// The first post is the entry line, which has come already.
void Run::post() noexcept {
  const Binding& binding = group_->binding();
  if (++phase_ == 1) return;
  binding.node.post(sequence_, phase_);
  binding.ring_node();
}

bool Run::execute_await() noexcept {
  if (phase_ <= 1) return true;
  const Binding& binding = group_->binding();
  if (step_.peer != kEvery) {
    return binding.node.posted(sequence_, binding.routes[step_.peer].node_index, phase_);
  }
  for (; awaited_index_ < binding.node.ranks(); ++awaited_index_) {
    if (!binding.node.posted(sequence_, awaited_index_, phase_)) return false;
  }
  awaited_index_ = 0;
  return true;
}

std::byte* Run::own(const Ref& ref) const noexcept {
  std::byte* const bases[] = {input_, output_, scratch_};
  return bases[static_cast<int>(ref.space)] + bytes(ref.offset);
}

/// Where `ref` of `rank` (of the communicator) lies in this rank's mapping.
std::byte* Run::address(const Ref& ref, Rank rank) const noexcept {
  const Binding& binding = group_->binding();
  if (rank == schedule::kSelf || rank == binding.rank) return own(ref);
  const auto& line = binding.node.entry(sequence_, binding.routes[rank].node_index);
  const memory::Offset base = ref.space == Space::kInput ? line.input : line.output;
  return binding.arena().at(base) + bytes(ref.offset);
}

/// Copy, reduce or fold, a bounded part a call; true when the step is complete.
bool Run::execute_elements() noexcept {
  const Plan& plan = *call_.plan;
  const Ref& dst = step_.dst;
  const std::int64_t blocks = std::max<std::int64_t>(1, step_.blocks);
  const std::int64_t most = std::max<std::int64_t>(1, kWorkBytes / plan.element_bytes / blocks);
  const std::int64_t n = std::min(most, dst.count - cursor_);
  if (n <= 0) return true;
  moved_ = true;
  if (step_.kind == StepKind::kCopy) {
    std::byte* to = address(dst, dst.rank) + bytes(cursor_);
    const std::byte* from = address(step_.src, step_.src.rank) + bytes(cursor_);
    if (to != from) memory::copy_bytes(to, from, bytes(n));
  } else if (step_.kind == StepKind::kReduce) {
    std::byte* to = address(dst, dst.rank) + bytes(cursor_);
    const std::byte* from = address(step_.src, step_.src.rank) + bytes(cursor_);
    const std::array<const void*, 2> sources = {to, from};
    const bool average = plan.key.op == ReduceOp::kAvg && step_.finish;
    reduce::fold(plan.key.dtype, plan.key.op, to, sources, n,
                 average ? 1.0 / plan.shape.ranks : 1.0);
  } else {
    fold_range(cursor_, n);
  }
  cursor_ += n;
  return cursor_ >= dst.count;
}

/// Elements [from, from + n) of a kFold step.
void Run::fold_range(std::int64_t from, std::int64_t n) noexcept {
  const Plan& plan = *call_.plan;
  const Binding& binding = group_->binding();
  std::array<const std::byte*, transport::shm::kMaxLocalRanks> blocks;
  const bool every = step_.src.rank == kEvery;
  const int count = every ? binding.node.ranks() : step_.blocks;
  SHOAL_ASSERT(count <= transport::shm::kMaxLocalRanks);
  for (int k = 0; k < count; ++k) {
    blocks[k] = (every ? address(step_.src, binding.node_members[k])
                       : own(step_.src) + bytes(k * step_.stride)) +
                bytes(from);
  }
  const bool average = plan.key.op == ReduceOp::kAvg && step_.finish;
  const double scale = average ? 1.0 / plan.shape.ranks : 1.0;
  const bool to_every = step_.dst.rank == kEvery;
  std::byte* const to =
      (to_every ? own(step_.dst) : address(step_.dst, step_.dst.rank)) + bytes(from);
  const std::int64_t piece = std::max<std::int64_t>(1, kFoldBytes / plan.element_bytes);
  std::array<const void*, transport::shm::kMaxLocalRanks> sources;
  for (std::int64_t i = 0; i < n; i += piece) {
    const std::int64_t m = std::min(piece, n - i);
    for (int k = 0; k < count; ++k) sources[k] = blocks[k] + bytes(i);
    reduce::fold(plan.key.dtype, plan.key.op, to + bytes(i),
                 {sources.data(), static_cast<std::size_t>(count)}, m, scale);
    if (!to_every) continue;
    // After the fold has read them: an output may be the same memory as its rank's input.
    for (const Rank member : binding.node_members) {
      if (member == binding.rank) continue;
      memory::copy_bytes(address(step_.dst, member) + bytes(from + i), to + bytes(i), bytes(m));
    }
  }
}

// --- the end -----------------------------------------------------------------------------------

void Run::leave() noexcept {
  stage_ = Stage::kDone;
  moved_ = true;
  for (Block* block : {&input_block_, &output_block_, &scratch_block_}) {
    if (block->bytes > kKeptBytes) drop(*block, false);
  }
  group_->complete(sequence_);
  record(abi::OperationState::kDone);
  SHOAL_PROBE(end, group_->binding().communicator, sequence_, 0);
  finish(kOkStatus);
}

/// This rank finds an error first.
void Run::fail(Status status) noexcept {
  group_->fail(status, this, {}, true);
  begin_fencing();
}

void Run::begin_fencing() noexcept {
  stage_ = Stage::kFencing;
  moved_ = true;
  for (int slot = 0; slot < schedule::kMaxSlots; ++slot) {
    if ((active_slots_ >> slot & 1) == 0 || slots_[slot].done()) continue;
    group_->binding().routes[slot_peer_[slot]].transport->cancel(slots_[slot]);
  }
  active_slots_ = 0;
}

/// No rank at this place of the node can write our buffers any more.
bool Run::quiet(int node_index) const noexcept {
  const Binding& binding = group_->binding();
  return node_index == binding.node.self() || !binding.node.entered(sequence_, node_index) ||
         binding.board.acknowledged(node_index) ||
         binding.health->failed(binding.routes[binding.node_members[node_index]].world);
}

bool Run::fence(std::int64_t now_ns) noexcept {
  const Binding& binding = group_->binding();
  bool all_quiet = true;
  for (int i = 0; i < binding.node.ranks(); ++i) all_quiet = all_quiet && quiet(i);
  if (!all_quiet && (now_ns == 0 || now_ns < group_->failed_ns() + kFenceNs)) return false;
  if (!all_quiet && !stage_output_ && call_.plan->output_bytes > 0 && output_ != nullptr) {
    memory::Arena& arena = binding.arena();
    const memory::Offset at = arena.offset_of(output_, call_.plan->output_bytes);
    if (at != memory::kNoOffset) (void)arena.cut_off(at, call_.plan->output_bytes);
  }
  // Blocks others may still touch are never used again.
  for (Block* block : {&input_block_, &output_block_, &scratch_block_}) drop(*block, !all_quiet);
  stage_ = Stage::kDone;
  group_->complete(sequence_);
  record(abi::OperationState::kFailed);
  SHOAL_PROBE(error, binding.communicator, sequence_,
              static_cast<std::uint64_t>(group_->failure().code));
  set_text(group_->failure_text());
  finish(group_->failure());
  return true;
}

/// Deadline, and asking the others what they are doing when nothing moves.
void Run::watch(std::int64_t now_ns) noexcept {
  if (call_.deadline_ns != 0 && now_ns >= call_.deadline_ns) {
    fail({ErrorCode::kTimeout, awaited(), now_ns - begin_ns_});
    return;
  }
  record_->awaited_peer.store(awaited_world(), std::memory_order_relaxed);
  for (int slot = 0; slot < schedule::kMaxSlots; ++slot) {
    if ((active_slots_ >> slot & 1) == 0 || !broken(slots_[slot])) continue;
    if (lost_ns_ == 0) lost_ns_ = now_ns;
    if (now_ns < lost_ns_ + kLostNs) return;
    fail({ErrorCode::kTransport, slot_peer_[slot], slots_[slot].status.detail});
    return;
  }
  if (moved_) ask_ns_ = now_ns + ask_after_ns_;
  const bool silent = now_ns >= ask_ns_;
  if (!suspect_ && !silent) return;
  ask_ns_ = now_ns + ask_after_ns_;
  ask_after_ns_ = std::min(2 * ask_after_ns_, kLastAskNs);
  suspect_ = false;
  asked_ = true;
  SHOAL_PROBE(stall, group_->binding().communicator, sequence_,
              static_cast<std::uint64_t>(awaited()));
  if (group_->binding().one_node()) return;  // the entry lines tell all there is to know
  if (group_->events().suspect_mismatch) group_->events().suspect_mismatch(*this);
}

Rank Run::awaited() const noexcept {
  const Binding& binding = group_->binding();
  if (stage_ == Stage::kEntering) {
    return awaited_index_ < binding.node.ranks() ? binding.node_members[awaited_index_] : -1;
  }
  if (stage_ != Stage::kRunning) return -1;
  switch (step_.kind) {
    case StepKind::kSend:
    case StepKind::kRecv:
      return step_.peer;
    case StepKind::kWait:
      return slot_peer_[step_.slot];
    case StepKind::kWaitAll:
      for (int slot = 0; slot < schedule::kMaxSlots; ++slot) {
        if ((active_slots_ >> slot & 1) != 0 && !slots_[slot].done()) return slot_peer_[slot];
      }
      return -1;
    case StepKind::kAwait:
      if (step_.peer != kEvery) return step_.peer;
      return awaited_index_ < binding.node.ranks() ? binding.node_members[awaited_index_] : -1;
    default:
      return -1;
  }
}

Rank Run::awaited_world() const noexcept {
  const Rank rank = awaited();
  return rank < 0 ? -1 : group_->binding().routes[rank].world;
}

bool Run::waits_for_network() const noexcept {
  if (group_->binding().one_node() || stage_ != Stage::kRunning) return false;
  const Rank peer = awaited();
  return peer >= 0 && group_->binding().routes[peer].node_index < 0;
}

void Run::record(abi::OperationState state) noexcept {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  const Binding& binding = group_->binding();
  abi::ProgressPage& page = binding.shm->page(binding.shm->self());
  record_->state.store(static_cast<std::uint32_t>(state), kRelaxed);
  record_->awaited_peer.store(-1, kRelaxed);
  if (state == abi::OperationState::kEntering) {
    const PlanKey& key = call_.plan->key;
    record_->sequence.store(sequence_, kRelaxed);
    record_->communicator.store(binding.communicator, kRelaxed);
    record_->collective.store(static_cast<std::uint32_t>(key.collective), kRelaxed);
    record_->algorithm.store(static_cast<std::uint32_t>(call_.plan->algorithm), kRelaxed);
    record_->dtype.store(static_cast<std::uint32_t>(key.dtype), kRelaxed);
    record_->op.store(static_cast<std::uint32_t>(key.op), kRelaxed);
    record_->count.store(key.count, kRelaxed);
    record_->begin_ns.store(begin_ns_, kRelaxed);
    record_->step.store(0, kRelaxed);
    page.posted.store(page.posted.load(kRelaxed) + 1, kRelaxed);  // one writer
  } else if (state == abi::OperationState::kDone) {
    page.completed.store(page.completed.load(kRelaxed) + 1, kRelaxed);
  } else if (state == abi::OperationState::kFailed) {
    page.failed.store(page.failed.load(kRelaxed) + 1, kRelaxed);
  }
}

// --- memory ------------------------------------------------------------------------------------

bool Run::reserve(Block& block, std::int64_t bytes) noexcept {
  if (block.bytes >= bytes) return true;
  drop(block, false);
  const Result<memory::Offset> offset = home_->pool().allocate(bytes);
  if (!offset.ok()) return false;
  block = {offset.value(), bytes};
  return true;
}

void Run::drop(Block& block, bool retire) noexcept {
  if (block.bytes == 0) return;
  if (retire) {
    home_->pool().retire(block.offset);
  } else {
    home_->pool().free(block.offset);
  }
  block = {};
}

Run::~Run() {
  SHOAL_ASSERT(done());
  for (Block* block : {&input_block_, &output_block_, &scratch_block_}) drop(*block, false);
}

}  // namespace shoal::exec
