#include "cuda/device_arena.h"

#include <time.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "core/assert.h"
#include "core/kept.h"
#include "core/log.h"
#include "cuda/arena_group.h"
#include "cuda/host_stream_group.h"

namespace shoal::cuda {
namespace {

/// Without a limit of its own a pool of the legacy kind, which is allocated in one piece, takes
/// this part of the device.
constexpr std::int64_t kLegacyPart = 8;
/// How long a rank that leaves waits for streams that still use its memory.
constexpr std::int64_t kDrainMs = 2000;

/// Operations of a group after which blocks forget those that are over: before numbers go round.
constexpr std::uint32_t kForgetEvery = 1 << 20;

constexpr std::int64_t round_up(std::int64_t value, std::int64_t unit) noexcept {
  return (value + unit - 1) / unit * unit;
}

std::string readable(std::int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

std::optional<std::int64_t> number_in(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  std::int64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error == std::errc() && stop == end && value >= 0) return value;
  throw Error(ErrorCode::kInvalidArgument,
              std::string(name) + "=" + text + ": expected a number that is not negative");
}

CUstream as_stream(void* stream) noexcept { return static_cast<CUstream>(stream); }

void sleep_a_moment() noexcept { std::this_thread::sleep_for(std::chrono::microseconds(50)); }

}  // namespace

int choose_device(const Driver& driver, int wanted, int local_rank) {
  int devices = 0;
  require(driver, "cuDeviceGetCount", driver.device_get_count(&devices));
  if (devices == 0) throw Error(ErrorCode::kMissingLibrary, "cuda: there is no GPU here");
  CUdevice current = 0;
  if (wanted < 0) wanted = static_cast<int>(number_in("SHOAL_CUDA_DEVICE").value_or(-1));
  if (wanted < 0 && ok(driver.ctx_get_device(&current))) wanted = current;
  if (wanted < 0) wanted = local_rank % devices;
  if (wanted < devices) return wanted;
  throw Error(ErrorCode::kInvalidArgument, "cuda: there is no device " + std::to_string(wanted) +
                                               "; this process sees " + std::to_string(devices) +
                                               " (CUDA_VISIBLE_DEVICES, SHOAL_CUDA_DEVICE)");
}

DeviceArena::DeviceArena(const Driver& driver, const MemoryOptions& options,
                         const Interrupt& interrupt)
    : driver_(driver),
      options_(options),
      context_(driver, choose_device(driver, options.device, options.self)),
      views_(options.doors.size()),
      bases_(context_, static_cast<int>(options.doors.size())),
      slices_(options.doors.size()) {
  const ContextGuard guard(context_);
  ability_ = probe_export(context_);
  std::size_t total = 0;
  require(driver, "cuDeviceTotalMem", driver.device_total_mem(&total, context_.device()));
  const bool legacy = ability_.kind == ExportKind::kIpcHandle;
  const std::int64_t usual = static_cast<std::int64_t>(total) / (legacy ? kLegacyPart : 1);
  limit_ = options.limit_bytes > 0 ? options.limit_bytes
                                   : number_in("SHOAL_CUDA_POOL_BYTES").value_or(usual);
  limit_ = round_up(std::max<std::int64_t>(limit_, 1), ability_.granularity);
  before_copies_ = make_stream(driver, CU_STREAM_DEFAULT);
  copies_ = make_stream(driver, CU_STREAM_NON_BLOCKING);
  auto own = std::make_unique<Slice>(context_);
  check(own->reserve(ability_.kind, limit_));
  slices_[static_cast<std::size_t>(options.self)] = std::move(own);
  exchange_ = std::make_unique<ChunkExchange>(
      options_.doors, options_.self, events(),
      [this](const Outcome& outcome) { return explain(driver_, outcome.call, outcome.result); });
  exchange_->await_owners(Deadline::after_ms(options_.timeout_ms), interrupt);
}

DeviceArena::~DeviceArena() {
  exchange_.reset();
  const ContextGuard guard(context_);
  before_copies_ = Stream();
  copies_ = Stream();
  if (drain()) {
    slices_.clear();
    old_slices_.clear();
  } else {
    // Taking memory from under a kernel would end the whole process's use of CUDA.
    log(LogLevel::kWarn,
        "cuda: a stream of this rank or of another may still use pool memory; it is not given "
        "back");
    keep_for_ever(std::move(slices_));
    keep_for_ever(std::move(old_slices_));
  }
}

bool DeviceArena::drain() noexcept {
  const Deadline deadline = Deadline::after_ms(kDrainMs);
  const Lock lock(mutex_);
  if (lent_ > 0) return false;
  while (reap()) {
    if (deadline.passed() || lost_.load(std::memory_order_relaxed) != CUDA_SUCCESS) return false;
    sleep_a_moment();
  }
  return true;
}

// --- Chunks ------------------------------------------------------------------------------------

ExchangeEvents DeviceArena::events() {
  return {
      .begin = [this](int owner) { begin_owner(owner); },
      .map = [this](int owner, const ChunkTicket& ticket, const Fd& fd,
                    bool same) { return map_chunk(owner, ticket, fd, same); },
      .drop = [this](int owner, std::int64_t offset) { drop_chunk(owner, offset); },
      .settled = [this](std::int64_t offset,
                        const std::string& refused) { settled(offset, refused); },
      .tick = [this] { return tick(); },
  };
}

/// What was mapped of an owner that is here again stays so: a kernel may still read it.
void DeviceArena::begin_owner(int owner) {
  const Lock lock(mutex_);
  std::unique_ptr<Slice>& slice = slices_[static_cast<std::size_t>(owner)];
  if (slice != nullptr) old_slices_.push_back(std::move(slice));
  slice = std::make_unique<Slice>(context_);
  publish(owner, *slice);
}

Outcome DeviceArena::map_chunk(int owner, const ChunkTicket& ticket, const Fd& fd,
                               bool same_process) {
  const ContextGuard guard(context_);
  const Lock lock(mutex_);
  const std::unique_ptr<Slice>& slice = slices_[static_cast<std::size_t>(owner)];
  const bool fits = ticket.offset == slice->bytes() && ticket.bytes > 0 &&
                    ticket.bytes <= ticket.slice_bytes - ticket.offset;
  if (!fits) return {"chunk of device memory", CUDA_ERROR_INVALID_VALUE};
  const Outcome outcome = same_process ? slice->borrow(ticket) : slice->import(ticket, fd);
  note(outcome.result);
  if (outcome.ok()) publish(owner, *slice);
  return outcome;
}

void DeviceArena::drop_chunk(int owner, std::int64_t offset) {
  const ContextGuard guard(context_);
  const Lock lock(mutex_);
  const std::unique_ptr<Slice>& slice = slices_[static_cast<std::size_t>(owner)];
  if (slice->bytes() <= offset) return;  // this rank refused it itself
  slice->drop_last();
  publish(owner, *slice);
}

void DeviceArena::publish(int local_rank, const Slice& slice) noexcept {
  View& view = views_[static_cast<std::size_t>(local_rank)];
  view.bytes.store(slice.bytes(), std::memory_order_relaxed);
  // release: pairs with the acquire in base()
  view.base.store(slice.base(), std::memory_order_release);
  bases_.set(local_rank, slice.base());
}

std::unique_ptr<DeviceGroup> DeviceArena::make_group(const GroupOptions& options) {
  return std::make_unique<ArenaGroup>(*this, options);
}

std::unique_ptr<HostGroup> DeviceArena::make_host_group(const HostGroupOptions& options) {
  return std::make_unique<HostStreamGroup>(*this, options);
}

void DeviceArena::require_device_memory(const std::string& what, std::uint64_t address) const {
  const ContextGuard guard(context_);
  CUmemorytype type = CU_MEMORYTYPE_HOST;
  const CUresult result =
      driver_.pointer_get_attribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address);
  if (ok(result) && type == CU_MEMORYTYPE_DEVICE) return;
  throw Error(ErrorCode::kInvalidArgument,
              what +
                  " is not CUDA memory; a call on a stream takes CUDA arrays, one on host memory "
                  "takes no stream");
}

std::shared_ptr<const MappedMemory> DeviceArena::mapped(std::byte* memory, std::int64_t bytes) {
  const Lock lock(mutex_);
  std::shared_ptr<const MappedMemory>& known = mapped_[memory];
  if (known == nullptr) known = std::make_shared<const MappedMemory>(context_, memory, bytes);
  return known;
}

const Kernels& DeviceArena::kernels() {
  std::call_once(kernels_loaded_, [this] { kernels_ = share_kernels(context_, options_.kernels); });
  return *kernels_;
}

std::optional<Place> DeviceArena::offset_of(std::uint64_t address,
                                            std::int64_t bytes) const noexcept {
  for (std::size_t rank = 0; rank < views_.size(); ++rank) {
    const std::uint64_t first = base(static_cast<int>(rank));
    const std::int64_t held = views_[rank].bytes.load(std::memory_order_relaxed);
    if (first == 0 || address < first) continue;
    const std::uint64_t offset = address - first;
    if (offset < static_cast<std::uint64_t>(held) &&
        bytes <= held - static_cast<std::int64_t>(offset)) {
      return Place{static_cast<int>(rank), static_cast<std::int64_t>(offset)};
    }
  }
  return std::nullopt;
}

/// All users have the chunk, or one of them refused it.
void DeviceArena::settled(std::int64_t offset, const std::string& refused) {
  const ContextGuard guard(context_);
  const Lock lock(mutex_);
  SHOAL_ASSERT(growing_.has_value() && growing_->offset == offset);
  Slice& own = *slices_[static_cast<std::size_t>(options_.self)];
  if (refused.empty()) {
    free_.give(offset, growing_->bytes);
    ++chunks_;
  } else {
    own.drop_last();
    ++refusals_;
    refusal_ = refused;
  }
  publish(options_.self, own);
  growing_.reset();
  changed_.notify_all();
}

/// Of the size that is next, or only what is needed if the device has no more; 0: the limit is met.
std::int64_t DeviceArena::next_chunk_bytes(std::int64_t bytes) const {
  const std::int64_t held = slices_[static_cast<std::size_t>(options_.self)]->bytes();
  const std::int64_t room = limit_ - held;
  if (bytes > room || chunks_ == kMaxChunks) return 0;
  if (ability_.kind == ExportKind::kIpcHandle) return held == 0 ? limit_ : 0;
  const std::int64_t wanted = std::max({bytes, kMinChunkBytes, held / 8});
  return std::min(room, round_up(wanted, ability_.granularity));
}

void DeviceArena::start_growth(std::int64_t bytes) {
  std::int64_t chunk = next_chunk_bytes(bytes);
  if (chunk == 0) throw_exhausted(bytes, "the limit is met");
  Slice& own = *slices_[static_cast<std::size_t>(options_.self)];
  ChunkTicket ticket;
  Fd fd;
  Outcome outcome = own.grow(chunk, ticket, fd);
  const std::int64_t least = round_up(bytes, ability_.granularity);
  if (outcome.result == CUDA_ERROR_OUT_OF_MEMORY && least < chunk &&
      ability_.kind == ExportKind::kFileDescriptor) {
    outcome = own.grow(least, ticket, fd);
  }
  if (outcome.result == CUDA_ERROR_OUT_OF_MEMORY) {
    throw_exhausted(bytes, explain(driver_, outcome.call, outcome.result));
  }
  check(outcome);
  growing_ = ticket;
  exchange_->announce(ticket, std::move(fd));
}

// --- Blocks ------------------------------------------------------------------------------------

std::uint64_t DeviceArena::allocate(std::int64_t bytes, const Interrupt& interrupt) {
  const std::int64_t granted = round_up(std::max<std::int64_t>(bytes, 1), kBlockAlignment);
  const Deadline deadline = Deadline::after_ms(options_.timeout_ms);
  const ContextGuard guard(context_);
  Lock lock(mutex_);
  const std::uint64_t refusals = refusals_;
  for (;;) {  // ends: each turn hands out, throws, or waits within the deadline
    throw_if_lost();
    (void)reap();
    const memory::Offset offset = free_.take(granted, kBlockAlignment);
    if (offset != memory::kNoOffset) return hand_out(offset, granted);
    if (refusals_ != refusals) throw Error(ErrorCode::kDevice, "cuda: pool: " + refusal_);
    if (!growing_ && (leaving_.empty() || next_chunk_bytes(granted) > 0)) start_growth(granted);
    await_change(lock, granted, deadline);
    if (!interrupt) continue;
    lock.unlock();
    interrupt();
    lock.lock();
  }
}

std::uint64_t DeviceArena::lend(std::int64_t bytes) {
  const std::uint64_t block = allocate(bytes);
  const ContextGuard guard(context_);
  try {
    check({"cuMemsetD8Async",
           driver_.memset_d8_async(block, 0, static_cast<std::size_t>(bytes), copies_.get())});
    await(copies_);
  } catch (...) {
    free(block);
    throw;
  }
  const Lock lock(mutex_);
  ++lent_;
  return block;
}

void DeviceArena::take_back(std::uint64_t block) noexcept {
  free(block);
  const Lock lock(mutex_);
  --lent_;
}

std::uint64_t DeviceArena::hand_out(std::int64_t offset, std::int64_t bytes) {
  blocks_.emplace(offset, Block{bytes, {}});
  used_bytes_ += bytes;
  return base(options_.self) + static_cast<std::uint64_t>(offset);
}

/// Until a chunk has settled or a stream has let go of a block.
void DeviceArena::await_change(Lock& lock, std::int64_t bytes, Deadline deadline) {
  if (!deadline.passed()) {
    const std::int64_t at_most =
        growing_ ? std::min(deadline.remaining_ms(), kInterruptMs) : ChunkExchange::kTickMs;
    changed_.wait_for(lock, std::chrono::milliseconds(at_most));
    return;
  }
  if (!growing_) throw_exhausted(bytes, "blocks that were freed are still in use by streams");
  std::string ranks;
  for (const int rank : exchange_->awaited()) {
    ranks += (ranks.empty() ? "" : ", ") + std::to_string(rank);
  }
  throw Error(ErrorCode::kTimeout, "cuda: pool: local rank " + ranks + " has not mapped " +
                                       readable(growing_->bytes) + " of new device memory within " +
                                       std::to_string(options_.timeout_ms) +
                                       " ms; is it stopped? `shoal ps` shows it");
}

void DeviceArena::throw_exhausted(std::int64_t bytes, const std::string& why) const {
  std::size_t free = 0, total = 0;
  (void)driver_.mem_get_info(&free, &total);
  const std::int64_t held = slices_[static_cast<std::size_t>(options_.self)]->bytes();
  throw Error(ErrorCode::kOutOfMemory,
              "cuda: pool: asked " + readable(bytes) + ", " + readable(held - used_bytes_) +
                  " of the " + readable(held) + " held are free (the largest piece " +
                  readable(free_.largest()) + "), limit " + readable(limit_) + "; device " +
                  std::to_string(context_.device()) + " has " +
                  readable(static_cast<std::int64_t>(free)) + " of " +
                  readable(static_cast<std::int64_t>(total)) + " free: " + why +
                  "; free arrays, or raise SHOAL_CUDA_POOL_BYTES");
}

void DeviceArena::free(std::uint64_t address, bool shared) noexcept {
  const ContextGuard guard(context_);
  {
    const Lock lock(mutex_);
    const auto found = blocks_.find(static_cast<std::int64_t>(address - base(options_.self)));
    SHOAL_ASSERT(found != blocks_.end() && "a block of this pool, freed once");
    Block block = std::move(found->second);
    const std::int64_t offset = found->first;
    blocks_.erase(found);
    // What cannot be told to have ended is never handed out again.
    if (shared && !record(block, CU_STREAM_LEGACY).ok()) return;
    leaving_.emplace_back(offset, std::move(block));
    if (!reap()) return;
  }
  exchange_->wake();  // it looks again, until the streams have let go
}

bool DeviceArena::completed(const Block& block) noexcept {
  return std::ranges::all_of(block.operations,
                             [](const Operations& by) { return by.group->is_over(by.number); }) &&
         std::ranges::all_of(block.uses, [this](const Use& use) {
           const CUresult result = driver_.event_query(use.event.get());
           note(result);
           return ok(result);
         });
}

/// Takes back what streams have let go of. True: some is left.
bool DeviceArena::reap() noexcept {
  const std::size_t before = leaving_.size();
  std::erase_if(leaving_, [this](const auto& entry) {
    const auto& [offset, block] = entry;
    if (!completed(block)) return false;
    free_.give(offset, block.bytes);
    used_bytes_ -= block.bytes;
    return true;
  });
  if (leaving_.size() != before) changed_.notify_all();
  return !leaving_.empty();
}

/// The block that holds this address; nullptr: none of ours.
DeviceArena::Block* DeviceArena::block_with(std::uint64_t address) {
  const auto offset = static_cast<std::int64_t>(address - base(options_.self));
  auto found = blocks_.upper_bound(offset);
  if (found == blocks_.begin()) return nullptr;
  --found;
  return offset - found->first < found->second.bytes ? &found->second : nullptr;
}

void DeviceArena::used(std::uint64_t address, void* stream) {
  const ContextGuard guard(context_);
  const Lock lock(mutex_);
  throw_if_lost();
  bool captured = false;
  check(ask_captured(driver_, as_stream(stream), captured));
  if (captured) return;
  Block* block = block_with(address);
  SHOAL_ASSERT(block != nullptr);
  check(record(*block, as_stream(stream)));
}

void DeviceArena::used(std::uint64_t address, const Operations& by) {
  const Lock lock(mutex_);
  throw_if_lost();
  Block* block = block_with(address);
  SHOAL_ASSERT(block != nullptr);
  if (by.number % kForgetEvery == 0) {
    forget_operations([](const Operations& old) { return old.group->is_over(old.number); });
  }
  const auto known = std::ranges::find(block->operations, by.group, &Operations::group);
  if (known == block->operations.end()) {
    block->operations.push_back(by);
  } else {
    *known = by;
  }
}

template <class Condition>
void DeviceArena::forget_operations(const Condition& condition) noexcept {
  for (auto& [offset, block] : blocks_) std::erase_if(block.operations, condition);
  for (auto& [offset, block] : leaving_) std::erase_if(block.operations, condition);
}

void DeviceArena::forget(const StreamGroup& group) noexcept {
  const Lock lock(mutex_);
  forget_operations([&](const Operations& by) { return by.group == &group; });
}

/// One event a stream: a later use takes the place of an earlier one.
Outcome DeviceArena::record(Block& block, CUstream stream) noexcept {
  auto use = std::ranges::find(block.uses, stream, &Use::stream);
  if (use == block.uses.end()) {
    // Streams come and go; what has completed need not be remembered.
    std::erase_if(block.uses,
                  [this](const Use& old) { return ok(driver_.event_query(old.event.get())); });
    CUevent event = nullptr;
    const CUresult made = driver_.event_create(&event, CU_EVENT_DISABLE_TIMING);
    if (!ok(made)) return {"cuEventCreate", made};
    block.uses.push_back({stream, Event(driver_, event)});
    use = std::prev(block.uses.end());
  }
  return {"cuEventRecord", driver_.event_record(use->event.get(), stream)};
}

void DeviceArena::order_after_uses(std::uint64_t address, void* stream) {
  const ContextGuard guard(context_);
  const Lock lock(mutex_);
  throw_if_lost();
  const Block* block = block_with(address);
  if (block == nullptr) return;
  for (const Use& use : block->uses) {
    if (use.stream == as_stream(stream)) continue;
    check({"cuStreamWaitEvent",
           driver_.stream_wait_event(as_stream(stream), use.event.get(), CU_EVENT_WAIT_DEFAULT)});
  }
  for (const Operations& by : block->operations) {
    if (by.stream == as_stream(stream) || by.group->is_over(by.number)) continue;
    check(by.group->order_after(by.number, as_stream(stream)));
  }
}

MemoryUse DeviceArena::use() const noexcept {
  const Lock lock(mutex_);
  return {used_bytes_, slices_[static_cast<std::size_t>(options_.self)]->bytes(), limit_,
          static_cast<std::int64_t>(blocks_.size())};
}

// --- Copies ------------------------------------------------------------------------------------

void DeviceArena::copy_to_host(void* to, std::uint64_t from, std::int64_t bytes) {
  copy(from, bytes, true, to);
}

void DeviceArena::copy_from_host(std::uint64_t to, const void* from, std::int64_t bytes) {
  copy(to, bytes, false, const_cast<void*>(from));
}

/// What the copy comes after is waited for first: when that takes too long the error is raised
/// before anything can touch the host's memory. The copy itself, on a stream that waits for no
/// other, then ends by itself.
void DeviceArena::copy(std::uint64_t device, std::int64_t bytes, bool to_host, void* host) {
  if (bytes == 0) return;
  order_after_uses(device, before_copies_.get());
  const ContextGuard guard(context_);
  await(before_copies_);
  const auto length = static_cast<std::size_t>(bytes);
  if (to_host) {
    check({"cuMemcpyDtoHAsync", driver_.memcpy_dtoh_async(host, device, length, copies_.get())});
  } else {
    check({"cuMemcpyHtoDAsync", driver_.memcpy_htod_async(device, host, length, copies_.get())});
  }
  await(copies_);
}

/// Until what is on the stream now has completed.
void DeviceArena::await(const Stream& stream) {
  const Event event = make_event(driver_);
  check({"cuEventRecord", driver_.event_record(event.get(), stream.get())});
  const Deadline deadline = Deadline::after_ms(options_.timeout_ms);
  CUresult result = CUDA_ERROR_NOT_READY;
  while ((result = driver_.event_query(event.get())) == CUDA_ERROR_NOT_READY) {
    if (deadline.passed()) {
      throw Error(ErrorCode::kTimeout,
                  "cuda: work on a stream that uses this memory has not ended within " +
                      std::to_string(options_.timeout_ms) + " ms; nothing was copied");
    }
    sleep_a_moment();
  }
  check({"cuEventQuery", result});
}

// --- A lost context ----------------------------------------------------------------------------

void DeviceArena::note(CUresult result) noexcept {
  if (is_sticky(result)) lost_.store(result, std::memory_order_relaxed);
}

void DeviceArena::check(const Outcome& outcome) {
  if (outcome.ok()) return;
  note(outcome.result);
  if (exchange_ != nullptr) exchange_->wake();  // to tell the others, if the context is lost
  require(driver_, outcome);
}

void DeviceArena::throw_if_lost() const {
  const CUresult lost = lost_.load(std::memory_order_relaxed);
  if (lost != CUDA_SUCCESS) throw Error(ErrorCode::kDevice, explain(driver_, "cuda", lost));
}

/// Reaps, and looks whether the context is still alive. True: come again soon.
bool DeviceArena::tick() {
  const ContextGuard guard(context_);
  Lock lock(mutex_);
  const CUresult state = driver_.stream_query(copies_.get());
  note(state);
  const bool busy = reap();
  const CUresult lost = lost_.load(std::memory_order_relaxed);
  if (lost == CUDA_SUCCESS) return busy;
  if (std::exchange(told_lost_, true)) return false;
  const std::string text = explain(driver_, "cuStreamQuery", lost);
  changed_.notify_all();
  lock.unlock();
  if (options_.on_lost) options_.on_lost(text);
  return false;
}

}  // namespace shoal::cuda
