#include "cuda/host_stream_group.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

#include "core/assert.h"
#include "cuda/control_block.h"

namespace shoal::cuda {

namespace {

/// Blocks of a copying kernel. 32 of them have some 1 MiB under way, more than a bus holds.
constexpr std::int64_t kBytesPerBlock = 32 << 10;
constexpr std::int64_t kMostBlocks = 32;

CUstream as_stream(void* stream) noexcept { return static_cast<CUstream>(stream); }

}  // namespace

void HostStreamGroup::FreeWords::operator()(Words* words) const noexcept { std::free(words); }

HostStreamGroup::OwnedWords HostStreamGroup::make_words() {
  void* const memory = std::aligned_alloc(kPage, kWordsBytes);
  if (memory == nullptr) throw Error(ErrorCode::kOutOfMemory, "cuda: no memory for a few pages");
  return OwnedWords(new (memory) Words{});
}

HostStreamGroup::HostStreamGroup(DeviceArena& arena, const HostGroupOptions& options)
    : arena_(&arena),
      options_(options),
      words_(make_words()),
      mapped_(arena.context(), reinterpret_cast<std::byte*>(words_.get()), kWordsBytes) {
  (void)arena.kernels();  // loaded here, and not in the midst of an operation
}

void HostStreamGroup::check(const Outcome& outcome) const {
  require(arena_->context().driver(), outcome);
}

// --- memory -------------------------------------------------------------------------------------

void HostStreamGroup::pin(std::byte* memory, std::int64_t bytes) {
  pinned_.emplace_back(arena_->context(), memory, bytes);
}

void HostStreamGroup::unpin(std::byte* memory) noexcept {
  std::erase_if(pinned_, [&](const MappedMemory& pinned) { return pinned.memory() == memory; });
}

std::uint64_t HostStreamGroup::device_address(const std::byte* memory) const noexcept {
  const auto holds = [&](const MappedMemory& pinned) { return pinned.holds(memory); };
  const auto found = std::ranges::find_if(pinned_, holds);
  SHOAL_ASSERT(found != pinned_.end() && "copies are of memory that has been pinned");
  return found->on_device(memory);
}

template <class T>
CUdeviceptr HostStreamGroup::on_device(const T& word) const noexcept {
  return mapped_.on_device(reinterpret_cast<const std::byte*>(&word));
}

// --- what is asked of a call --------------------------------------------------------------------

void HostStreamGroup::check_stream(const std::string& call, void* stream) {
  const ContextGuard guard(arena_->context());
  bool captured = false;
  check(ask_captured(arena_->context().driver(), as_stream(stream), captured));
  if (!captured) return;
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
  const std::uint32_t passed = load_word(words_->passed);
  const std::uint32_t in_use =
      outputs_of_[last % kMaxOperations].end - outputs_of_[passed % kMaxOperations].end;
  return in_use + static_cast<std::uint32_t>(outputs) <= kMaxOutputs;
}

void HostStreamGroup::flush(CUstream stream) {
  check(batch_.flush(arena_->context().driver(), stream));
}

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
  store_word(output.closed, 1);
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
  batch_.clear();
  batch_.write(on_device(words_->passed), issued());
  (void)batch_.flush(arena_->context().driver(), last_stream_);
}

void HostStreamGroup::enqueue(std::uint32_t number, std::span<const HostCopy> inputs,
                              std::span<const HostCopy> outputs, CUstream stream) {
  const Driver& driver = arena_->context().driver();
  const std::uint32_t before = number - 1;
  const CUstream before_stream = std::exchange(last_stream_, stream);
  if (before != 0 && stream != before_stream) batch_.wait(on_device(words_->passed), before);
  flush(stream);
  for (const HostCopy& input : inputs) {
    check({"cuMemcpyDtoHAsync",
           driver.memcpy_dtoh_async(input.host, input.device, static_cast<std::size_t>(input.bytes),
                                    stream)});
  }
  check({"cuLaunchHostFunc", driver.launch_host_func(stream, note_reached, this)});
  batch_.wait(on_device(words_->released), number);
  if (!outputs.empty()) flush(stream);
  const std::uint32_t first = outputs_of_[number % kMaxOperations].begin;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    copy_out(words_->outputs[(first + i) % kMaxOutputs], outputs[i].bytes, stream);
  }
  batch_.write(on_device(words_->passed), number);
  flush(stream);
}

bool HostStreamGroup::is_reached(std::uint32_t number) const noexcept {
  return has_reached(reached_.load(std::memory_order_acquire), number);
}

bool HostStreamGroup::is_over(std::uint32_t number) const noexcept {
  return has_reached(load_word(words_->passed), number);
}

void HostStreamGroup::allow(std::uint32_t number, int output) noexcept {
  const std::uint32_t first = outputs_of_[number % kMaxOperations].begin;
  store_word(words_->outputs[(first + static_cast<std::uint32_t>(output)) % kMaxOutputs].closed, 0);
}

void HostStreamGroup::release(std::uint32_t number) noexcept {
  store_word(words_->released, number);
}

void HostStreamGroup::abort() noexcept { store_word(words_->released, issued() + kFarAhead); }

void HostStreamGroup::detach() noexcept {
  const std::lock_guard lock(detach_mutex_);
  detached_ = true;
}

}  // namespace shoal::cuda
