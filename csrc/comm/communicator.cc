#include "shoal/communicator.h"

#include <algorithm>
#include <utility>

#include "comm/arguments.h"
#include "comm/impl.h"
#include "comm/report.h"
#include "core/clock.h"

namespace shoal {

// --- Work --------------------------------------------------------------------------------------

Work::Work() noexcept = default;
Work::Work(std::shared_ptr<CommunicatorImpl> impl, exec::Task& task) noexcept
    : impl_(std::move(impl)), task_(&task) {}
Work::Work(Work&& other) noexcept
    : impl_(std::move(other.impl_)), task_(std::exchange(other.task_, nullptr)) {}

Work& Work::operator=(Work&& other) noexcept {
  std::swap(impl_, other.impl_);
  std::swap(task_, other.task_);
  return *this;
}

Work::~Work() {
  if (task_ == nullptr || !impl_->context->in_its_process()) return;
  exec::Engine& engine = impl_->context->engine();
  if (!task_->is_detached()) engine.wait(*task_, {});
  engine.release(*task_);
}

void Work::wait(const Interrupt& interrupt) {
  if (task_ == nullptr) return;
  exec::Engine& engine = impl_->context->engine();
  if (task_->is_detached()) engine.adopt(*task_);
  try {
    engine.wait(*task_, interrupt);
  } catch (...) {
    // The caller is leaving: its buffers must be left alone first.
    engine.synchronised([&] {
      impl_->group->fail({ErrorCode::kAborted, impl_->rank, 0}, nullptr,
                         "rank " + std::to_string(impl_->rank) + " was interrupted", true);
    });
    engine.wait(*task_, {});
    throw;
  }
  if (code() != ErrorCode::kOk) throw Error(code(), message());
}

bool Work::wait_for(std::int64_t timeout_ms) {
  if (task_ == nullptr || task_->done()) return true;
  const Deadline deadline = Deadline::after_ms(timeout_ms);
  if (task_->is_detached()) impl_->context->engine().adopt(*task_);
  struct Passed {};
  try {
    impl_->context->engine().wait(*task_, [&] {
      if (deadline.passed()) throw Passed{};
    });
  } catch (const Passed&) {
    return task_->done();
  }
  return true;
}

bool Work::done() const noexcept { return task_ == nullptr || task_->done(); }

bool Work::test() {
  if (task_ == nullptr) return true;
  if (task_->is_detached()) impl_->context->engine().adopt(*task_);
  return impl_->context->engine().test(*task_);
}

ErrorCode Work::code() const noexcept {
  return task_ == nullptr ? ErrorCode::kOk : task_->status().code;
}

const std::string& Work::message() const noexcept {
  static const std::string kNone;
  return task_ == nullptr ? kNone : task_->text();
}

Rank Work::peer() const noexcept {
  return task_ == nullptr || !task_->done() ? kAnySource : task_->source();
}

// --- PoolBlock ---------------------------------------------------------------------------------

struct PoolBlock::State {
  std::shared_ptr<comm::Context> context;
  memory::Offset offset = 0;
  std::int64_t bytes = 0;
};

PoolBlock::PoolBlock() noexcept = default;
PoolBlock::PoolBlock(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
PoolBlock::PoolBlock(PoolBlock&&) noexcept = default;

PoolBlock& PoolBlock::operator=(PoolBlock&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

PoolBlock::~PoolBlock() {
  if (state_ == nullptr || !state_->context->in_its_process()) return;
  memory::Pool& pool = state_->context->pool();
  const bool cut_off =
      state_->context->arena().offset_of(data(), state_->bytes) == memory::kNoOffset;
  if (cut_off) {
    pool.retire(state_->offset);  // its pages are no longer the node's
  } else {
    state_->context->leases().free(state_->offset, state_->bytes);
  }
}

void* PoolBlock::data() const noexcept {
  return state_ == nullptr ? nullptr : state_->context->arena().at(state_->offset);
}

Bytes PoolBlock::bytes() const noexcept { return {state_ == nullptr ? 0 : state_->bytes}; }

// --- Communicator ------------------------------------------------------------------------------

Communicator Communicator::init(const Options& options) {
  auto context = std::make_shared<comm::Context>(options);
  std::vector<Rank> members(static_cast<std::size_t>(context->ranks()));
  for (Rank r = 0; r < context->ranks(); ++r) members[r] = r;
  const memory::Offset control = context->world_control();
  return Communicator(
      std::make_shared<CommunicatorImpl>(std::move(context), 0, std::move(members), control));
}

Rank Communicator::rank() const noexcept { return impl_->rank; }
Rank Communicator::size() const noexcept { return static_cast<Rank>(impl_->members.size()); }
std::uint32_t Communicator::id() const noexcept { return impl_->group->binding().communicator; }
const std::string& Communicator::job() const noexcept { return impl_->context->job(); }

int Communicator::nodes() const noexcept {
  std::vector<int> nodes;
  for (const Rank world : impl_->members) nodes.push_back(impl_->context->peers()[world].node);
  std::sort(nodes.begin(), nodes.end());
  return static_cast<int>(std::unique(nodes.begin(), nodes.end()) - nodes.begin());
}

namespace {

/// How the ranks of this communicator are reached.
std::string describe_ways(const CommunicatorImpl& impl, int nodes) {
  const std::size_t ranks = impl.members.size();
  std::string text = std::to_string(ranks) + (ranks == 1 ? " rank on " : " ranks on ") +
                     std::to_string(nodes) + (nodes == 1 ? " node" : " nodes");
  if (ranks == 1) return text;
  if (static_cast<std::size_t>(nodes) < ranks) text += "; within a node: shared memory";
  if (nodes == 1) return text;
  return text + "; between nodes: " + impl.context->describe_network_and_devices();
}

}  // namespace

std::string Communicator::explain(Collective collective, Count count, DataType dtype,
                                  bool deterministic) const {
  const exec::PlanKey key =
      comm::make_key(*impl_, collective, count, dtype, ReduceOp::kSum, 0, deterministic);
  const comm::Choice choice = impl_->choose(key);
  return comm::describe(key) + ": " + std::string(schedule::name_of(choice.algorithm)) + " (" +
         comm::reason(choice, impl_->shape(), impl_->context->tuning()) + "); " +
         describe_ways(*impl_, nodes());
}

std::string Communicator::network() const { return impl_->context->describe_network(); }

Count Communicator::block_count(Collective collective, Bytes largest, DataType dtype) const {
  if (largest.value < 0) {
    comm::refuse(*impl_, collective, std::to_string(largest.value) + " bytes are negative");
  }
  schedule::Shape shape = impl_->shape();
  shape.collective = collective;
  const std::int64_t blocks = schedule::largest_blocks(shape);
  if (blocks == 0 || largest.value == 0) return {0};
  return {std::max<std::int64_t>(1, largest.value / (blocks * size_of(dtype)))};
}

Rank Communicator::node_ranks() const noexcept { return impl_->shape().node_ranks; }

std::vector<std::string> Communicator::algorithms(Collective collective) const {
  schedule::Shape shape = impl_->shape();
  shape.collective = collective;
  const bool one_node = shape.node_ranks == shape.ranks;
  std::vector<std::string> names;
  for (const schedule::Entry& entry : schedule::catalog()) {
    // Nobody's choice: they stand in where memory is not shared.
    if (schedule::is_staged(entry.algorithm)) continue;
    if (schedule::is_one_sided(entry.algorithm) && !impl_->context->has_put()) continue;
    if (one_node && entry.algorithm != schedule::Algorithm::kDirect) continue;
    if (schedule::supports(entry, shape)) names.emplace_back(schedule::name_of(entry.algorithm));
  }
  return names;
}

std::string Communicator::algorithm(Collective collective, Count count, DataType dtype) const {
  const exec::PlanKey key =
      comm::make_key(*impl_, collective, count, dtype, ReduceOp::kSum, 0, false);
  return std::string(schedule::name_of(impl_->choose(key).algorithm));
}

void Communicator::use_algorithm(Collective collective, const std::string& algorithm) {
  if (algorithm.empty()) return impl_->use_algorithm(collective, std::nullopt);
  const std::vector<std::string> names = algorithms(collective);
  if (std::ranges::find(names, algorithm) != names.end()) {
    return impl_->use_algorithm(collective, schedule::algorithm_named(algorithm));
  }
  std::string known;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  comm::refuse(*impl_, collective,
               "algorithm \"" + algorithm + "\" cannot run on these ranks; can: " + known);
}

Work Communicator::collective(Collective collective, ConstBuffer input, Buffer output, Count count,
                              DataType dtype, ReduceOp op, Rank root, const CallOptions& options) {
  impl_->require_running();
  const exec::PlanKey key = comm::make_key(*impl_, collective, count, dtype, op, root,
                                           options.deterministic, options.on_stream);
  const exec::Plan& plan = impl_->plan(key);
  comm::check_buffer(*impl_, key, "input", input.data, input.bytes.value, plan.input_bytes);
  comm::check_buffer(*impl_, key, "output", output.data, output.bytes.value, plan.output_bytes);
  comm::check_overlap(*impl_, plan, input.data, output.data);
  if (options.on_stream) {
    exec::Task* task = impl_->stream_calls().call(plan, input.data, output.data, options.stream,
                                                  comm::timeout_ms(*impl_, options));
    return task == nullptr ? Work() : Work(impl_, *task);
  }
  const bool only_reads =
      collective == Collective::kBroadcast && impl_->rank == root && input.data == output.data;
  if (!only_reads && impl_->context->has_views()) {
    comm::check_writable(*impl_, name_of(collective), "output", output.data, plan.output_bytes);
  }
  const exec::Call call{&plan, input.data, output.data,
                        comm::timeout_ms(*impl_, options) * kNsPerMs};
  exec::Run* run = impl_->context->engine().start(*impl_->group, call);
  return run == nullptr ? Work() : Work(impl_, *run);
}

Work Communicator::collective_of_lists(Collective collective, const ConstBlocks& input,
                                       const Blocks& output, Count count, DataType dtype,
                                       ReduceOp op, Rank root, const CallOptions& options) {
  impl_->require_running();
  const exec::PlanKey key = comm::make_key(*impl_, collective, count, dtype, op, root,
                                           options.deterministic, options.on_stream);
  const exec::Plan& plan = impl_->plan(key);
  const comm::BlockAddresses addresses = comm::check_lists(*impl_, plan, input, output);
  if (options.on_stream) {
    comm::refuse(*impl_, collective,
                 "lists of buffers are for the host's memory; on a stream give one buffer");
  }
  if (impl_->context->has_views()) {
    for (void* block : addresses.output) {
      comm::check_writable(*impl_, name_of(collective), "output", block, addresses.block_bytes);
    }
  }
  exec::Call call{&plan, nullptr, nullptr, comm::timeout_ms(*impl_, options) * kNsPerMs};
  if (plan.input_bytes > 0) {
    call.input = addresses.input[0];
    if (!addresses.are_adjacent(addresses.input)) call.input_list = addresses.input.data();
  }
  if (plan.output_bytes > 0) {
    call.output = addresses.output[0];
    if (!addresses.are_adjacent(addresses.output)) call.output_list = addresses.output.data();
  }
  exec::Run* run = impl_->context->engine().start(*impl_->group, call);
  return run == nullptr ? Work() : Work(impl_, *run);
}

/// Of a collective that has one block a rank on a side: that side may be a list.
[[gnu::always_inline]] inline Work Communicator::collective_of_blocks(
    Collective collective, const ConstBlocks& input, const Blocks& output, Count count,
    DataType dtype, ReduceOp op, Rank root, const CallOptions& options) {
  if (!input.list.empty() || !output.list.empty()) [[unlikely]] {
    return collective_of_lists(collective, input, output, count, dtype, op, root, options);
  }
  return this->collective(collective, input.whole, output.whole, count, dtype, op, root, options);
}

Work Communicator::barrier(const CallOptions& options) {
  return collective(Collective::kBarrier, {}, {}, Count{0}, DataType::kUint8, ReduceOp::kSum, 0,
                    options);
}

Work Communicator::broadcast(ConstBuffer input, Buffer output, Count count, DataType dtype,
                             Rank root, const CallOptions& options) {
  return collective(Collective::kBroadcast, input, output, count, dtype, ReduceOp::kSum, root,
                    options);
}

Work Communicator::reduce(ConstBuffer input, Buffer output, Count count, DataType dtype,
                          ReduceOp op, Rank root, const CallOptions& options) {
  return collective(Collective::kReduce, input, output, count, dtype, op, root, options);
}

Work Communicator::all_reduce(ConstBuffer input, Buffer output, Count count, DataType dtype,
                              ReduceOp op, const CallOptions& options) {
  return collective(Collective::kAllReduce, input, output, count, dtype, op, 0, options);
}

Work Communicator::all_gather(ConstBuffer input, const Blocks& output, Count count, DataType dtype,
                              const CallOptions& options) {
  return collective_of_blocks(Collective::kAllGather, input, output, count, dtype, ReduceOp::kSum,
                              0, options);
}

Work Communicator::reduce_scatter(const ConstBlocks& input, Buffer output, Count count,
                                  DataType dtype, ReduceOp op, const CallOptions& options) {
  return collective_of_blocks(Collective::kReduceScatter, input, output, count, dtype, op, 0,
                              options);
}

Work Communicator::all_to_all(const ConstBlocks& input, const Blocks& output, Count count,
                              DataType dtype, const CallOptions& options) {
  return collective_of_blocks(Collective::kAllToAll, input, output, count, dtype, ReduceOp::kSum, 0,
                              options);
}

Work Communicator::gather(ConstBuffer input, const Blocks& output, Count count, DataType dtype,
                          Rank root, const CallOptions& options) {
  return collective_of_blocks(Collective::kGather, input, output, count, dtype, ReduceOp::kSum,
                              root, options);
}

Work Communicator::scatter(const ConstBlocks& input, Buffer output, Count count, DataType dtype,
                           Rank root, const CallOptions& options) {
  return collective_of_blocks(Collective::kScatter, input, output, count, dtype, ReduceOp::kSum,
                              root, options);
}

std::vector<Work> Communicator::batch(std::span<const Message> messages,
                                      const CallOptions& options) {
  impl_->require_running();
  std::vector<exec::TransferCall> calls;
  calls.reserve(messages.size());
  const std::int64_t deadline_ns = Deadline::after_ms(comm::timeout_ms(*impl_, options)).at_ns();
  for (const Message& message : messages) {
    const char* what = message.sends ? "send" : "recv";
    const bool from_any = !message.sends && message.peer == kAnySource;
    if (!from_any && (message.peer < 0 || message.peer >= size())) {
      throw Error(ErrorCode::kInvalidArgument,
                  std::string(what) + ": rank " + std::to_string(message.peer) + " is not in [0, " +
                      std::to_string(size()) + ")" + impl_->describe_self());
    }
    if (message.tag < 0 || message.tag > transport::kMaxTag) {
      throw Error(ErrorCode::kInvalidArgument, std::string(what) + ": tag " +
                                                   std::to_string(message.tag) +
                                                   " is not in [0, 2^24)" + impl_->describe_self());
    }
    const std::int64_t bytes =
        message.sends ? message.source.bytes.value : message.target.bytes.value;
    const void* data = message.sends ? message.source.data : message.target.data;
    if (bytes < 0 || (bytes > 0 && data == nullptr)) {
      throw Error(ErrorCode::kInvalidArgument,
                  std::string(what) + ": the buffer is null" + impl_->describe_self());
    }
    if (!message.sends && !options.on_stream && impl_->context->has_views()) {
      comm::check_writable(*impl_, "recv", "the buffer", data, bytes);
    }
    exec::TransferCall call;
    call.peer = message.peer;
    call.tag = static_cast<std::uint32_t>(message.tag);
    call.dtype = message.dtype;
    call.bytes = bytes;
    call.source = message.source.data;
    call.target = message.target.data;
    call.sends = message.sends;
    call.deadline_ns = deadline_ns;
    calls.push_back(call);
  }
  std::vector<Work> works;
  works.reserve(calls.size());
  if (options.on_stream) {
    if (calls.empty()) return works;
    std::vector<exec::Task*> tasks(calls.size());
    impl_->stream_messages().batch(calls, options.stream, comm::timeout_ms(*impl_, options), tasks);
    for (exec::Task* task : tasks) works.emplace_back(impl_, *task);
    return works;
  }
  std::vector<exec::Transfer*> transfers(calls.size());
  impl_->context->engine().start(*impl_->group, calls, transfers);
  for (exec::Transfer* transfer : transfers) works.emplace_back(impl_, *transfer);
  return works;
}

// --- the rest -----------------------------------------------------------------------------------

ErrorCode Communicator::error() const noexcept {
  return impl_->group->ended() ? impl_->group->failure().code : ErrorCode::kOk;
}

void Communicator::abort(const std::string& reason) {
  const std::string text = "rank " + std::to_string(rank()) + " called abort: " + reason;
  impl_->context->engine().synchronised(
      [&] { impl_->group->fail({ErrorCode::kAborted, rank(), 0}, nullptr, text, true); });
  impl_->context->engine().wake();
}

void Communicator::finalize() { impl_->context->leave(); }

void Communicator::drive(const std::function<bool()>& until) {
  impl_->require_own_process();
  impl_->context->engine().drive(until);
}

void Communicator::wake() noexcept { impl_->context->engine().wake(); }

Statistics Communicator::statistics() const noexcept {
  const transport::shm::Node& node = impl_->context->node();
  const abi::ProgressPage& page = node.page(node.self());
  constexpr auto kRelaxed = std::memory_order_relaxed;
  return {static_cast<std::int64_t>(page.posted.load(kRelaxed) + page.at_once.load(kRelaxed)),
          static_cast<std::int64_t>(page.staged.load(kRelaxed)),
          {static_cast<std::int64_t>(page.staged_bytes.load(kRelaxed))}};
}

PoolBlock Communicator::allocate(Bytes bytes, std::int64_t alignment) {
  impl_->require_own_process();
  impl_->context->leases().reap();
  const auto block = impl_->context->pool().allocate(bytes.value, alignment);
  if (!block.ok()) {
    throw Error(ErrorCode::kOutOfMemory, impl_->context->pool().explain_out_of_memory(bytes.value));
  }
  auto state = std::make_unique<PoolBlock::State>();
  state->context = impl_->context;
  state->offset = block.value();
  state->bytes = bytes.value;
  return PoolBlock(std::move(state));
}

PoolStatistics Communicator::pool() const noexcept {
  // In a forked child the pool may be locked for ever, by a thread that is not there.
  if (!impl_->context->in_its_process()) return {};
  impl_->context->leases().reap();
  const memory::PoolUse use = impl_->context->pool().use();
  return {{use.used_bytes}, {use.committed_bytes}, {use.peak_bytes}, {use.limit_bytes}, use.blocks};
}

bool Communicator::in_pool(const void* data, Bytes bytes) const noexcept {
  return impl_->context->arena().offset_of(data, bytes.value) != memory::kNoOffset;
}

}  // namespace shoal
