#include "exec/run.h"

#include <algorithm>
#include <array>
#include <bit>
#include <span>

#include "core/assert.h"
#include "core/clock.h"
#include "core/probes.h"
#include "exec/lines.h"
#include "reduce/reduce.h"

namespace shoal::exec {

namespace {

using schedule::kEvery;
using schedule::Ref;
using schedule::Space;
using schedule::StepKind;

/// One poll moves at most this much, so that errors are seen and other runs get their turn.
constexpr std::int64_t kWorkBytes = 512 << 10;
/// Steps of one poll; only schedules of zero-byte messages come near.
constexpr int kStepsPerPoll = 64;
/// Pool blocks larger than this are given back after use.
constexpr std::int64_t kKeptBytes = 16 << 20;
/// Silence before the others are asked what they are doing; doubled up to a second.
constexpr std::int64_t kFirstAskNs = 100 * kNsPerMs;
constexpr std::int64_t kLastAskNs = 1000 * kNsPerMs;

/// Ended by the transport, and not because the sender runs another collective.
bool broken(const transport::Operation& operation) noexcept {
  return operation.done() && !operation.status.ok() &&
         operation.status.code != ErrorCode::kMismatch;
}

}  // namespace

void Run::go_on(Group& group, const Call& call, std::uint64_t sequence) noexcept {
  start(group, call, sequence);
  stage_ = Stage::kEntering;
}

void Run::start(Group& group, const Call& call, std::uint64_t sequence) noexcept {
  restart();
  group_ = &group;
  call_ = call;
  sequence_ = sequence;
  stage_ = Stage::kQueued;
  program_ = &call.plan->program;
  step_ = steps_end_ = nullptr;
  element_bytes_ = call.plan->element_bytes;
  suspect_ = asked_ = false;
  lost_ns_ = left_ns_ = 0;
  buffers_.begin(call);
  offered_.bytes = 0;
  posts_late_ = false;
  cursor_ = 0;
  phase_ = 0;
  steps_ = 0;
  awaited_index_ = 0;
  active_slots_ = 0;
  begin_ns_ = deadline_ns_ = 0;
  const Binding& binding = group.binding();
  record_ = &binding.shm->page(binding.shm->self()).operations[number_ % abi::kPageOperations];
  record(abi::OperationState::kEntering);
  SHOAL_PROBE(begin, binding.communicator, sequence_, call.plan->fingerprint);
}

void Run::set_begin(std::int64_t now_ns) noexcept {
  begin_ns_ = now_ns;
  deadline_ns_ = call_.timeout_ns == 0 ? 0 : now_ns + call_.timeout_ns;
  ask_after_ns_ = kFirstAskNs;
  ask_ns_ = now_ns + kFirstAskNs;
  record_->begin_ns.store(now_ns, std::memory_order_relaxed);
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
      if (!group_->may_enter(sequence_)) return false;
      if (group_->ended()) {
        begin_fencing();
        return false;
      }
      return prepare();
    case Stage::kStaging:
      return copy_some(Space::kInput, call_.plan->input_bytes) && enter();
    case Stage::kEntering:
      return check_entries();
    case Stage::kRunning:
      return run_steps();
    case Stage::kUnstaging:
      if (!copy_some(Space::kOutput, call_.plan->output_bytes)) return false;
      leave();
      return false;
    case Stage::kFencing:
    case Stage::kDone:
      return false;
  }
  return false;
}

// --- staging and entry -------------------------------------------------------------------------

bool Run::prepare() noexcept {
  const Plan& plan = *call_.plan;
  const Binding& binding = group_->binding();
  moved_ = true;
  if (plan.form != Form::kSchedule && !buffers_.has_lists()) return enter();
  if (!buffers_.prepare(plan, binding)) {
    fail({ErrorCode::kOutOfMemory, binding.rank,
          plan.input_bytes + plan.output_bytes + plan.program.scratch_bytes});
    return false;
  }
  if (!buffers_.stages_input()) return enter();
  stage_ = Stage::kStaging;
  return true;
}

/// A part of a large copy to a stand-in, or from it; true when it is complete.
bool Run::copy_some(Space which, std::int64_t bytes) noexcept {
  const std::int64_t end = std::min(cursor_ + kWorkBytes, bytes);
  while (cursor_ < end) cursor_ += buffers_.copy_staged(call_, which, cursor_, end - cursor_);
  moved_ = true;
  if (cursor_ < bytes) return false;
  cursor_ = 0;
  return true;
}

/// False: out of memory, the run has failed.
bool Run::enter() noexcept {
  const Plan& plan = *call_.plan;
  const Binding& binding = group_->binding();
  stage_ = Stage::kEntering;
  awaited_index_ = 0;
  transport::shm::EntryLine& line = binding.node.entry(sequence_, binding.node.self());
  line.fingerprint = plan.fingerprint;
  if (plan.form != Form::kSchedule) {
    if (enter_at_once(*group_, plan, sequence_, buffers_.at(Space::kInput), home_->pool()))
      return true;
    fail({ErrorCode::kOutOfMemory, binding.rank, plan.slot_bytes});
    return false;
  }
  if (buffers_.is_private() && plan.slot_bytes > 0) {
    const memory::Offset slot =
        put_in_slot(*group_, plan, sequence_, buffers_.at(Space::kInput), home_->pool());
    if (slot == memory::kNoOffset) {
      fail({ErrorCode::kOutOfMemory, binding.rank, plan.slot_bytes});
      return false;
    }
    line.places = {slot, memory::kNoOffset, buffers_.scratch_offset(), transport::shm::kInSlot};
  } else if (binding.node.ranks() > 1) {
    if (buffers_.is_private()) stage_ahead();
    line.places = buffers_.places(plan, binding.arena());
  } else {
    line.places.flags = 0;  // not what an earlier payload has left there
  }
  binding.node.enter(sequence_);
  binding.ring_node();
  return true;
}

/// True when those that are waited for have entered, with the same fingerprint.
bool Run::check_entries() noexcept {
  const Binding& binding = group_->binding();
  const auto& node = binding.node;
  const LineRange lines = awaited_lines(binding, *call_.plan);
  for (; lines.begin + awaited_index_ < lines.end; ++awaited_index_) {
    if (!node.entered(sequence_, lines.begin + awaited_index_)) return false;
  }
  moved_ = true;
  awaited_index_ = 0;
  const bool awaits_every = call_.plan->entries == Entries::kEvery;
  if (awaits_every) {
    group_->meet(sequence_);
    group_->mark_compared(sequence_);
  }
  // All name the same two ranks; those that await the root only, themselves and the root.
  const int first = awaits_every ? 0 : node.self();
  for (int i = lines.begin; i < lines.end; ++i) {
    if (node.entry(sequence_, i).fingerprint == node.entry(sequence_, first).fingerprint) continue;
    end_mismatched({ErrorCode::kMismatch, binding.node_members[i], binding.node_members[first]});
    return false;
  }
  // After this rank's entry: whoever has raised an error and did not see that entry is seen here
  // (Group::fail), before a buffer of another rank is touched.
  group_->check(this);
  if (!group_->failure().ok()) {
    begin_fencing();
    return false;
  }
  if (is_whole_in_slots()) {
    combine(binding, *call_.plan, sequence_, buffers_.at(Space::kOutput));
    return end_schedule();
  }
  begin_schedule();
  return true;
}

/// Nothing has been written here. In one node all ranks see the same lines and stay in step, so the
/// communicator lives on; but ranks on other nodes cannot know, nor does a rank that has returned
/// from a broadcast or scatter, which waits for nobody, or has left a call on CUDA memory to its
/// stream: then it ends.
void Run::end_mismatched(Status status) noexcept {
  const Binding& binding = group_->binding();
  bool known_to_all = binding.one_node();
  for (int i = 0; i < binding.node.ranks(); ++i) {
    const PlanKey called = key_of(binding.node.entry(sequence_, i).fingerprint);
    known_to_all = known_to_all && !is_one_to_all(called.collective) && !called.device;
  }
  if (!known_to_all) return fail(status);
  const GroupEvents& events = group_->events();
  if (events.explain) set_text(events.explain(this, status) + events.signature);
  stage_ = Stage::kDone;
  group_->complete(sequence_);
  record(abi::OperationState::kFailed);
  finish(status);
}

// --- steps -------------------------------------------------------------------------------------

/// What the places of all ranks of the node have in common, and what any of them has. All ranks see
/// the same lines, so they choose alike by them.
Run::Flags Run::flags_of_node() const noexcept {
  const auto& node = group_->binding().node;
  Flags flags{~std::uint64_t{0}, 0};
  for (int i = 0; i < node.ranks(); ++i) {
    const std::uint64_t places = node.entry(sequence_, i).places.flags;
    flags.all &= places, flags.any |= places;
  }
  return flags;
}

/// Every rank's input is in its entry line or in a slot.
bool Run::is_whole_in_slots() const noexcept {
  const Plan& plan = *call_.plan;
  if (plan.form != Form::kSchedule) return true;
  return plan.slot_bytes > 0 && (flags_of_node().all & transport::shm::kInSlot) != 0;
}

const Program& Run::choose_program() const noexcept {
  using namespace transport::shm;
  const Plan& plan = *call_.plan;
  if (!plan.takes_private_memory()) return plan.program;
  const Flags flags = flags_of_node();
  return (flags.any & (kPrivate | kInSlot)) == 0 ? plan.program : plan.staged;
}

/// Makes `program` the one that is run, from its first step.
void Run::open(const Program& program) noexcept {
  program_ = &program;
  if (program.steps.empty()) schedule_.begin(program.algorithm, program.shape);
  scratch_stores_ =
      schedule::is_staged(program.algorithm)
          ? group_->distance().stores_to(buffers_.at(Space::kScratch), program.scratch_bytes)
          : reduce::Stores::kCached;
  next_steps();
}

/// What a rank with private memory does before it enters: its first tile, which the others may read
/// once they know that it has entered. A flag round less than with the tile behind the entry.
void Run::stage_ahead() noexcept {
  open(call_.plan->staged);
  while (step_->kind == StepKind::kCopy) {
    while (!execute_elements()) {
    }
    if (++step_ == steps_end_) next_steps();
  }
}

void Run::begin_schedule() noexcept {
  const Plan& plan = *call_.plan;
  const Program& program = choose_program();
  const bool is_staged = schedule::is_staged(program.algorithm);
  // All of the node, or nobody: a rank with shared memory puts its first tile now, and then all
  // meet once more.
  posts_late_ = is_staged && (flags_of_node().all & transport::shm::kPrivate) == 0;
  const bool is_staged_ahead = program_ == &plan.staged;
  if (!is_staged_ahead || posts_late_) open(program);
  match_ = {transport::collective_key(group_->binding().communicator, sequence_),
            short_fingerprint(plan.fingerprint)};
  accumulate_ = reduce::accumulator(plan.key.dtype, plan.key.op);
  stage_ = Stage::kRunning;
  steps_ = 1;
  record(abi::OperationState::kRunning);
}

/// Those that come after steps_end_; of a kept program, all.
void Run::next_steps() noexcept {
  const std::span<const schedule::Step> steps =
      program_->steps.empty() ? schedule_.next_batch() : std::span(program_->steps);
  step_ = steps.data();
  steps_end_ = step_ + steps.size();
}

bool Run::run_steps() noexcept {
  std::uint32_t active = active_slots_;
  std::int64_t done = 0;
  for (bool on = true; on && done < kStepsPerPoll;) {
    const schedule::Step* const first = step_;
    const schedule::Step* const stop = std::min(steps_end_, first + kStepsPerPoll);
    const schedule::Step* step = first;
    while (step != stop && on) {
      on = execute(*step, active);
      if (on) step_ = ++step;
    }
    done += step - first;
    if (step == steps_end_) next_steps();
  }
  if (done == 0 && step_->kind != StepKind::kEnd) return false;
  steps_ += static_cast<std::uint32_t>(done);
  moved_ = true;
  if constexpr (kObservable) record_->step.store(steps_, std::memory_order_relaxed);
  return stage_ == Stage::kRunning && step_->kind == StepKind::kEnd && end_schedule();
}

bool Run::end_schedule() noexcept {
  SHOAL_ASSERT(active_slots_ == 0);
  if (!buffers_.stages_output()) {
    leave();
    return false;
  }
  stage_ = Stage::kUnstaging;
  return true;
}

/// Of those that ring_put.h is made of: everything but where the bytes go is as for messages.
bool Run::start_one_sided(const schedule::Step& step, std::uint32_t& active) noexcept {
  if (step.kind == StepKind::kLand) {
    slots_[step.slot].lands = true;
    return start_message<false>(step, active);
  }
  const Route& route = group_->binding().routes[step.peer];
  Slot& slot = slots_[step.slot];
  slot.peer = step.peer;
  slot.bytes = -1;
  bool started = false;
  if (step.kind == StepKind::kOffer) {
    offered_ = route.transport->key_to(buffers_.at(Space::kScratch), program_->scratch_bytes);
    started =
        route.transport->send(route.peer, match_, &offered_, sizeof(offered_), slot.operation);
  } else if (step.kind == StepKind::kAccept) {
    slot.bytes = sizeof(accepted_);
    started =
        route.transport->receive(route.peer, match_, &accepted_, sizeof(accepted_), slot.operation);
  } else {
    started = route.transport->put(route.peer, match_, accepted_, bytes(step.dst.offset),
                                   own(step.src), bytes(step.src.count), slot.operation);
  }
  if (started) active_slots_ = active |= 1u << step.slot;
  return started;
}

/// Of kSend and kRecv. `active` is active_slots_ in a register: what one step stores the next one
/// need not load.
template <bool kSends>
inline bool Run::start_message(const schedule::Step& step, std::uint32_t& active) noexcept {
  const Route& route = group_->binding().routes[step.peer];
  const Ref& ref = kSends ? step.src : step.dst;
  const std::int64_t n = bytes(ref.count);
  const int number = step.slot;
  Slot& slot = slots_[number];
  slot.peer = step.peer;
  slot.bytes = kSends ? -1 : n;
  const bool started =
      kSends ? route.transport->send(route.peer, match_, own(ref), n, slot.operation)
             : route.transport->receive(route.peer, match_, own(ref), n, slot.operation);
  if (started) active_slots_ = active |= 1u << number;
  return started;
}

/// One step; false: not yet (or failed, or it is the end).
inline bool Run::execute(const schedule::Step& step, std::uint32_t& active) noexcept {
  switch (step.kind) {
    case StepKind::kSend:
      return start_message<true>(step, active);
    case StepKind::kRecv:
      return start_message<false>(step, active);
    case StepKind::kOffer:
    case StepKind::kAccept:
    case StepKind::kPut:
    case StepKind::kLand:
      return start_one_sided(step, active);
    case StepKind::kWait:
      return (active >> step.slot & 1) == 0 || complete_message(step.slot, active);
    case StepKind::kWaitAll:
      while (active != 0) {
        if (!complete_message(std::countr_zero(active), active)) return false;
      }
      return true;
    case StepKind::kReduce:
      return reduces_at_once(step) || execute_elements();
    case StepKind::kCopy:
    case StepKind::kCombine:
    case StepKind::kFold:
      return execute_elements();
    case StepKind::kPost:
      post();
      return true;
    case StepKind::kAwait:
      return execute_await();
    case StepKind::kEnd:
      return false;
  }
  __builtin_unreachable();
}

/// False: not yet, or not as it should be.
inline bool Run::complete_message(int number, std::uint32_t& active) noexcept {
  Slot& slot = slots_[number];
  const transport::Operation& operation = slot.operation;
  if (!operation.done()) return false;
  const bool sends = slot.bytes < 0;
  const bool has_all = operation.bytes == slot.bytes || (slot.lands && operation.bytes == 0);
  const bool as_it_should = sends || (has_all && operation.fingerprint == match_.fingerprint);
  if (!operation.status.ok() || !as_it_should) return object_to(operation);
  slot.lands = false;
  active_slots_ = active &= ~(1u << number);
  return true;
}

/// It is not what was awaited; false.
bool Run::object_to(const transport::Operation& operation) noexcept {
  // What is broken watch() sees for itself; else it asks the others at once, whose answer names
  // both sides.
  if (!broken(operation)) suspect_ = !asked_;
  return false;
}

/// The first post is the entry line, which has come already, unless there was something to do
/// before it.
void Run::post() noexcept {
  const Binding& binding = group_->binding();
  if (++phase_ == 1 && !posts_late_) return;
  if (phase_ == 1) phase_ = 2;
  binding.node.post(sequence_, phase_);
  binding.ring_node();
}

bool Run::execute_await() noexcept {
  if (phase_ <= 1) return true;
  const Binding& binding = group_->binding();
  if (step_->peer != kEvery) {
    return binding.node.posted(sequence_, binding.routes[step_->peer].node_index, phase_);
  }
  for (; awaited_index_ < binding.node.ranks(); ++awaited_index_) {
    if (!binding.node.posted(sequence_, awaited_index_, phase_)) return false;
  }
  awaited_index_ = 0;
  return true;
}

/// Where `ref` of `rank` (of the communicator) lies in this rank's mapping.
std::byte* Run::address(const Ref& ref, Rank rank) const noexcept {
  const Binding& binding = group_->binding();
  if (rank == schedule::kSelf || rank == binding.rank) return here(ref);
  const auto& places = binding.node.entry(sequence_, binding.routes[rank].node_index).places;
  const memory::Offset bases[] = {places.input, places.output, places.scratch};
  const memory::Offset base = bases[static_cast<int>(ref.space)];
  if (places.flags != 0) [[unlikely]] {
    constexpr std::uint64_t kLists[] = {transport::shm::kInputList, transport::shm::kOutputList, 0};
    if ((places.flags & kLists[static_cast<int>(ref.space)]) != 0) return in_list(ref, base);
  }
  return binding.arena().at(base) + bytes(ref.offset);
}

/// Of a rank whose blocks lie anywhere: it has entered with a table of them.
std::byte* Run::in_list(const Ref& ref, memory::Offset table) const noexcept {
  const memory::Arena& arena = group_->binding().arena();
  const std::int64_t count = call_.plan->key.count;
  const auto* const offsets = reinterpret_cast<const memory::Offset*>(arena.at(table));
  return arena.at(offsets[ref.offset / count]) + bytes(ref.offset % count);
}

/// A whole kReduce step, if it is as small and plain as most are.
inline bool Run::reduces_at_once(const schedule::Step& step) noexcept {
  const Ref &dst = step.dst, &src = step.src;
  if (dst.rank != schedule::kSelf || src.rank != schedule::kSelf || step.finish || cursor_ != 0 ||
      bytes(dst.count) > kWorkBytes) {
    return false;
  }
  accumulate_(own(dst), own(src), dst.count);
  return true;
}

/// Copy, reduce or fold, a bounded part a call; true when the step is complete.
bool Run::execute_elements() noexcept {
  const Plan& plan = *call_.plan;
  const Ref& dst = step_->dst;
  const std::int64_t block_bytes = bytes(std::max(1, step_->blocks));
  std::int64_t n = dst.count - cursor_;
  if (n * block_bytes > kWorkBytes) n = std::max<std::int64_t>(1, kWorkBytes / block_bytes);
  moved_ = true;
  if (step_->kind == StepKind::kCopy) {
    copy_range(cursor_, n);
  } else if (step_->kind == StepKind::kReduce) {
    std::byte* to = address(dst, dst.rank) + bytes(cursor_);
    const std::byte* from = address(step_->src, step_->src.rank) + bytes(cursor_);
    const std::array<const void*, 2> sources = {to, from};
    reduce::fold(plan.key.dtype, plan.key.op, to, sources, n, scale());
  } else if (step_->kind == StepKind::kCombine) {
    const std::int64_t from = bytes(cursor_);
    const std::array<const void*, 2> sources = {own(step_->src) + from,
                                                own(step_->addend()) + from};
    reduce::fold(plan.key.dtype, plan.key.op, own(dst) + from, sources, n, scale());
  } else {
    fold_range(cursor_, n);
  }
  cursor_ += n;
  if (cursor_ < dst.count) return false;
  cursor_ = 0;
  return true;
}

/// Elements [from, from + n) of a kCopy step.
void Run::copy_range(std::int64_t from, std::int64_t n) noexcept {
  const Ref& src = step_->src;
  std::byte* const to = address(step_->dst, step_->dst.rank) + bytes(from);
  const std::byte* const source = address(src, src.rank) + bytes(from);
  if (to != source) reduce::copy(to, source, bytes(n), stores());
}

/// Of the step's result: an average becomes one where it is complete.
double Run::scale() const noexcept {
  const Plan& plan = *call_.plan;
  return plan.key.op == ReduceOp::kAvg && step_->finish ? 1.0 / plan.shape.ranks : 1.0;
}

/// Past the caches what is too large for them and not read again by this schedule, and what is
/// staged for distant readers.
reduce::Stores Run::stores() const noexcept {
  if (step_->dst.space == Space::kScratch) return scratch_stores_;
  const bool streams = call_.plan->streams && step_->dst.space == Space::kOutput;
  return streams ? reduce::Stores::kStreaming : reduce::Stores::kCached;
}

/// Elements [from, from + n) of a kFold step.
void Run::fold_range(std::int64_t from, std::int64_t n) noexcept {
  const Plan& plan = *call_.plan;
  const Binding& binding = group_->binding();
  const Ref &src = step_->src, &dst = step_->dst;
  std::array<const void*, transport::shm::kMaxLocalRanks> sources;
  std::array<void*, transport::shm::kMaxLocalRanks + 1> targets;
  const bool from_every = src.rank == kEvery, to_every = dst.rank == kEvery;
  const int count = from_every ? binding.node.ranks() : step_->blocks;
  int copies = to_every ? binding.node.ranks() : 1;
  SHOAL_ASSERT(count <= transport::shm::kMaxLocalRanks);
  for (int k = 0; k < count; ++k) {
    const Rank owner = from_every ? binding.node_members[k] : src.rank;
    const bool is_own = step_->own_input && owner == binding.rank;
    sources[k] = (is_own ? here(step_->own_block()) : address(src, owner)) +
                 bytes(from + (from_every ? 0 : k * step_->stride));
  }
  for (int k = 0; k < copies; ++k) {
    targets[k] = address(dst, to_every ? binding.node_members[k] : dst.rank) + bytes(from);
  }
  std::byte* const result = step_->own_output ? here(step_->own_result()) + bytes(from) : nullptr;
  if (result != nullptr && stores() == reduce::Stores::kStreaming) {
    // Only the others' copy goes past the caches.
    reduce::fold(plan.key.dtype, plan.key.op, result, {sources.data(), std::size_t(count)}, n,
                 scale());
    reduce::copy(targets[0], result, bytes(n), stores());
    return;
  }
  if (result != nullptr) targets[copies++] = result;
  if (count > 1 || scale() != 1.0) {
    reduce::fold(plan.key.dtype, plan.key.op, {targets.data(), std::size_t(copies)},
                 {sources.data(), std::size_t(count)}, n, scale(), stores());
    return;
  }
  for (int k = 0; k < copies; ++k) {
    if (targets[k] != sources[0]) reduce::copy(targets[k], sources[0], bytes(n), stores());
  }
}

// --- the end -----------------------------------------------------------------------------------

void Run::leave() noexcept {
  stage_ = Stage::kDone;
  moved_ = true;
  buffers_.give_back(kKeptBytes);
  group_->complete(sequence_);
  record(abi::OperationState::kDone);
  group_->binding().shm->count_bytes(call_.plan->payload_bytes);
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
    if ((active_slots_ >> slot & 1) == 0 || slots_[slot].operation.done()) continue;
    group_->binding().routes[slots_[slot].peer].transport->cancel(slots_[slot].operation);
  }
  for (Slot& slot : slots_) slot.lands = false;
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
  // Before its entry nobody knows where this rank's buffers are.
  bool all_quiet = true;
  if (binding.node.entered(sequence_, binding.node.self())) {
    for (int i = 0; i < binding.node.ranks(); ++i) all_quiet = all_quiet && quiet(i);
  }
  if (!all_quiet && (now_ns == 0 || now_ns < group_->failed_ns() + kFenceNs)) return false;
  if (!all_quiet) buffers_.cut_off_output(*call_.plan, binding.arena());
  // Blocks others may still touch are never used again. A put that is under way arrives there, even
  // after its rank has given it up.
  buffers_.abandon(!all_quiet, !all_quiet || !offered_.empty());
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
  if (deadline_ns_ != 0 && now_ns >= deadline_ns_) {
    fail({ErrorCode::kTimeout, awaited(), now_ns - begin_ns_});
    return;
  }
  const Rank awaited_rank = awaited_world();
  record_->awaited_peer.store(awaited_rank, std::memory_order_relaxed);
  if (moved_ || awaited_rank < 0 || !group_->binding().health->left(awaited_rank)) {
    left_ns_ = 0;
  } else if (left_ns_ == 0) {
    left_ns_ = now_ns;
  } else if (now_ns >= left_ns_ + kGraceNs) {
    fail({ErrorCode::kPeerFailed, awaited(), 0});
    return;
  }
  for (int slot = 0; slot < schedule::kMaxSlots; ++slot) {
    if ((active_slots_ >> slot & 1) == 0 || !broken(slots_[slot].operation)) continue;
    if (lost_ns_ == 0) lost_ns_ = now_ns;
    if (now_ns < lost_ns_ + kGraceNs) return;
    fail({ErrorCode::kTransport, slots_[slot].peer, slots_[slot].operation.status.detail});
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
  if (stage_ == Stage::kQueued) return group_->laggard(sequence_);
  if (stage_ == Stage::kEntering) {
    const LineRange lines = awaited_lines(binding, *call_.plan);
    const int place = lines.begin + awaited_index_;
    return place < lines.end ? binding.node_members[place] : -1;
  }
  if (stage_ != Stage::kRunning) return -1;
  if (step_ == nullptr) return -1;
  switch (step_->kind) {
    case StepKind::kSend:
    case StepKind::kRecv:
    case StepKind::kOffer:
    case StepKind::kAccept:
    case StepKind::kPut:
    case StepKind::kLand:
      return step_->peer;
    case StepKind::kWait:
      return slots_[step_->slot].peer;
    case StepKind::kWaitAll:
      for (int slot = 0; slot < schedule::kMaxSlots; ++slot) {
        if ((active_slots_ >> slot & 1) != 0 && !slots_[slot].operation.done())
          return slots_[slot].peer;
      }
      return -1;
    case StepKind::kAwait:
      if (step_->peer != kEvery) return step_->peer;
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
  if constexpr (!kObservable) return;
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
    record_->algorithm.store(static_cast<std::uint32_t>(program_->algorithm), kRelaxed);
    record_->dtype.store(static_cast<std::uint32_t>(key.dtype), kRelaxed);
    record_->op.store(static_cast<std::uint32_t>(key.op), kRelaxed);
    record_->count.store(key.count, kRelaxed);
    record_->begin_ns.store(0, kRelaxed);
    record_->step.store(0, kRelaxed);
    page.posted.store(page.posted.load(kRelaxed) + 1, kRelaxed);  // one writer
  } else if (state == abi::OperationState::kRunning) {
    record_->step.store(steps_, kRelaxed);
    record_->algorithm.store(static_cast<std::uint32_t>(program_->algorithm), kRelaxed);
  } else if (state == abi::OperationState::kDone) {
    page.completed.store(page.completed.load(kRelaxed) + 1, kRelaxed);
  } else if (state == abi::OperationState::kFailed) {
    page.failed.store(page.failed.load(kRelaxed) + 1, kRelaxed);
  }
}

}  // namespace shoal::exec
