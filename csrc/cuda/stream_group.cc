#include "cuda/stream_group.h"

#include <algorithm>
#include <cstring>

namespace shoal::cuda {

namespace {

/// What a block of threads works on before a further one is worth launching.
constexpr std::int64_t kBytesPerBlock = 32 << 10;
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
      batch_(3 * static_cast<std::size_t>(members.ranks) + 2) {  // all that one operation needs
  const Driver& driver = context.driver();
  const ContextGuard guard(context);
  require(driver, "cuMemAlloc", driver.mem_alloc(&finished_, sizeof(std::uint32_t)));
  Outcome outcome{"cuMemsetD32Async", driver.memset_d32_async(finished_, 0, 1, nullptr)};
  if (outcome.ok()) outcome = {"cuStreamSynchronize", driver.stream_synchronize(nullptr)};
  if (!outcome.ok()) {
    (void)driver.mem_free(finished_);  // the destructor does not run
    require(driver, outcome);
  }
  watches_.resize(static_cast<std::size_t>(control_.layout().captures()));
  control_.store(control_.layout().flag(ControlLayout::kPresent, members_.self), 1);
}

StreamGroup::~StreamGroup() {
  const ContextGuard guard(*context_);
  (void)context_->driver().mem_free(finished_);
}

bool StreamGroup::has_room() const noexcept {
  return is_over(issued() + 1 - kRecords);  // 0 and those before it are over from the beginning
}

Result<bool> StreamGroup::is_capturing(CUstream stream) const noexcept {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  const CUresult result = context_->driver().stream_is_capturing(stream, &status);
  if (!ok(result)) return status_of(result);
  return status != CU_STREAM_CAPTURE_STATUS_NONE;
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

Outcome StreamGroup::enqueue(const StreamCall& call) noexcept {
  const ContextGuard guard(*context_);
  const ControlLayout& layout = control_.layout();
  const std::uint32_t before = number_++;
  fill(control_.record_at(layout.record(members_.self, number_)), call);
  control_.store(layout.flag(ControlLayout::kIssued, members_.self), number_);
  const bool changes_stream = before != 0 && call.stream != last_stream_;
  last_stream_ = call.stream;
  if (changes_stream) {
    wait(layout.flag(ControlLayout::kCompleted, members_.self), before, CU_STREAM_WAIT_VALUE_GEQ);
  }
  KernelParameters p = parameters(call);
  if (members_.spins) {
    const auto words = [&](ControlLayout::Flag which, int rank) {
      return pointer<std::uint32_t>(layout.flag(which, rank));
    };
    p.spin = {words(ControlLayout::kReady, 0), words(ControlLayout::kDone, 0),
              call.ends_later ? nullptr : words(ControlLayout::kCompleted, members_.self),
              reinterpret_cast<std::uint32_t*>(finished_), number_};
    if (Outcome outcome = flush(call.stream); !outcome.ok()) return outcome;
    return launch(call, p, true);
  }
  for (const ControlLayout::Flag phase : {ControlLayout::kReady, ControlLayout::kDone}) {
    write(layout.flag(phase, members_.self), number_);
    for (int r = 0; r < members_.ranks; ++r) {
      if (r != members_.self) wait(layout.flag(phase, r), number_, CU_STREAM_WAIT_VALUE_GEQ);
    }
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

Outcome StreamGroup::finish(CUstream stream) noexcept {
  const ContextGuard guard(*context_);
  write(control_.layout().flag(ControlLayout::kCompleted, members_.self), number_);
  return flush(stream);
}

Outcome StreamGroup::capture(const StreamCall& call) noexcept {
  const ContextGuard guard(*context_);
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
}

}  // namespace shoal::cuda
