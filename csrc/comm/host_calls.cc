#include "comm/host_calls.h"

#include <algorithm>
#include <utility>

#include "comm/impl.h"
#include "comm/report.h"
#include "core/clock.h"
#include "cuda/device_memory.h"

namespace shoal::comm {

namespace {

/// Buffers begin at pages of their own, and within them where the device has them among its lines,
/// so that kernels copy whole vectors.
constexpr std::int64_t kPage = 4096;
constexpr std::int64_t kLine = 64;

}  // namespace

/// Places in a block, one behind the other.
class HostCalls::Places {
 public:
  /// For a buffer of the device; offset in the block.
  std::int64_t take(const void* device, std::int64_t bytes) noexcept {
    const auto offset =
        bytes_ + static_cast<std::int64_t>(address_of(device) % std::uint64_t{kLine});
    bytes_ = (offset + bytes + kPage - 1) / kPage * kPage;
    return offset;
  }
  [[nodiscard]] std::int64_t bytes() const noexcept { return bytes_; }

 private:
  std::int64_t bytes_ = 0;
};

void HostTask::recycle() noexcept {
  held_ = false;
  if (done()) home_->free_tasks_.push_back(this);
}

// --- life ---------------------------------------------------------------------------------------

HostCalls::HostCalls(CommunicatorImpl& impl) : impl_(impl) {
  cuda::HostGroupOptions options;
  options.self = impl.context->node().self();
  options.on_reached = [&engine = impl.context->engine()] { engine.wake(); };
  group_ = impl.context->cuda().make_host_group(options);
}

HostCalls::~HostCalls() {
  exec::Engine& engine = impl_.context->engine();
  const Deadline deadline = Deadline::after_ms(impl_.context->options().timeout_ms);
  engine.drive([&] { return done() || deadline.passed(); });
  if (!done()) {
    engine.synchronised([&] {
      impl_.group->fail({ErrorCode::kTimeout, impl_.rank, 0}, nullptr,
                        "the communicator goes, and a stream has not come to an operation of it",
                        true);
    });
    engine.drive([&] { return done(); });  // ends: end() gives up after exec::kFenceNs
  }
  engine.synchronised([] {});  // the round in which that was seen is over
  group_->detach();
  if (group_->is_over(group_->issued())) {
    drop_blocks();
    return;
  }
  leave_behind(std::move(group_), impl_.context->rank(), impl_.group->binding().communicator);
}

// --- memory -------------------------------------------------------------------------------------

/// All operations are over.
void HostCalls::drop_blocks() noexcept {
  memory::Pool& pool = impl_.context->pool();
  memory::Arena& arena = impl_.context->arena();
  for (const Block& block : blocks_) {
    group_->unpin(arena.at(block.offset));
    if (arena.offset_of(arena.at(block.offset), block.bytes) == memory::kNoOffset) {
      pool.retire(block.offset);  // after an error: its pages are no longer the node's
    } else {
      pool.free(block.offset);
    }
  }
  blocks_.clear();
}

/// Where operations that are under way leave no room, waits for them.
std::byte* HostCalls::reserve(const std::string& call, std::int64_t bytes, Deadline deadline) {
  memory::Pool& pool = impl_.context->pool();
  const auto is_idle = [this] { return group_->is_over(group_->issued()); };
  if (bytes == 0) return nullptr;
  if (!blocks_.empty() && blocks_.back().bytes >= bytes) {
    return impl_.context->arena().at(blocks_.back().offset);
  }
  if (is_idle()) drop_blocks();
  auto block = pool.allocate(bytes, kPage);
  if (!block.ok() && !blocks_.empty()) {
    drive_until(deadline, is_idle);
    drop_blocks();
    block = pool.allocate(bytes, kPage);
  }
  if (!block.ok()) {
    throw Error(ErrorCode::kOutOfMemory, call + ": no pinned memory of the host to stage in: " +
                                             pool.explain_out_of_memory(bytes));
  }
  std::byte* const memory = impl_.context->arena().at(block.value());
  try {
    group_->pin(memory, (bytes + kPage - 1) / kPage * kPage);
  } catch (...) {
    pool.free(block.value());
    throw;
  }
  blocks_.push_back({block.value(), bytes});
  return memory;
}

// --- a call -------------------------------------------------------------------------------------

void HostCalls::drive_until(Deadline deadline, const std::function<bool()>& is_there) {
  impl_.context->engine().drive(
      [&] { return is_there() || impl_.group->ended() || deadline.passed(); });
  impl_.require_running();
  if (is_there()) return;
  throw Error(ErrorCode::kTimeout,
              "this rank's GPU has not finished the operations before this one; nothing of it has "
              "been enqueued");
}

void HostCalls::copy_in(const void* device, std::byte* host, std::int64_t bytes) {
  if (bytes > 0) inputs_.push_back({address_of(device), host, bytes});
}

void HostCalls::copy_out(void* device, std::byte* host, std::int64_t bytes) {
  if (bytes > 0) outputs_.push_back({address_of(device), host, bytes});
}

exec::Task* HostCalls::call(const exec::Plan& plan, const void* input, void* output, void* stream,
                            std::int64_t timeout_ms) {
  const std::lock_guard lock(calls_mutex_);
  const std::string name(name_of(plan.key.collective));
  const Deadline deadline = Deadline::after_ms(timeout_ms);
  group_->check_stream(name, stream);
  group_->check_memory(name, "input", address_of(input), plan.input_bytes);
  group_->check_memory(name, "output", address_of(output), plan.output_bytes);
  const bool in_place = input == output && plan.input_bytes == plan.output_bytes;
  const bool only_reads = in_place && plan.key.collective == Collective::kBroadcast;
  Places places;
  const std::int64_t in = places.take(input, plan.input_bytes);
  const std::int64_t out = in_place ? in : places.take(output, plan.output_bytes);
  drive_until(deadline, [&] { return group_->has_room(1); });
  std::byte* const block = reserve(name, places.bytes(), deadline);
  inputs_.clear();
  outputs_.clear();
  copy_in(input, block + in, plan.input_bytes);
  if (!only_reads) copy_out(output, block + out, plan.output_bytes);
  Operation& operation = new_operation();
  operation.timeout_ns = timeout_ms * kNsPerMs;
  operation.collective = {&plan, block + in, block + out, operation.timeout_ns};
  exec::Task* task = nullptr;
  enqueue(describe(plan.key), operation, stream, {&task, 1});
  return task;
}

void HostCalls::batch(std::span<const exec::TransferCall> calls, void* stream,
                      std::int64_t timeout_ms, std::span<exec::Task*> tasks) {
  const std::lock_guard lock(calls_mutex_);
  const Deadline deadline = Deadline::after_ms(timeout_ms);
  group_->check_stream("send or recv", stream);
  int received = 0;
  Places places;
  std::vector<std::int64_t> offsets;
  for (const exec::TransferCall& call : calls) {
    const void* const device = call.sends ? call.source : call.target;
    group_->check_memory(call.sends ? "send" : "recv", "the buffer", address_of(device),
                         call.bytes);
    offsets.push_back(places.take(device, call.bytes));
    if (!call.sends) ++received;
  }
  if (received > cuda::HostGroup::kMaxOutputs) {
    throw Error(ErrorCode::kInvalidArgument, "batch: " + std::to_string(received) +
                                                 " receives on a stream are more than the " +
                                                 std::to_string(cuda::HostGroup::kMaxOutputs) +
                                                 " that one batch can have; make it two");
  }
  drive_until(deadline, [&] { return group_->has_room(received); });
  std::byte* const block = reserve("send or recv", places.bytes(), deadline);
  inputs_.clear();
  outputs_.clear();
  Operation& operation = new_operation();
  operation.timeout_ns = timeout_ms * kNsPerMs;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    exec::TransferCall call = calls[i];
    std::byte* const host = block + offsets[i];
    if (call.sends) {
      copy_in(call.source, host, call.bytes);
      call.source = host;
    } else {
      copy_out(call.target, host, call.bytes);
      call.target = host;
    }
    operation.messages.push_back(call);
  }
  enqueue("send or recv", operation, stream, tasks);
}

HostCalls::Operation& HostCalls::new_operation() {
  Operation* operation = nullptr;
  impl_.context->engine().synchronised([&] {
    if (free_operations_.empty()) {
      all_operations_.push_back(std::make_unique<Operation>());
      free_operations_.reserve(all_operations_.size());  // so that giving back does not allocate
      free_operations_.push_back(all_operations_.back().get());
    }
    operation = free_operations_.back();
    free_operations_.pop_back();
  });
  operation->stage = Stage::kStream;
  operation->collective = {};
  operation->sequence = 0;
  operation->messages.clear();
  operation->tasks.clear();
  return *operation;
}

/// Engine's lock.
HostTask& HostCalls::new_task() {
  if (free_tasks_.empty()) {
    all_tasks_.push_back(std::make_unique<HostTask>(*this));
    free_tasks_.reserve(all_tasks_.size());
    free_tasks_.push_back(all_tasks_.back().get());
  }
  HostTask& task = *free_tasks_.back();
  free_tasks_.pop_back();
  task.restart();
  task.inner_ = nullptr;
  task.output_ = -1;
  task.source_ = kAnySource;
  task.held_ = true;
  return task;
}

/// From here on the operation is polled. Engine's lock.
void HostCalls::show(Operation& operation, std::span<exec::Task*> tasks) {
  operation.number = group_->issued() + 1;
  if (operation.collective.plan != nullptr) {
    operation.sequence = impl_.group->issue(operation.collective.plan->fingerprint);
  }
  int outputs = 0;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    HostTask& task = new_task();
    const bool is_output = operation.messages.empty()
                               ? !outputs_.empty()
                               : !operation.messages[i].sends && operation.messages[i].bytes > 0;
    if (is_output) task.output_ = outputs++;
    operation.tasks.push_back(&task);
    tasks[i] = &task;
  }
  pending_.push_back(&operation);
  if (!done()) return;
  restart();
  impl_.context->engine().begin(*this);
  impl_.context->host_driver().begin();
}

void HostCalls::enqueue(const std::string& call, Operation& operation, void* stream,
                        std::span<exec::Task*> tasks) {
  exec::Engine& engine = impl_.context->engine();
  bool has_ended = false;
  engine.synchronised([&] {
    has_ended = impl_.group->ended();
    if (has_ended) {
      free_operations_.push_back(&operation);
    } else {
      show(operation, tasks);
    }
  });
  if (has_ended) impl_.require_running();
  // The operation may be over, and used again, before submit() returns.
  try {
    group_->submit(stream, inputs_, outputs_);
  } catch (const Error& error) {
    // The others count on this rank: all learn of it, and the error is raised by the task.
    engine.synchronised([&] {
      impl_.group->fail({error.code(), impl_.rank, 0}, nullptr, call + ": " + error.what(), true);
      group_->abort();
    });
    group_->give_up();
    engine.wake();
  }
}

// --- going on -----------------------------------------------------------------------------------

bool HostCalls::poll(std::int64_t now_ns) noexcept {
  exec::Group& group = *impl_.group;
  group.check(nullptr);
  bool moved = false;
  while (!group.ended() && !pending_.empty() && go_on(*pending_.front())) moved = true;
  if (group.ended()) moved = end(now_ns == 0 ? shoal::now_ns() : now_ns) || moved;
  return moved;
}

/// The stream has only its copies left, which ring no bell.
bool HostCalls::is_silent() const noexcept {
  return impl_.group->ended() || (!pending_.empty() && pending_.front()->stage == Stage::kCopying);
}

/// Of the oldest operation; false: it has to wait.
bool HostCalls::go_on(Operation& operation) noexcept {
  switch (operation.stage) {
    case Stage::kStream:
      if (!group_->is_reached(operation.number)) return false;
      begin(operation);
      operation.stage = Stage::kHost;
      return true;
    case Stage::kHost:
      if (!std::ranges::all_of(operation.tasks,
                               [](const HostTask* task) { return task->inner_->done(); })) {
        return false;
      }
      if (!collect(operation)) return true;
      group_->release(operation.number);
      operation.stage = Stage::kCopying;
      return true;
    case Stage::kCopying:
      if (!group_->is_over(operation.number)) return false;
      finish_front(kOkStatus, {});
      return true;
  }
  return false;
}

/// Time counts from here on.
void HostCalls::begin(Operation& operation) noexcept {
  exec::Engine& engine = impl_.context->engine();
  if (operation.collective.plan != nullptr) {
    operation.tasks[0]->inner_ =
        &engine.begin(*impl_.group, operation.collective, operation.sequence);
    return;
  }
  const std::int64_t deadline_ns = now_ns() + operation.timeout_ns;
  for (exec::TransferCall& message : operation.messages) message.deadline_ns = deadline_ns;
  transfers_.resize(operation.messages.size());
  engine.begin(*impl_.group, operation.messages, transfers_);
  for (std::size_t i = 0; i < transfers_.size(); ++i) operation.tasks[i]->inner_ = transfers_[i];
}

/// What the host has done. False: not all of it is well, and the communicator has ended, since what
/// the stream has queued behind it was meant for its result.
bool HostCalls::collect(Operation& operation) noexcept {
  for (HostTask* task : operation.tasks) {
    exec::Task* const inner = task->inner_;
    if (!inner->status().ok()) {
      impl_.group->fail(inner->status(), nullptr, inner->text(), true);
      return false;
    }
  }
  for (HostTask* task : operation.tasks) {
    task->source_ = task->inner_->source();
    std::exchange(task->inner_, nullptr)->recycle();
    if (task->output_ >= 0) group_->allow(operation.number, task->output_);
  }
  return true;
}

/// True: that was all.
bool HostCalls::end(std::int64_t now_ns) noexcept {
  group_->abort();
  if (pending_.empty()) return false;
  Operation& front = *pending_.front();
  for (const HostTask* task : front.tasks) {
    if (task->inner_ != nullptr && !task->inner_->done()) return false;  // it ends by itself
  }
  const exec::Group& group = *impl_.group;
  const bool is_quiet = group_->is_over(group_->issued());
  if (!is_quiet && now_ns < group.failed_ns() + exec::kFenceNs) return false;
  for (HostTask* task : front.tasks) {
    if (task->inner_ != nullptr) std::exchange(task->inner_, nullptr)->recycle();
  }
  while (!pending_.empty()) finish_front(group.failure(), group.failure_text());
  return true;
}

void HostCalls::finish_front(Status status, const std::string& text) noexcept {
  Operation& operation = *pending_.front();
  pending_.pop_front();
  for (HostTask* task : operation.tasks) {
    if (!status.ok()) task->set_text(text);
    task->finish(status);
    if (!task->held_) free_tasks_.push_back(task);
  }
  free_operations_.push_back(&operation);
  if (pending_.empty()) {
    finish(kOkStatus);
    impl_.context->host_driver().end();
  }
  impl_.context->engine().wake();
}

std::string HostCalls::describe_current() const {
  if (pending_.empty()) return {};
  const Operation& operation = *pending_.front();
  if (operation.collective.plan != nullptr) {
    return " during " + std::string(name_of(operation.collective.plan->key.collective)) + " #" +
           std::to_string(operation.sequence);
  }
  const exec::TransferCall& message = operation.messages.front();
  const std::string peer =
      message.peer == kAnySource ? "any source" : "rank " + std::to_string(message.peer);
  return (message.sends ? " during send to " : " during recv from ") + peer;
}

// --- HostDriver ---------------------------------------------------------------------------------

HostDriver::HostDriver(Context& context) : context_(context), thread_([this] { run(); }) {}

HostDriver::~HostDriver() {
  {
    const std::lock_guard lock(mutex_);
    stopping_.store(true, std::memory_order_relaxed);
  }
  changed_.notify_all();
  context_.engine().wake();
  thread_.join();
}

void HostDriver::begin() {
  const std::lock_guard lock(mutex_);
  busy_.fetch_add(1, std::memory_order_relaxed);
  changed_.notify_all();
}

void HostDriver::end() noexcept { busy_.fetch_sub(1, std::memory_order_relaxed); }

void HostDriver::run() {
  const auto is_idle = [this] { return busy_.load(std::memory_order_relaxed) == 0; };
  const auto is_stopping = [this] { return stopping_.load(std::memory_order_relaxed); };
  std::unique_lock lock(mutex_);
  while (!is_stopping()) {
    changed_.wait(lock, [&] { return !is_idle() || is_stopping(); });
    lock.unlock();
    context_.engine().drive([&] { return is_idle() || is_stopping(); });
    lock.lock();
  }
}

}  // namespace shoal::comm
