#include "exec/engine.h"

#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "core/assert.h"
#include "core/clock.h"
#include "exec/lines.h"

namespace shoal::exec {

namespace {

/// With a network, events of the node and of the network have to be looked at in turn.
constexpr std::int64_t kMixedSleepNs = 1 * kNsPerMs;
/// Every sleep ends, to look at the clock and at signals.
constexpr std::int64_t kLongSleepNs = 20 * kNsPerMs;
/// Where something is awaited that rings no bell.
constexpr std::int64_t kSilentSleepNs = 100 * 1000;

/// Polls of a new run before start() returns, a microsecond at most: the others are often as far,
/// and then nothing more has to be set up.
constexpr int kMoment = 64;

/// How long drive() leaves the turns to those who wait before it looks at its own condition again.
constexpr int kStandBackUs = 500;

/// One more of them, while it lives.
class Counted {
 public:
  explicit Counted(std::atomic<int>& count) noexcept : count_(count) { ++count_; }
  ~Counted() { --count_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  std::atomic<int>& count_;
};

}  // namespace

Engine::Engine(transport::shm::Node& node, memory::Pool& pool, bool crowded)
    : node_(&node), crowded_(crowded), runs_(pool), transfers_(pool) {}

Engine::~Engine() {
  stopping_.store(true, std::memory_order_relaxed);
  if (progress_thread_.joinable()) {
    wake();
    progress_thread_.join();
  }
  SHOAL_ASSERT(active_.empty());
}

void Engine::add_transport(transport::Transport& transport, bool network) {
  const std::lock_guard lock(turn_);
  transports_.push_back(&transport);
  if (network) network_ = &transport;
}

void Engine::add_group(Group& group) {
  const std::lock_guard lock(turn_);
  groups_.push_back(&group);
  group.enter_page();
}

void Engine::remove_group(Group& group) {
  const std::lock_guard lock(turn_);
  std::erase(groups_, &group);
  group.leave_page();
}

Run* Engine::start(Group& group, const Call& call) {
  const std::lock_guard lock(turn_);
  const Plan& plan = *call.plan;
  // Whom a network has to bring is not there sooner by looking at his run.
  const int moment = crowded_ || !group.binding().one_node() ? 1 : kMoment;
  const std::uint64_t sequence = group.issue(plan.fingerprint);
  const bool at_once = plan.form != Form::kSchedule && !call.has_lists() && active_.empty() &&
                       group.may_enter(sequence) && !group.ended();
  const bool entered = at_once && enter_at_once(group, plan, sequence, call.input, runs_.pool());
  if (entered && finish_at_once(group, plan, sequence, call.output, moment)) {
    node_->count_operation(plan.payload_bytes);
    return nullptr;
  }
  Run& run = runs_.acquire();
  active_.reserve(active_.size() + 1);
  if (entered) {
    run.go_on(group, call, sequence);
  } else {
    run.start(group, call, sequence);
  }
  for (int i = 0; i < moment && !run.done(); ++i) run.poll(0);
  if (!run.done()) {
    run.set_begin(now_ns());
    active_.push_back(&run);
    node_->name_caller();
  } else if (run.status().ok()) {
    runs_.release(run);
    return nullptr;
  }
  return &run;
}

void Engine::start(Group& group, std::span<const TransferCall> calls,
                   std::span<Transfer*> transfers) {
  const std::lock_guard lock(turn_);
  begin(group, calls, transfers);
}

void Engine::begin(Group& group, std::span<const TransferCall> calls,
                   std::span<Transfer*> transfers) {
  active_.reserve(active_.size() + calls.size());
  // By what has come from all of them, or whoever is a message ahead would be served for long.
  const bool looks_around =
      std::ranges::any_of(calls, [](const TransferCall& call) { return call.peer == kAnySource; });
  for (std::size_t i = 0; looks_around && i < transports_.size(); ++i) transports_[i]->progress();
  for (std::size_t i = 0; i < calls.size(); ++i) {
    Transfer& transfer = transfers_.acquire();
    transfers[i] = &transfer;
    transfer.start(group, calls[i], transfer_lines_);
    transfer.poll(0);
    if (transfer.done()) continue;
    transfer.set_begin(now_ns());
    active_.push_back(&transfer);
    node_->name_caller();
  }
}

Run& Engine::begin(Group& group, const Call& call, std::uint64_t sequence) {
  Run& run = runs_.acquire();
  run.start(group, call, sequence);
  run.set_begin(now_ns());
  active_.push_back(&run);
  return run;
}

void Engine::begin(Task& task) { active_.push_back(&task); }

std::uint64_t Engine::enter(Group& group, const Plan& plan) noexcept {
  if (group.ended() || !group.may_enter(group.issued() + 1)) return 0;
  const std::uint64_t sequence = group.issue(plan.fingerprint);
  const transport::shm::NodeGroup& node = group.binding().node;
  node.entry(sequence, node.self()).fingerprint = plan.fingerprint;
  node.enter(sequence);
  group.binding().ring_node();
  group.complete(sequence);
  return sequence;
}

void Engine::adopt(Task& task) {
  const std::lock_guard lock(turn_);
  if (!task.done() && std::ranges::find(active_, &task) == active_.end()) active_.push_back(&task);
}

void Engine::release(Task& task) {
  SHOAL_ASSERT(task.done() || task.is_detached());
  const std::lock_guard lock(turn_);
  if (task.is_detached()) std::erase(active_, &task);
  task.recycle();
}

void Engine::synchronised(const std::function<void()>& action) {
  const std::lock_guard lock(turn_);
  action();
}

void Engine::tick() noexcept {
  const std::unique_lock lock(turn_, std::try_to_lock);
  if (!lock.owns_lock()) return;            // whoever has it looks at the same things
  for (Task* task : active_) task->look();  // first, so that the error names what was under way
  for (Group* group : groups_) group->check(nullptr);
}

/// Every transport and every task once, in the order in which they were started; also those that a
/// task begins meanwhile.
bool Engine::round(std::int64_t now_ns) noexcept {
  bool moved = false;
  for (transport::Transport* transport : transports_) moved = transport->progress() || moved;
  std::size_t kept = 0;
  for (std::size_t i = 0; i < active_.size(); ++i) {
    Task* task = active_[i];
    moved = task->poll(now_ns) || moved;
    if (!task->done()) active_[kept++] = task;
  }
  const bool completed = kept < active_.size();
  active_.resize(kept);
  constexpr auto kRelaxed = std::memory_order_relaxed;
  if (completed && waiters_.load(kRelaxed) + drivers_.load(kRelaxed) > 1) wake();
  return moved;
}

bool Engine::try_round(bool look_at_clock) noexcept {
  const std::unique_lock lock(turn_, std::try_to_lock);
  return lock.owns_lock() && round(look_at_clock ? now_ns() : 0);
}

bool Engine::test(Task& task) {
  if (!task.done()) try_round(true);
  return task.done();
}

void Engine::wait(Task& task, const Interrupt& interrupt) {
  if (task.done()) return;
  const Counted waiting(waiters_);
  const Counted shown(node_->page(node_->self()).drivers);
  node_->page(node_->self()).thread_id.store(::gettid(), std::memory_order_relaxed);
  WaitPolicy policy(crowded_);
  while (true) {
    const bool moved = try_round(policy.slow());
    if (task.done()) return;
    if (moved) {
      policy.moved();
      continue;
    }
    rest(policy, {&task, nullptr});
    if (interrupt && policy.slow()) interrupt();
  }
}

void Engine::rest(WaitPolicy& policy, const Awaited& awaited) {
  switch (policy.next()) {
    case WaitPolicy::Action::kSpin:
      relax();
      return;
    case WaitPolicy::Action::kYield:
      ::sched_yield();
      return;
    case WaitPolicy::Action::kSleep:
      sleep(awaited);
      return;
  }
}

/// Streams ring the doorbell: where one is awaited, and the network is not, it counts.
bool Engine::sleeps_on_network(const Task* task) const noexcept {
  const auto of_network = [](const Task* t) { return t->waits_for_network(); };
  if (task == nullptr) {
    return std::ranges::none_of(active_, &Task::is_detached) ||
           std::ranges::any_of(active_, of_network);
  }
  const bool network_only = node_->ranks() == 1 && !task->is_detached();
  return network_only || of_network(task);
}

/// Announces that it will sleep, looks once more, sleeps.
void Engine::sleep(const Awaited& awaited) {
  const std::uint32_t token = node_->prepare_sleep();
  int fd = -2;
  bool moved = false, silent = false;
  {
    const std::lock_guard lock(turn_);
    moved = round(now_ns());
    if (!moved && network_ != nullptr) fd = network_->arm();
    moved = moved || fd == -1;
    silent = std::ranges::any_of(active_, &Task::is_silent);
    if (fd >= 0 && (silent || !sleeps_on_network(awaited.task))) fd = -2;
  }
  moved = awaited.is_there() || moved;
  if (moved) {
    node_->cancel_sleep();
    return;
  }
  if (fd < 0) {
    const std::int64_t usual = network_ != nullptr ? kMixedSleepNs : kLongSleepNs;
    node_->sleep(token, silent ? kSilentSleepNs : usual);
    return;
  }
  node_->cancel_sleep();
  pollfd event{fd, POLLIN, 0};
  ::poll(&event, 1, static_cast<int>(kMixedSleepNs / kNsPerMs));
}

void Engine::start_progress_thread() {
  if (progress_thread_.joinable()) return;
  progress_thread_ =
      std::thread([this] { drive([this] { return stopping_.load(std::memory_order_relaxed); }); });
}

void Engine::drive(const std::function<bool()>& until) {
  const Counted driving(drivers_);
  const Counted shown(node_->page(node_->self()).drivers);
  WaitPolicy policy(true);  // never spins against the application
  while (!until()) {
    if (waiters_.load(std::memory_order_relaxed) > 0) {
      ::usleep(kStandBackUs);
    } else if (try_round(true)) {
      policy.moved();
    } else {
      rest(policy, {nullptr, &until});
    }
  }
}

}  // namespace shoal::exec
