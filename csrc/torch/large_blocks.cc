#include "torch/large_blocks.h"

#include <ATen/Context.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "torch/job.h"

namespace shoal::torch {

namespace {

/// Of the forked child's copying; it takes 0.3 ms a MiB.
constexpr int kForkTimeoutMs = 10'000;

/// Half of the pool is for those who ask for it.
constexpr Job::Reserve kReserve{.parts = 2};

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

std::size_t in_pages(std::size_t bytes) {
  return (bytes + page_bytes() - 1) / page_bytes() * page_bytes();
}

void* at_address(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

/// Puts a private copy of the pages in their place. False: nothing has changed.
bool make_private(void* address, std::size_t length) noexcept {
  void* copy = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED) return false;
  std::memcpy(copy, address, length);
  if (::mremap(copy, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, address) != MAP_FAILED) {
    return true;
  }
  ::munmap(copy, length);
  return false;
}

/// Maps the pages at `from`, which are shared, at `address` too (mremap(2): an old size of 0).
bool map_again(void* from, std::size_t length, void* address) noexcept {
  return ::mremap(from, 0, length, MREMAP_MAYMOVE | MREMAP_FIXED, address) != MAP_FAILED;
}

}  // namespace

LargeBlocks& LargeBlocks::instance() {
  // Never destroyed: tensors may outlive everything.
  static auto* const blocks = new LargeBlocks;
  return *blocks;
}

LargeBlocks::LargeBlocks() {
  (void)::pthread_atfork(&before_fork, &after_fork_in_parent, &after_fork_in_child);
}

c10::DataPtr LargeBlocks::allocate(c10::Allocator& source, std::size_t bytes) {
  Block block;
  block.bytes = bytes;
  // So much more that its pages are nobody else's.
  block.own = source.allocate(in_pages(bytes) + page_bytes());
  const std::uintptr_t address = in_pages(reinterpret_cast<std::uintptr_t>(block.own.get()));
  const std::lock_guard lock(mutex_);
  blocks_.emplace(address, std::move(block));
  return {at_address(address), at_address(address), &delete_block,
          c10::Device(c10::DeviceType::CPU)};
}

c10::DataPtr LargeBlocks::keep(PoolBlock pages) {
  void* const address = pages.data();
  Block block;
  block.bytes = static_cast<std::size_t>(pages.bytes().value);
  block.pages = std::move(pages);
  const std::lock_guard lock(mutex_);
  blocks_.emplace(reinterpret_cast<std::uintptr_t>(address), std::move(block));
  return {address, address, &delete_block, c10::Device(c10::DeviceType::CPU)};
}

bool LargeBlocks::free(void* address) noexcept {
  Blocks::node_type node;
  {
    const std::lock_guard lock(mutex_);
    node = blocks_.extract(reinterpret_cast<std::uintptr_t>(address));
  }
  if (node.empty()) return false;
  Block& block = node.mapped();
  if (!block.is_adopted()) return true;
  void* const fresh = ::mmap(address, in_pages(block.bytes), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (fresh == MAP_FAILED) {
    // Two allocators would hand out the same pages: neither gets them.
    const std::lock_guard lock(mutex_);
    lost_.insert(std::move(node));
  }
  return true;
}

void LargeBlocks::delete_block(void* address) noexcept { (void)instance().free(address); }

LargeBlocks::Blocks::value_type* LargeBlocks::find(std::uintptr_t address) noexcept {
  auto after = blocks_.upper_bound(address);
  if (after == blocks_.begin()) return nullptr;
  auto& found = *std::prev(after);
  return address - found.first < found.second.bytes ? &found : nullptr;
}

void* LargeBlocks::pool_address(void* data) noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const std::lock_guard lock(mutex_);
  const auto* found = find(address);
  if (found == nullptr || !found->second.is_adopted()) return data;
  return static_cast<std::byte*>(found->second.pages.data()) + (address - found->first);
}

LargeBlocks::Totals LargeBlocks::adopted() noexcept {
  Totals totals;
  const std::lock_guard lock(mutex_);
  for (const auto& [address, block] : blocks_) {
    if (!block.is_adopted()) continue;
    ++totals.blocks;
    totals.bytes += static_cast<std::int64_t>(block.bytes);
  }
  return totals;
}

// --- uses --------------------------------------------------------------------------------------

MemoryUse::MemoryUse(const at::Tensor& tensor, const std::shared_ptr<Job>& job) {
  if (!tensor.is_cpu() || tensor.storage().nbytes() < LargeBlocks::kSmallest) return;
  LargeBlocks& blocks = LargeBlocks::instance();
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr());
  const std::lock_guard lock(blocks.mutex_);
  auto* const found = blocks.is_forked_ ? nullptr : blocks.find(address);
  if (found == nullptr) return;
  ++found->second.in_flight;
  block_ = found->first;
  is_whole_ = tensor.is_contiguous() && address == block_ && tensor.nbytes() == found->second.bytes;
  job_ = job;
}

MemoryUse::MemoryUse(MemoryUse&& other) noexcept
    : block_(std::exchange(other.block_, 0)),
      is_whole_(other.is_whole_),
      job_(std::move(other.job_)) {}

MemoryUse::~MemoryUse() {
  if (block_ == 0) return;
  const std::shared_ptr<Job> job = job_.lock();
  LargeBlocks::instance().end_use(block_, is_whole_, job.get());
}

/// The use counts as one until the end, so the block stays as it is for others.
void LargeBlocks::end_use(std::uintptr_t address, bool is_whole, Job* job) noexcept {
  std::unique_lock lock(mutex_);
  const auto found = blocks_.find(address);
  if (found == blocks_.end()) return;  // the tensor's storage was resized meanwhile
  Block& block = found->second;
  if (is_whole) ++block.uses;
  if (block.in_flight == 1 && job != nullptr && block.own.get() != nullptr) {
    if (block.is_adopted() && block.job == job &&
        !job->world.in_pool(block.pages.data(), block.pages.bytes())) {
      lock.unlock();
      leave_pool(address, block);
      lock.lock();
    } else if (!block.is_adopted() && is_whole && block.uses >= kUsesBefore && !block.is_refused) {
      lock.unlock();
      const bool is_adopted = adopt(address, block, *job);
      lock.lock();
      block.is_refused = !is_adopted;
    }
  }
  --block.in_flight;
}

bool LargeBlocks::adopt(std::uintptr_t address, Block& block, Job& job) {
  const std::size_t length = in_pages(block.bytes);
  void* const data = at_address(address);
  if (at::globalContext().isPinnedPtr(data)) return false;
  std::optional<PoolBlock> pages = job.take(length, kReserve);
  if (!pages) return false;
  std::memcpy(pages->data(), data, block.bytes);
  {
    const std::lock_guard lock(mutex_);  // a fork in between would not see what it has to copy
    if (!map_again(pages->data(), length, data)) return false;
    block.pages = std::move(*pages);
    block.job = &job;
  }
  (void)::madvise(data, length, MADV_POPULATE_WRITE);  // else the next writer pays page by page
  return true;
}

/// Its pages were cut off: the pool's mapping has another copy now.
void LargeBlocks::leave_pool(std::uintptr_t address, Block& block) noexcept {
  if (!make_private(at_address(address), in_pages(block.bytes))) return;
  PoolBlock given_up;
  const std::lock_guard lock(mutex_);
  block.is_refused = true;
  std::swap(given_up, block.pages);
}

// --- fork --------------------------------------------------------------------------------------

void LargeBlocks::before_fork() noexcept {
  LargeBlocks& blocks = instance();
  blocks.mutex_.lock();
  for (const auto& [address, block] : blocks.blocks_) {
    if (!block.is_adopted()) continue;
    if (::pipe2(blocks.copied_, O_CLOEXEC) != 0) blocks.copied_[0] = blocks.copied_[1] = -1;
    return;
  }
}

void LargeBlocks::after_fork_in_parent() noexcept {
  LargeBlocks& blocks = instance();
  if (blocks.copied_[0] >= 0) {
    ::close(blocks.copied_[1]);
    ::pollfd end{blocks.copied_[0], 0, 0};  // POLLHUP is always told
    constexpr int kMaxInterruptions = 1000;
    for (int i = 0; i < kMaxInterruptions; ++i) {
      if (::poll(&end, 1, kForkTimeoutMs) >= 0 || errno != EINTR) break;
    }
    ::close(blocks.copied_[0]);
    blocks.copied_[0] = blocks.copied_[1] = -1;
  }
  blocks.mutex_.unlock();
}

void LargeBlocks::after_fork_in_child() noexcept {
  LargeBlocks& blocks = instance();
  blocks.is_forked_ = true;
  for (const auto& [address, block] : blocks.blocks_) {
    if (!block.is_adopted()) continue;
    const std::size_t length = in_pages(block.bytes);
    if (make_private(at_address(address), length)) continue;
    // Rather a signal than writing into the parent's memory.
    (void)::mprotect(at_address(address), length, PROT_READ);
  }
  for (int& end : blocks.copied_) {
    if (end >= 0) ::close(end);
    end = -1;
  }
  blocks.mutex_.unlock();
}

}  // namespace shoal::torch
