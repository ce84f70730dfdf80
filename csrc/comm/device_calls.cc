#include "comm/device_calls.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "comm/impl.h"
#include "comm/report.h"
#include "core/clock.h"
#include "cuda/device_memory.h"

namespace shoal::comm {

namespace {

/// How often the streams are looked at while something is under way, and while nothing is: a
/// captured operation may run then, and errors of others have to end it within 100 ms.
constexpr std::chrono::milliseconds kBusy{1}, kIdle{20};
/// From then on streams that have not passed yet are looked at now and then only.
constexpr std::int64_t kCalmNs = 1000 * kNsPerMs;

}  // namespace

// --- DeviceTask ---------------------------------------------------------------------------------

void DeviceTask::start(const exec::Plan& plan, std::uint64_t sequence, std::uint32_t number,
                       std::int64_t timeout_ns) noexcept {
  restart();
  plan_ = &plan;
  sequence_ = sequence;
  number_ = number;
  timeout_ns_ = timeout_ns;
  begin_ns_ = left_ns_ = 0;
  held_ = true;
}

bool DeviceTask::poll(std::int64_t now_ns) noexcept {
  if (!done()) home_->watch(now_ns == 0 ? shoal::now_ns() : now_ns);
  return done();
}

void DeviceTask::recycle() noexcept {
  held_ = false;
  if (done()) home_->free_.push_back(this);
}

// --- DeviceCalls --------------------------------------------------------------------------------

DeviceCalls::DeviceCalls(CommunicatorImpl& impl) : impl_(impl) {
  const exec::Binding& binding = impl.group->binding();
  cuda::DeviceMemory& memory = impl.context->cuda();
  cuda::GroupOptions options;
  options.self = binding.rank;
  options.local_ranks = binding.local_ranks;
  options.control = share_block();
  const std::vector<bootstrap::Peer>& peers = impl.context->peers();
  options.spins = std::ranges::all_of(
      impl.members, [&](Rank world) { return peers[world].pid == peers[impl.members[0]].pid; });
  options.ranks_on_device = binding.ranks;
  group_ = memory.make_group(options);
  impl.context->device_watch().add(*this);
}

DeviceCalls::~DeviceCalls() {
  const Deadline deadline = Deadline::after_ms(impl_.context->options().timeout_ms);
  const auto is_through = [this] {
    bool through = false;
    impl_.context->engine().synchronised([&] {
      through = pending_.empty() && (group_->is_over(group_->issued()) || impl_.group->ended());
    });
    return through;
  };
  while (!is_through() && !deadline.passed()) std::this_thread::sleep_for(kBusy);
  impl_.context->device_watch().remove(*this);
  if (group_->is_over(group_->issued())) return;
  leave_behind(std::move(group_), impl_.context->rank(), impl_.group->binding().communicator);
}

/// The block that the ranks share: that of whoever comes first.
std::byte* DeviceCalls::share_block() {
  const exec::Binding& binding = impl_.group->binding();
  exec::SideBlock& word = *binding.side_block;
  const std::int64_t bytes = cuda::ControlLayout(binding.ranks).bytes();
  // acquire: pairs with the release below; the block is zeroed
  std::uint64_t known = word.load(std::memory_order_acquire);
  if (known == 0) {
    const auto block = impl_.context->take_device_block(bytes);
    if (!block.ok()) {
      throw Error(ErrorCode::kOutOfMemory, impl_.context->pool().explain_out_of_memory(bytes));
    }
    const memory::Offset offset = block.value().offset;
    std::memset(binding.arena().at(offset), 0, static_cast<std::size_t>(bytes));
    const auto mine = static_cast<std::uint64_t>(offset) + 1;
    if (word.compare_exchange_strong(known, mine, std::memory_order_acq_rel)) {
      impl_.keep(block.value());
      known = mine;
    } else {
      impl_.context->give_back(block.value());
    }
  }
  return binding.arena().at(static_cast<memory::Offset>(known - 1));
}

// --- a call -------------------------------------------------------------------------------------

/// False: not yet. The engine's lock is not held.
bool DeviceCalls::try_enter(const exec::Plan& plan, bool is_captured, std::int64_t timeout_ns,
                            Entered& entered) {
  if (!is_captured && !group_->has_room()) return false;
  impl_.context->engine().synchronised([&] {
    entered.sequence = impl_.context->engine().enter(*impl_.group, plan);
    if (entered.sequence == 0) return;
    last_sequence_ = entered.sequence;
    if (is_captured) {
      capture_timeout_ns_ = timeout_ns;
      return;
    }
    if (free_.empty()) {
      all_.push_back(std::make_unique<DeviceTask>(*this));
      free_.reserve(all_.size());  // so that giving back does not allocate
      free_.push_back(all_.back().get());
    }
    entered.task = free_.back();
    free_.pop_back();
    entered.task->start(plan, entered.sequence, group_->issued() + 1, timeout_ns);
    pending_.push_back(entered.task);
    show(*entered.task, static_cast<std::uint32_t>(abi::OperationState::kEntering), -1);
  });
  return entered.sequence != 0;
}

/// Waits only where another rank is kMaxAhead calls behind, or the GPU kRecords.
void DeviceCalls::enter(const exec::Plan& plan, bool is_captured, std::int64_t timeout_ms,
                        Entered& entered) {
  const std::int64_t timeout_ns = timeout_ms * kNsPerMs;
  if (try_enter(plan, is_captured, timeout_ns, entered)) return;
  const Deadline deadline = Deadline::after_ms(timeout_ms);
  impl_.context->engine().drive([&] {  // may be asked again when it has entered
    return entered.sequence != 0 || try_enter(plan, is_captured, timeout_ns, entered) ||
           impl_.group->ended() || deadline.passed();
  });
  if (entered.sequence != 0) return;
  impl_.context->engine().synchronised([&] {
    const Rank late = impl_.group->laggard(impl_.group->issued() + 1);
    fail({ErrorCode::kTimeout, late, timeout_ns},
         describe(plan.key) + " could not begin within " + describe_ms(timeout_ms) + ": " +
             (late < 0 ? "this rank's GPU has not finished the operations before it"
                       : impl_.context->name(late, impl_.members[late]) + " is " +
                             std::to_string(transport::shm::kMaxAhead) + " calls behind"));
  });
  impl_.require_running();
}

/// Waits for ranks whose first call this is too, where their kernels wait for one another.
void DeviceCalls::meet(const exec::Plan& plan, std::uint64_t sequence, std::int64_t timeout_ms) {
  if (group_->absent() < 0) return;
  const Deadline deadline = Deadline::after_ms(timeout_ms);
  impl_.context->engine().drive(
      [&] { return group_->absent() < 0 || impl_.group->ended() || deadline.passed(); });
  impl_.context->engine().synchronised([&] {
    const int absent = group_->absent();
    if (absent < 0 || impl_.group->ended()) return;
    const Status status{ErrorCode::kTimeout, absent, timeout_ms * kNsPerMs};
    fail(status, impl_.explain_timeout(plan.key, sequence, status));
  });
}

exec::Task* DeviceCalls::call(const exec::Plan& plan, const void* input, void* output, void* stream,
                              std::int64_t timeout_ms) {
  const std::lock_guard lock(calls_mutex_);
  const exec::PlanKey& key = plan.key;
  const bool is_captured =
      group_->prepare({key.collective, key.dtype, key.op, key.root, key.count, address_of(input),
                       address_of(output), plan.input_bytes, plan.output_bytes, stream}) ==
      cuda::DeviceGroup::Way::kCaptured;
  Entered entered;
  enter(plan, is_captured, timeout_ms, entered);
  if (!is_captured) meet(plan, entered.sequence, timeout_ms);
  try {
    group_->submit(entered.sequence, plan.fingerprint);
  } catch (const Error& error) {
    // The others count on this rank: all learn of it, and the error is raised by the task.
    impl_.context->engine().synchronised(
        [&] { fail({error.code(), impl_.rank, 0}, describe(key) + ": " + error.what()); });
    impl_.context->engine().wake();
    if (entered.task == nullptr) throw;
  }
  return entered.task;
}

// --- watching -----------------------------------------------------------------------------------

void DeviceCalls::fail(Status status, std::string text) {
  impl_.group->fail(status, nullptr, std::move(text), true);
}

bool DeviceCalls::watch(std::int64_t now_ns) noexcept {
  exec::Group& group = *impl_.group;
  group.check(nullptr);
  group.compare(last_sequence_);
  finish_over();
  if (!group.ended()) look_for_trouble(now_ns);
  if (group.ended()) {
    end(now_ns);
    return now_ns < group.failed_ns() + kCalmNs;
  }
  return !pending_.empty();
}

/// What is over while nobody has aborted or complained is so because its work has been done:
/// abort() says that it comes before it lets anything go, and a kernel complains before it is over.
void DeviceCalls::finish_over() noexcept {
  while (!pending_.empty() && group_->is_over(pending_.front()->number_)) {
    if (group_->is_aborted() || impl_.group->ended() || group_->complained_of() >= 0) return;
    finish(*pending_.front(), kOkStatus, {});
    pending_.pop_front();
  }
}

void DeviceCalls::finish(DeviceTask& task, Status status, const std::string& text) noexcept {
  const bool is_ok = status.ok();
  show(
      task,
      static_cast<std::uint32_t>(is_ok ? abi::OperationState::kDone : abi::OperationState::kFailed),
      -1);
  if (!is_ok) task.set_text(text);
  task.finish(status);
  ended_some_ = true;
  if (!task.held_) free_.push_back(&task);
}

void DeviceCalls::look_for_trouble(std::int64_t now_ns) {
  // The lines have told who called what, unless the kernels have seen what the lines did not.
  if (const int other = group_->complained_of(); other >= 0) {
    impl_.group->compare(last_sequence_);  // the other's line may have come since
    if (impl_.group->ended()) return;
    return fail({ErrorCode::kMismatch, other, impl_.rank},
                "ranks called different things: the buffers of " +
                    impl_.context->name(other, impl_.members[other]) +
                    " are of another operation than this rank's" + describe_current());
  }
  if (!pending_.empty()) look_at_oldest(now_ns);
  if (impl_.group->ended() || !group_->has_captures()) return;
  const cuda::DeviceGroup::Stuck stuck = group_->stuck_capture(now_ns);
  const std::int64_t waited_ns = now_ns - stuck.since_ns;
  if (stuck.awaited < 0 || waited_ns < capture_timeout_ns_) return;
  fail({ErrorCode::kTimeout, stuck.awaited, waited_ns},
       "an operation of a graph has waited for " + describe_ms(waited_ns / kNsPerMs) + " for " +
           impl_.context->name(stuck.awaited, impl_.members[stuck.awaited]) +
           ", which has not launched its graph as often, or not finished");
}

void DeviceCalls::look_at_oldest(std::int64_t now_ns) {
  DeviceTask& task = *pending_.front();
  if (!group_->is_reached(impl_.rank, task.number_)) return;
  const int awaited = group_->awaited(task.number_);
  if (task.begin_ns_ == 0) task.begin_ns_ = now_ns;
  show(task, static_cast<std::uint32_t>(abi::OperationState::kRunning), awaited);
  const exec::Health& health = impl_.context->health();
  const bool has_left = awaited >= 0 && health.left(impl_.members[awaited]);
  if (!has_left) {
    task.left_ns_ = 0;
  } else if (task.left_ns_ == 0) {
    task.left_ns_ = now_ns;
  } else if (now_ns >= task.left_ns_ + exec::kGraceNs) {
    return fail({ErrorCode::kPeerFailed, awaited, 0}, {});
  }
  const std::int64_t waited_ns = now_ns - task.begin_ns_;
  if (task.timeout_ns_ == 0 || waited_ns < task.timeout_ns_) return;
  const Status status{ErrorCode::kTimeout, awaited, waited_ns};
  fail(status, impl_.explain_timeout(task.plan_->key, task.sequence_, status));
}

/// Nobody's kernel writes into this rank's memory, or this rank's into anybody's.
bool DeviceCalls::is_quiet() const noexcept {
  for (Rank r = 0; r < static_cast<Rank>(impl_.members.size()); ++r) {
    if (!group_->is_drained(r) && !impl_.context->health().failed(impl_.members[r])) return false;
  }
  return true;
}

void DeviceCalls::end(std::int64_t now_ns) noexcept {
  group_->abort();
  const exec::Group& group = *impl_.group;
  if (!is_quiet() && now_ns < group.failed_ns() + exec::kFenceNs) return;
  for (DeviceTask* task : pending_) finish(*task, group.failure(), group.failure_text());
  pending_.clear();
}

std::string DeviceCalls::describe_current() const {
  if (pending_.empty()) return {};
  const DeviceTask& task = *pending_.front();
  return " during " + std::string(name_of(task.plan_->key.collective)) + " #" +
         std::to_string(task.sequence_);
}

bool DeviceCalls::is_reached(std::uint64_t sequence, int rank) const noexcept {
  for (const DeviceTask* task : pending_) {
    if (task->sequence_ == sequence) return group_->is_reached(rank, task->number_);
  }
  return true;
}

/// The last record of the page is that of the oldest operation on a stream. Runs take theirs from
/// the front.
void DeviceCalls::show(const DeviceTask& task, std::uint32_t state, int awaited) noexcept {
  if constexpr (!kObservable) return;
  constexpr auto kRelaxed = std::memory_order_relaxed;
  const exec::Binding& binding = impl_.group->binding();
  abi::ProgressPage& page = binding.shm->page(binding.shm->self());
  const auto is = [&](abi::OperationState s) { return state == static_cast<std::uint32_t>(s); };
  const auto one_more = [](std::atomic<std::uint64_t>& counter) {
    counter.store(counter.load(kRelaxed) + 1, kRelaxed);  // one writer, under the engine's lock
  };
  if (is(abi::OperationState::kEntering)) one_more(page.posted);
  if (is(abi::OperationState::kDone)) {
    one_more(page.completed);
    binding.shm->count_bytes(task.plan_->payload_bytes);
  }
  if (is(abi::OperationState::kFailed)) one_more(page.failed);
  if (&task != pending_.front()) return;
  abi::OperationRecord& record = page.operations[abi::kPageOperations - 1];
  const exec::PlanKey& key = task.plan_->key;
  record.sequence.store(task.sequence_, kRelaxed);
  record.communicator.store(binding.communicator, kRelaxed);
  record.state.store(state, kRelaxed);
  record.collective.store(static_cast<std::uint32_t>(key.collective), kRelaxed);
  record.algorithm.store(static_cast<std::uint32_t>(schedule::Algorithm::kDirect), kRelaxed);
  record.dtype.store(static_cast<std::uint32_t>(key.dtype), kRelaxed);
  record.op.store(static_cast<std::uint32_t>(key.op), kRelaxed);
  record.count.store(key.count, kRelaxed);
  record.begin_ns.store(task.begin_ns_, kRelaxed);
  record.step.store(task.number_, kRelaxed);
  record.awaited_peer.store(awaited < 0 ? -1 : impl_.members[awaited], kRelaxed);
}

// --- DeviceWatch --------------------------------------------------------------------------------

DeviceWatch::DeviceWatch(Context& context) : context_(context), thread_([this] { run(); }) {}

DeviceWatch::~DeviceWatch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void DeviceWatch::add(DeviceCalls& calls) {
  context_.engine().synchronised([&] { calls_.push_back(&calls); });
}

void DeviceWatch::remove(DeviceCalls& calls) {
  context_.engine().synchronised([&] { std::erase(calls_, &calls); });
}

void DeviceWatch::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    bool busy = false, ended = false;
    context_.engine().synchronised([&] {
      for (DeviceCalls* calls : calls_) {
        busy = calls->watch(now_ns()) || busy;
        ended = calls->take_ended() || ended;
      }
    });
    if (ended) context_.engine().wake();
    lock.lock();
    changed_.wait_for(lock, busy ? kBusy : kIdle, [this] { return stopping_; });
  }
}

}  // namespace shoal::comm
