#include "cuda/host_stream_group.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

#include "core/assert.h"
#include "cuda/control_block.h"

namespace shoal::cuda {

namespace {

constexpr std::size_t kPage = 4096;
/// Further than any number that a host may have issued, and still a later one.
constexpr std::uint32_t kFarAhead = 1u << 28;
/// Blocks of a copying kernel. 32 of them have some 1 MiB under way, more than a bus holds.
constexpr std::int64_t kBytesPerBlock = 32 << 10;
constexpr std::int64_t kMostBlocks = 32;

CUstream as_stream(void* stream) noexcept { return static_cast<CUstream>(stream); }

std::uint32_t load(const std::uint32_t& word) noexcept {
  // acquire: pairs with the stream's writes
  return std::atomic_ref(const_cast<std::uint32_t&>(word)).load(std::memory_order_acquire);
}
void store(std::uint32_t& word, std::uint32_t value) noexcept {
  // release: pairs with the stream's waits and the kernels' looks
  std::atomic_ref(word).store(value, std::memory_order_release);
}

}  // namespace

void HostStreamGroup::FreeWords::operator()(Words* words) const noexcept { std::free(words); }

HostStreamGroup::HostStreamGroup(DeviceArena& arena, const HostGroupOptions& options)
    : arena_(&arena), options_(options) {
  (void)arena.kernels();  // loaded here, and not in the midst of an operation
  constexpr std::size_t kBytes = (sizeof(Words) + kPage - 1) / kPage * kPage;
  void* const memory = std::aligned_alloc(kPage, kBytes);
  if (memory == nullptr) throw Error(ErrorCode::kOutOfMemory, "cuda: no memory for a few pages");
  words_.reset(new (memory) Words{});
  device_ = map(static_cast<std::byte*>(memory), kBytes);
  operations_.reserve(2);
}

HostStreamGroup::~HostStreamGroup() {
  const ContextGuard guard(arena_->context());
  for (const Pinned& pinned : pinned_) {
    (void)arena_->context().driver().mem_host_unregister(pinned.memory);
  }
  (void)arena_->context().driver().mem_host_unregister(words_.get());
}

void HostStreamGroup::check(const Outcome& outcome) const {
  require(arena_->context().driver(), outcome);
}

// --- memory -------------------------------------------------------------------------------------

CUdeviceptr HostStreamGroup::map(std::byte* memory, std::int64_t bytes) {
  const Driver& driver = arena_->context().driver();
  const ContextGuard guard(arena_->context());
  check({"cuMemHostRegister",
         driver.mem_host_register(memory, static_cast<std::size_t>(bytes),
                                  CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP)});
  CUdeviceptr device = 0;
  const CUresult result = driver.mem_host_get_device_pointer(&device, memory, 0);
  if (!ok(result)) (void)driver.mem_host_unregister(memory);
  check({"cuMemHostGetDevicePointer", result});
  return device;
}

void HostStreamGroup::pin(std::byte* memory, std::int64_t bytes) {
  pinned_.push_back({memory, bytes, map(memory, bytes)});
}

void HostStreamGroup::unpin(std::byte* memory) noexcept {
  const ContextGuard guard(arena_->context());
  (void)arena_->context().driver().mem_host_unregister(memory);
  std::erase_if(pinned_, [&](const Pinned& pinned) { return pinned.memory == memory; });
}

std::uint64_t HostStreamGroup::device_address(const std::byte* memory) const noexcept {
  const auto holds = [&](const Pinned& p) {
    return memory >= p.memory && memory < p.memory + p.bytes;
  };
  const auto found = std::ranges::find_if(pinned_, holds);
  SHOAL_ASSERT(found != pinned_.end() && "copies are of memory that has been pinned");
  return found->device + static_cast<std::uint64_t>(memory - found->memory);
}

template <class T>
CUdeviceptr HostStreamGroup::on_device(const T& word) const noexcept {
  const auto* const begin = reinterpret_cast<const std::byte*>(words_.get());
  return device_ + static_cast<CUdeviceptr>(reinterpret_cast<const std::byte*>(&word) - begin);
}

// --- what is asked of a call --------------------------------------------------------------------

void HostStreamGroup::check_stream(const std::string& call, void* stream) {
  const ContextGuard guard(arena_->context());
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  check({"cuStreamIsCapturing",
         arena_->context().driver().stream_is_capturing(as_stream(stream), &status)});
  if (status == CU_STREAM_CAPTURE_STATUS_NONE) return;
  throw Error(ErrorCode::kInvalidArgument,
              call +
                  ": the stream is being captured, and the host takes part in messages and in "
                  "collectives between nodes, which a graph cannot replay; end the capture before "
                  "this call, or capture collectives of a communicator within one node (split())");
}

void HostStreamGroup::check_memory(const std::string& call, const char* which,
                                   std::uint64_t address, std::int64_t bytes) {
  if (bytes == 0 || arena_->offset_of(address, bytes).has_value()) return;
  arena_->require_device_memory(call + ": " + which, address);
}

// --- an operation -------------------------------------------------------------------------------

bool HostStreamGroup::has_room(int outputs) const noexcept {
  const std::uint32_t last = issued();
  if (!is_over(last + 1 - kMaxOperations)) return false;
  const std::uint32_t passed = load(words_->passed);
  const std::uint32_t in_use =
      outputs_of_[last % kMaxOperations].end - outputs_of_[passed % kMaxOperations].end;
  return in_use + static_cast<std::uint32_t>(outputs) <= kMaxOutputs;
}

void HostStreamGroup::write(const std::uint32_t& word, std::uint32_t value) {
  CUstreamBatchMemOpParams operation{};
  operation.writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
  operation.writeValue.address = on_device(word);
  operation.writeValue.value = value;
  operation.writeValue.flags = CU_STREAM_WRITE_VALUE_DEFAULT;  // after all that came before
  operations_.push_back(operation);
}

void HostStreamGroup::wait(const std::uint32_t& word, std::uint32_t value) {
  CUstreamBatchMemOpParams operation{};
  operation.waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
  operation.waitValue.address = on_device(word);
  operation.waitValue.value = value;
  operation.waitValue.flags = CU_STREAM_WAIT_VALUE_GEQ;
  operations_.push_back(operation);
}

Outcome HostStreamGroup::try_flush(CUstream stream) noexcept {
  if (operations_.empty()) return {};
  const auto count = static_cast<unsigned>(operations_.size());
  const CUresult result =
      arena_->context().driver().stream_batch_mem_op(stream, count, operations_.data(), 0);
  operations_.clear();
  return {"cuStreamBatchMemOp", result};
}

void HostStreamGroup::flush(CUstream stream) { check(try_flush(stream)); }

/// In order: only one operation is between its host function and its last word.
void HostStreamGroup::note_reached(void* self) noexcept {
  auto& group = *static_cast<HostStreamGroup*>(self);
  group.reached_.fetch_add(1, std::memory_order_release);  // pairs with is_reached()
  const std::lock_guard lock(group.detach_mutex_);
  if (!group.detached_ && group.options_.on_reached) group.options_.on_reached();
}

void HostStreamGroup::fill(Output& output, const HostCopy& copy, std::uint32_t number) noexcept {
  output.record = {number,
                   number,
                   0,
                   0,
                   static_cast<std::int64_t>(device_address(copy.host)),
                   static_cast<std::int64_t>(copy.device)};
  store(output.closed, 1);
}

void HostStreamGroup::copy_out(const Output& output, std::int64_t bytes, CUstream stream) {
  const KernelChoice kernel = kernel_for(Collective::kBroadcast, DataType::kUint8, ReduceOp::kSum);
  KernelParameters p;
  p.records = reinterpret_cast<const Record*>(on_device(output.record));
  p.record_stride = sizeof(Record);
  p.bases = reinterpret_cast<const std::uint64_t*>(on_device(words_->base));
  p.abort = reinterpret_cast<const std::uint32_t*>(on_device(output.closed));
  p.complaint = reinterpret_cast<std::uint64_t*>(on_device(words_->complaint));
  p.sequence = output.record.sequence;
  p.fingerprint = output.record.fingerprint;
  p.count = bytes / kernel.element_bytes;
  p.collective = static_cast<int>(Collective::kBroadcast);
  const auto blocks = std::min(bytes / kBytesPerBlock + 1, kMostBlocks);
  check(arena_->kernels().launch(kernel.number, p, static_cast<int>(blocks), false, stream));
}

/// A block of this rank's pool goes back only when the stream has got so far.
void HostStreamGroup::note_use(const HostCopy& copy, CUstream stream) {
  const auto place = arena_->offset_of(copy.device, copy.bytes);
  if (place.has_value() && place->local_rank == options_.self) arena_->used(copy.device, stream);
}

void HostStreamGroup::submit(void* handle, std::span<const HostCopy> inputs,
                             std::span<const HostCopy> outputs) {
  const ContextGuard guard(arena_->context());
  CUstream const stream = as_stream(handle);
  const std::uint32_t number = issued() + 1;
  const std::uint32_t first = outputs_of_[(number - 1) % kMaxOperations].end;
  outputs_of_[number % kMaxOperations] = {first,
                                          first + static_cast<std::uint32_t>(outputs.size())};
  // Before anything is enqueued: the host may be done with an operation before this has returned.
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    fill(words_->outputs[(first + i) % kMaxOutputs], outputs[i], number);
  }
  issued_.store(number, std::memory_order_release);  // pairs with the acquire in issued()
  enqueue(number, inputs, outputs, stream);
  for (const HostCopy& input : inputs) note_use(input, stream);
  for (const HostCopy& output : outputs) note_use(output, stream);
}

void HostStreamGroup::give_up() noexcept {
  const ContextGuard guard(arena_->context());
  operations_.clear();
  write(words_->passed, issued());
  (void)try_flush(last_stream_);
}

void HostStreamGroup::enqueue(std::uint32_t number, std::span<const HostCopy> inputs,
                              std::span<const HostCopy> outputs, CUstream stream) {
  const Driver& driver = arena_->context().driver();
  const std::uint32_t before = number - 1;
  const CUstream before_stream = std::exchange(last_stream_, stream);
  if (before != 0 && stream != before_stream) wait(words_->passed, before);
  flush(stream);
  for (const HostCopy& input : inputs) {
    check({"cuMemcpyDtoHAsync",
           driver.memcpy_dtoh_async(input.host, input.device, static_cast<std::size_t>(input.bytes),
                                    stream)});
  }
  check({"cuLaunchHostFunc", driver.launch_host_func(stream, note_reached, this)});
  wait(words_->released, number);
  if (!outputs.empty()) flush(stream);
  const std::uint32_t first = outputs_of_[number % kMaxOperations].begin;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    copy_out(words_->outputs[(first + i) % kMaxOutputs], outputs[i].bytes, stream);
  }
  write(words_->passed, number);
  flush(stream);
}

bool HostStreamGroup::is_reached(std::uint32_t number) const noexcept {
  return has_reached(reached_.load(std::memory_order_acquire), number);
}

bool HostStreamGroup::is_over(std::uint32_t number) const noexcept {
  return has_reached(load(words_->passed), number);
}

void HostStreamGroup::allow(std::uint32_t number, int output) noexcept {
  const std::uint32_t first = outputs_of_[number % kMaxOperations].begin;
  store(words_->outputs[(first + static_cast<std::uint32_t>(output)) % kMaxOutputs].closed, 0);
}

void HostStreamGroup::release(std::uint32_t number) noexcept { store(words_->released, number); }

void HostStreamGroup::abort() noexcept { store(words_->released, issued() + kFarAhead); }

void HostStreamGroup::detach() noexcept {
  const std::lock_guard lock(detach_mutex_);
  detached_ = true;
}

}  // namespace shoal::cuda
