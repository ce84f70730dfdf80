#include "torch/pool.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <cstdlib>
#include <cstring>
#include <mutex>

#include "torch/large_blocks.h"
#include "torch/streams.h"

namespace shoal::torch {

namespace {

thread_local PoolScope in_force;
c10::DeleterFnPtr others_deleter = nullptr;  // once the allocator has been installed

/// What tensors leave of the pool to shoal itself, which stages what is not in the pool.
constexpr Job::Reserve kReserve{.parts = 4, .most = 64 << 20};

bool adopts() {
  const char* given = std::getenv("SHOAL_TORCH_ADOPT");
  return given == nullptr || std::strcmp(given, "0") != 0;
}

/// In front of torch's own allocator from the first process group on.
class Allocator final : public c10::Allocator {
 public:
  explicit Allocator(c10::Allocator& other) noexcept : other_(other) {}

  c10::DataPtr allocate(std::size_t bytes) override {
    if (in_force.job != nullptr && bytes >= in_force.smallest && bytes > 0) {
      if (auto block = in_force.job->take(bytes, kReserve)) return blocks_.keep(std::move(*block));
    }
    if (knows_others_ && bytes >= LargeBlocks::kSmallest) return blocks_.allocate(other_, bytes);
    return other_.allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &delete_raw; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }

 private:
  static void delete_raw(void* address) {
    if (!LargeBlocks::instance().free(address)) others_deleter(address);
  }

  c10::Allocator& other_;
  LargeBlocks& blocks_ = LargeBlocks::instance();
  /// Of memory by another allocator than torch's own nothing is known: it may be a device's, too.
  const bool knows_others_ = adopts() && &other_ == c10::GetDefaultCPUAllocator();
};

}  // namespace

void install_allocator() {
  static std::once_flag once;
  std::call_once(once, [] {
    c10::Allocator* other = c10::GetAllocator(c10::DeviceType::CPU);
    others_deleter = other->raw_deleter();
    // Never freed: tensors may outlive everything. 255: in front of whatever is there.
    c10::SetAllocator(c10::DeviceType::CPU, new Allocator(*other), 255);
  });
}

PoolScope enter_pool(PoolScope scope) { return std::exchange(in_force, std::move(scope)); }

void leave_pool(PoolScope before) { in_force = std::move(before); }

at::Tensor pool_empty(const std::shared_ptr<Job>& job, at::IntArrayRef sizes, at::ScalarType type) {
  const std::int64_t bytes =
      c10::multiply_integers(sizes) * static_cast<std::int64_t>(c10::elementSize(type));
  if (bytes == 0) return at::empty(sizes, type);
  auto block = job->take(static_cast<std::size_t>(bytes), kReserve);
  if (!block) return at::empty(sizes, type);
  // shared_ptr: a std::function has to be copyable
  auto owner = std::make_shared<PoolBlock>(std::move(*block));
  return at::from_blob(owner->data(), sizes, [owner](void*) mutable { owner.reset(); }, type);
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
