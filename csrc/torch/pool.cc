#include "torch/pool.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "torch/streams.h"

namespace shoal::torch {

namespace {

thread_local PoolScope in_force;

/// What tensors leave of the pool to shoal itself, which stages what is not in the pool: a quarter,
/// but not more than this.
constexpr std::int64_t kReservedBytes = 64 << 20;

bool has_room(const std::shared_ptr<Job>& job, std::size_t bytes) {
  const PoolStatistics pool = job->world.pool();
  const std::int64_t reserved = std::min(kReservedBytes, pool.limit.value / 4);
  return pool.used.value + static_cast<std::int64_t>(bytes) <= pool.limit.value - reserved;
}

/// A block of the job's pool; empty where it is full.
c10::DataPtr take(const std::shared_ptr<Job>& job, std::size_t bytes) {
  if (!has_room(job, bytes)) return {};
  try {
    auto block =
        std::make_unique<PoolBlock>(job->world.allocate({static_cast<std::int64_t>(bytes)}));
    void* data = block->data();
    const auto free = [](void* context) { delete static_cast<PoolBlock*>(context); };
    return {data, block.release(), free, c10::Device(c10::DeviceType::CPU)};
  } catch (const Error&) {
    return {};
  }
}

/// In front of torch's own allocator from the first enter_pool() on.
class PoolAllocator final : public c10::Allocator {
 public:
  explicit PoolAllocator(c10::Allocator& other) noexcept : other_(other) {}

  c10::DataPtr allocate(std::size_t bytes) override {
    if (in_force.job != nullptr && bytes >= in_force.smallest && bytes > 0) {
      c10::DataPtr data = take(in_force.job, bytes);
      if (data.get() != nullptr) return data;
    }
    return other_.allocate(bytes);
  }
  /// Of raw allocations, which are torch's: those of the pool have another context than address.
  c10::DeleterFnPtr raw_deleter() const override { return other_.raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }

 private:
  c10::Allocator& other_;
};

void install() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Never freed: tensors may outlive everything. 255: in front of whatever is there.
    auto* pool = new PoolAllocator(*c10::GetAllocator(c10::DeviceType::CPU));
    c10::SetAllocator(c10::DeviceType::CPU, pool, 255);
  });
}

}  // namespace

PoolScope enter_pool(PoolScope scope) {
  install();
  return std::exchange(in_force, std::move(scope));
}

void leave_pool(PoolScope before) { in_force = std::move(before); }

at::Tensor pool_empty(const std::shared_ptr<Job>& job, at::IntArrayRef sizes, at::ScalarType type) {
  const std::int64_t bytes =
      c10::multiply_integers(sizes) * static_cast<std::int64_t>(c10::elementSize(type));
  c10::DataPtr data = bytes == 0 ? c10::DataPtr() : take(job, static_cast<std::size_t>(bytes));
  if (data.get() == nullptr) return at::empty(sizes, type);
  void* const begin = data.get();
  // shared_ptr: a std::function has to be copyable
  auto owner = std::make_shared<c10::DataPtr>(std::move(data));
  return at::from_blob(begin, sizes, [owner](void*) mutable { owner.reset(); }, type);
}

at::Tensor cuda_pool_empty(const std::shared_ptr<Job>& job, at::IntArrayRef sizes,
                           at::ScalarType type, c10::Device device) {
  const c10::Stream stream = current_stream(device);
  const std::int64_t bytes =
      c10::multiply_integers(sizes) * static_cast<std::int64_t>(c10::elementSize(type));
  // shared_ptr: a std::function has to be copyable
  auto block = std::make_shared<CudaBlock>(
      job->world.allocate_cuda({bytes}, static_cast<int>(stream.device_index())));
  block->share();
  void* const begin = block->data();
  const auto give_back = [block = std::move(block), stream](void*) mutable {
    try {
      block->record_stream(handle_of(stream));
      block->record_stream(handle_of(current_stream(stream.device())));
    } catch (const std::exception&) {  // the device is lost, and nothing will use it again
    }
    block.reset();
  };
  return at::for_blob(begin, sizes)
      .deleter(give_back)
      .options(at::TensorOptions(type).device(stream.device()))
      .target_device(stream.device())
      .make_tensor();
}

}  // namespace shoal::torch
