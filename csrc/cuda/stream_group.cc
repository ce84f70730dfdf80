#include "cuda/stream_group.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace shoal::cuda {

namespace {

/// What a block of threads works on before a further one is worth launching.
constexpr std::int64_t kBytesPerBlock = 32 << 10;
/// Of a one-shot kernel: more blocks than this gain nothing below WorkspaceLayout::message_limit().
constexpr int kOneShotBlocks = 4;
constexpr int kPacketsPerThread = 2;
constexpr int kWarpThreads = 32;
/// Blocks of one launch for each multiprocessor: more find no place at once.
constexpr int kBlocksPerMultiprocessor = 2;

/// Bytes of each source that one rank reads.
std::int64_t share_bytes(const StreamCall& call, int ranks) noexcept {
  const std::int64_t block = call.count * size_of(call.dtype);
  switch (call.collective) {
    case Collective::kAllReduce:
    case Collective::kReduce:
    case Collective::kBroadcast:
      return block / ranks;
    default:
      return block;
  }
}

}  // namespace

StreamGroup::StreamGroup(const PrimaryContext& context, const Kernels& kernels,
                         const Members& members, std::shared_ptr<const MappedMemory> block,
                         const std::uint64_t* bases)
    : context_(&context),
      kernels_(&kernels),
      members_(members),
      control_(block->memory(), members.ranks),
      bases_(bases),
      mapped_(std::move(block)),
      number_(issued()),
      batch_(3 * static_cast<std::size_t>(members.ranks) + 2),  // all that one operation needs
      workspace_(members.ranks),
      workspaces_(static_cast<std::size_t>(members.ranks)) {
  watches_.resize(static_cast<std::size_t>(control_.layout().captures()));
  control_.set_place(members.self, members.workspace);
  control_.store(control_.layout().flag(ControlLayout::kPresent, members_.self), 1);
}

StreamGroup::~StreamGroup() {
  const ContextGuard guard(*context_);
  telling_ = Stream();
}

bool StreamGroup::has_room() const noexcept {
  return is_over(issued() + 1 - kRecords);  // 0 and those before it are over from the beginning
}

// --- stream memory operations -------------------------------------------------------------------

void StreamGroup::write(std::int64_t offset, std::uint32_t value) noexcept {
  batch_.write(device(offset), value);
}

void StreamGroup::wait(std::int64_t offset, std::uint32_t value, unsigned condition) noexcept {
  batch_.wait(device(offset), value, condition);
}

Outcome StreamGroup::flush(CUstream stream) noexcept {
  return batch_.flush(context_->driver(), stream);
}

// --- an operation -------------------------------------------------------------------------------

void StreamGroup::fill(Record& record, const StreamCall& call) const noexcept {
  record.sequence = call.sequence;
  record.fingerprint = call.fingerprint;
  record.input_owner = std::max(0, call.input.owner);
  record.output_owner = std::max(0, call.output.owner);
  record.input_offset = call.input.offset;
  record.output_offset = call.output.offset;
}

KernelParameters StreamGroup::parameters(const StreamCall& call) const noexcept {
  const ControlLayout& layout = control_.layout();
  const std::int64_t element_bytes = kernel_for(call.collective, call.dtype, call.op).element_bytes;
  KernelParameters p;
  p.records = pointer<const Record>(layout.record(0, number_));
  p.record_stride = layout.record(1, 0) - layout.record(0, 0);
  p.bases = bases_;
  p.abort = pointer<const std::uint32_t>(ControlLayout::abort());
  p.complaint = pointer<std::uint64_t>(layout.complaint(members_.self));
  p.sequence = call.sequence;
  p.fingerprint = call.fingerprint;
  p.count = call.count * size_of(call.dtype) / element_bytes;
  p.scale = reduces(call.collective) && call.op == ReduceOp::kAvg ? 1.0 / members_.ranks : 1.0;
  p.collective = static_cast<int>(call.collective);
  p.self = members_.self;
  p.ranks = members_.ranks;
  p.root = call.root;
  return p;
}

int StreamGroup::blocks_for(const StreamCall& call) const noexcept {
  const std::int64_t useful = share_bytes(call, members_.ranks) / kBytesPerBlock + 1;
  std::int64_t most = kBlocksPerMultiprocessor * kernels_->multiprocessors();
  if (members_.blocks_limit > 0) most = std::min<std::int64_t>(most, members_.blocks_limit);
  return static_cast<int>(std::min(useful, most));
}

/// A barrier moves nothing: only where the kernel does the waiting there is one.
Outcome StreamGroup::launch(const StreamCall& call, const KernelParameters& p,
                            bool spins) noexcept {
  if (call.collective == Collective::kBarrier && !spins) return {};
  const int kernel = kernel_for(call.collective, call.dtype, call.op).number;
  return kernels_->launch(kernel, p, blocks_for(call), spins, call.stream);
}

/// This rank has come so far on the stream, and waits for the others.
void StreamGroup::wait_for_all(ControlLayout::Flag phase) noexcept {
  const ControlLayout& layout = control_.layout();
  write(layout.flag(phase, members_.self), number_);
  for (int r = 0; r < members_.ranks; ++r) {
    if (r != members_.self) wait(layout.flag(phase, r), number_, CU_STREAM_WAIT_VALUE_GEQ);
  }
}

Outcome StreamGroup::enqueue(const StreamCall& call) noexcept {
  const StreamGuard guard(*context_);
  const ControlLayout& layout = control_.layout();
  const std::uint32_t before = number_++;
  if (!members_.spins) fill(control_.record_at(layout.record(members_.self, number_)), call);
  control_.store(layout.flag(ControlLayout::kIssued, members_.self), number_);
  const std::optional<CUstream> last_stream = std::exchange(last_stream_, call.stream);
  if (last_stream.has_value() && *last_stream != call.stream) {
    wait(layout.flag(ControlLayout::kCompleted, members_.self), before, CU_STREAM_WAIT_VALUE_GEQ);
  }
  if (members_.spins) return enqueue_spinning(call);
  const KernelParameters p = parameters(call);
  for (const ControlLayout::Flag phase : {ControlLayout::kReady, ControlLayout::kDone}) {
    wait_for_all(phase);
    if (phase == ControlLayout::kDone) break;
    if (call.collective == Collective::kBarrier) continue;
    if (Outcome outcome = flush(call.stream); !outcome.ok()) return outcome;
    if (Outcome outcome = launch(call, p, false); !outcome.ok()) return outcome;
  }
  if (!call.ends_later) {
    write(layout.flag(ControlLayout::kCompleted, members_.self), number_);
  }
  return flush(call.stream);
}

// --- kernels that wait for one another ----------------------------------------------------------

bool StreamGroup::is_one_shot(Collective collective, std::int64_t block_bytes) const noexcept {
  return members_.spins &&
         (collective == Collective::kBarrier || block_bytes <= workspace_.message_limit());
}

/// Its workspace may be something else's by now, so nothing can be sent to it.
bool StreamGroup::has_one_left() const noexcept {
  // seq_cst: pairs with the one in leave(): either this rank sees that the other has left, or that
  // one sees what this one has issued
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (int r = 0; r < members_.ranks; ++r) {
    if (flag(ControlLayout::kLeft, r) != 0) return true;
  }
  return false;
}

Outcome StreamGroup::clear(std::int64_t offset, std::int64_t bytes, CUstream stream) noexcept {
  return {"cuMemsetD32Async",
          context_->driver().memset_d32_async(members_.workspace + static_cast<CUdeviceptr>(offset),
                                              0, static_cast<std::size_t>(bytes) / 4, stream)};
}

/// See workspace.h.
Outcome StreamGroup::sweep(CUstream stream) noexcept {
  if (number_ % kSweep > 1) return {};
  if (Outcome outcome = flush(stream); !outcome.ok()) return outcome;  // what is waited for first
  Outcome outcome = clear(WorkspaceLayout::done(0), WorkspaceLayout::done_bytes(), stream);
  if (!outcome.ok()) return outcome;
  return clear(workspace_.slot(number_ + 1), workspace_.slot_bytes(), stream);
}

/// All ranks are there to be sent something, and where.
bool StreamGroup::can_send() noexcept {
  if (is_aborted() || has_one_left()) return false;
  if (!knows_all_ && absent() >= 0) return false;
  for (int r = 0; !knows_all_ && r < members_.ranks; ++r) {
    workspaces_[static_cast<std::size_t>(r)] = control_.place(r);
  }
  return knows_all_ = true;
}

void StreamGroup::fill(Spin& spin, const StreamCall& call) const noexcept {
  const ControlLayout& layout = control_.layout();
  spin.ready = pointer<std::uint32_t>(layout.flag(ControlLayout::kReady, members_.self));
  spin.done = pointer<std::uint32_t>(layout.flag(ControlLayout::kDone, members_.self));
  if (!call.ends_later) {
    spin.completed = pointer<std::uint32_t>(layout.flag(ControlLayout::kCompleted, members_.self));
  }
  spin.input = reinterpret_cast<const void*>(call.input_address);
  spin.output = reinterpret_cast<void*>(call.output_address);
  spin.value = number_;
  std::ranges::copy(workspaces_, spin.workspaces);
}

Outcome StreamGroup::launch_one_shot(const StreamCall& call, const KernelParameters& p) noexcept {
  const std::int64_t packets =
      (call.count * size_of(call.dtype) + WorkspaceLayout::kDataBytes - 1) /
      WorkspaceLayout::kDataBytes;
  // One thread a rank looks at its header, one at whether all has ended: no one does both.
  const std::int64_t useful = std::max<std::int64_t>(packets, members_.ranks + 1);
  const auto threads = static_cast<int>(std::min<std::int64_t>(
      (useful + kWarpThreads - 1) / kWarpThreads * kWarpThreads, kBlockThreads));
  const std::int64_t most = members_.blocks_limit > 0 ? members_.blocks_limit : kOneShotBlocks;
  const auto blocks =
      static_cast<int>(std::clamp<std::int64_t>(packets / (kPacketsPerThread * kBlockThreads), 1,
                                                std::min<std::int64_t>(most, kOneShotBlocks)));
  const int kernel = kernel_for(call.collective, call.dtype, call.op).number;
  return kernels_->launch_one_shot(kernel, p, blocks, threads, call.stream);
}

/// An operation that cannot be done: its place on the stream, until the communicator ends.
Outcome StreamGroup::enqueue_nothing(const StreamCall& call) noexcept {
  wait_for_all(ControlLayout::kReady);
  if (!call.ends_later) {
    write(control_.layout().flag(ControlLayout::kCompleted, members_.self), number_);
  }
  return flush(call.stream);
}

Outcome StreamGroup::enqueue_spinning(const StreamCall& call) noexcept {
  if (!can_send()) return enqueue_nothing(call);
  if (Outcome outcome = sweep(call.stream); !outcome.ok()) return outcome;
  if (Outcome outcome = flush(call.stream); !outcome.ok()) return outcome;
  KernelParameters p = parameters(call);
  fill(p.spin, call);
  const std::int64_t bytes = call.count * size_of(call.dtype);
  return is_one_shot(call.collective, bytes) ? launch_one_shot(call, p) : launch(call, p, true);
}

Outcome StreamGroup::finish(CUstream stream) noexcept {
  const StreamGuard guard(*context_);
  write(control_.layout().flag(ControlLayout::kCompleted, members_.self), number_);
  return flush(stream);
}

Outcome StreamGroup::capture(const StreamCall& call) noexcept {
  const StreamGuard guard(*context_);
  const ControlLayout& layout = control_.layout();
  const int slot = captured_.load(std::memory_order_relaxed);
  const int self = members_.self;
  fill(control_.record_at(layout.capture_record(slot, self)), call);
  KernelParameters p = parameters(call);
  p.records = pointer<const Record>(layout.capture_record(slot, 0));
  p.record_stride = sizeof(Record);
  p.runs = pointer<std::uint32_t>(layout.capture_runs(slot, self));
  const auto meet = [&](auto flag) {  // flag(from, to)
    for (int r = 0; r < members_.ranks; ++r) {
      if (r != self) write(flag(self, r), 1);
    }
    for (int r = 0; r < members_.ranks; ++r) {
      if (r != self) wait(flag(r, self), 1, CU_STREAM_WAIT_VALUE_EQ);
    }
    for (int r = 0; r < members_.ranks; ++r) {
      if (r != self) write(flag(r, self), 0);
    }
    return flush(call.stream);
  };
  // release: whoever looks for captures sees the record's slot
  captured_.store(slot + 1, std::memory_order_release);
  Outcome outcome = meet([&](int from, int to) { return layout.capture_ready(slot, from, to); });
  if (outcome.ok()) outcome = launch(call, p, false);
  if (outcome.ok()) {
    outcome = meet([&](int from, int to) { return layout.capture_done(slot, from, to); });
  }
  return outcome;
}

Outcome StreamGroup::order_after(std::uint32_t number, CUstream stream) const noexcept {
  StreamBatch batch(1);
  batch.wait(device(control_.layout().flag(ControlLayout::kCompleted, members_.self)), number,
             CU_STREAM_WAIT_VALUE_GEQ);
  return batch.flush(context_->driver(), stream);
}

int StreamGroup::absent() const noexcept {
  for (int r = 0; members_.spins && r < members_.ranks; ++r) {
    if (flag(ControlLayout::kPresent, r) == 0) return r;
  }
  return -1;
}

// --- looking at it ------------------------------------------------------------------------------

int StreamGroup::awaited(std::uint32_t number) const noexcept {
  if (!is_reached(number) || is_over(number)) return -1;
  for (const ControlLayout::Flag phase : {ControlLayout::kReady, ControlLayout::kDone}) {
    for (int r = 0; r < members_.ranks; ++r) {
      if (!has_reached(flag(phase, r), number)) return r;
    }
  }
  return -1;
}

int StreamGroup::complained_of() const noexcept {
  const std::uint64_t complaint = control_.complaint(members_.self);
  return static_cast<int>(complaint & 0xffff) - 1;
}

StreamGroup::Stuck StreamGroup::stuck_capture(std::int64_t now_ns) noexcept {
  const ControlLayout& layout = control_.layout();
  Stuck longest;
  // acquire: pairs with the release in capture()
  const int slots = captured_.load(std::memory_order_acquire);
  for (int slot = 0; slot < slots; ++slot) {
    int awaited = -1;
    for (int r = 0; r < members_.ranks && awaited < 0; ++r) {
      // What this rank has set and the other has not seen.
      const bool waits = control_.load(layout.capture_ready(slot, members_.self, r)) != 0 ||
                         control_.load(layout.capture_done(slot, members_.self, r)) != 0;
      if (waits) awaited = r;
    }
    Watch& watch = watches_[slot];
    const std::uint32_t runs = control_.load(layout.capture_runs(slot, members_.self));
    if (awaited != watch.awaited || runs != watch.runs) watch = {runs, awaited, now_ns};
    if (awaited >= 0 && (longest.awaited < 0 || watch.since_ns < longest.since_ns)) {
      longest = {awaited, watch.since_ns};
    }
  }
  return longest;
}

// --- the end ------------------------------------------------------------------------------------

void StreamGroup::abort() noexcept {
  const ControlLayout& layout = control_.layout();
  control_.store(ControlLayout::abort(), 1);
  std::uint32_t latest = issued();
  for (int r = 0; r < members_.ranks; ++r) {
    const std::uint32_t theirs = flag(ControlLayout::kIssued, r);
    if (has_reached(theirs, latest)) latest = theirs;
  }
  for (int r = 0; r < members_.ranks; ++r) {
    control_.store(layout.flag(ControlLayout::kReady, r), latest + kFarAhead);
    control_.store(layout.flag(ControlLayout::kDone, r), latest + kFarAhead);
  }
  const int slots = captured_.load(std::memory_order_acquire);
  for (int slot = 0; slot < slots; ++slot) {
    for (int from = 0; from < members_.ranks; ++from) {
      for (int to = 0; to < members_.ranks; ++to) {
        control_.store(layout.capture_ready(slot, from, to), 1);
        control_.store(layout.capture_done(slot, from, to), 1);
      }
    }
  }
  if (members_.spins && !told_.exchange(true, std::memory_order_relaxed)) tell_device();
}

/// Kernels of this rank that begin from then on write nothing. Those of other ranks never write to
/// this rank's buffers unless it is ready, nor wait for it.
void StreamGroup::tell_device() noexcept {
  const Driver& driver = context_->driver();
  const ContextGuard guard(*context_);
  // Made here, for streams are few (CUDA_DEVICE_MAX_CONNECTIONS). The users' streams may be late.
  CUstream stream = nullptr;
  if (!ok(driver.stream_create(&stream, CU_STREAM_NON_BLOCKING))) return;  // no context any more
  telling_ = Stream(driver, stream);
  StreamBatch batch(1);
  batch.write(members_.workspace + static_cast<CUdeviceptr>(WorkspaceLayout::ended()), 1);
  (void)batch.flush(driver, stream);
}

bool StreamGroup::has_told() const noexcept {
  const ContextGuard guard(*context_);
  return telling_.get() == nullptr ||
         context_->driver().stream_query(telling_.get()) == CUDA_SUCCESS;
}

bool StreamGroup::leave() noexcept {
  control_.store(control_.layout().flag(ControlLayout::kLeft, members_.self), 1);
  // seq_cst: pairs with the one in has_one_left()
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (told_.load(std::memory_order_relaxed) && !has_told()) return false;
  const bool is_regular = !is_aborted() && is_over(number_);
  for (int r = 0; r < members_.ranks; ++r) {
    // What the others have sent for operations that are over here has come.
    const bool is_behind = is_regular && has_reached(number_, flag(ControlLayout::kIssued, r));
    if (!is_behind && !is_drained(r)) return false;
  }
  return true;
}

}  // namespace shoal::cuda
