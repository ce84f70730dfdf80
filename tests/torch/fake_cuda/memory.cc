#include <c10/core/impl/VirtualGuardImpl.h>

#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "driver.h"

namespace fake_torch {

namespace {

/// As torch's caching allocator has it: memory belongs to the stream that was current when it was
/// taken, is given back when that and the streams recorded since have run, and no sooner. It is not
/// used again: whoever touches it then faults.
struct Block {
  CUdeviceptr address = 0;
  c10::DeviceIndex device = 0;
  std::vector<c10::Stream> streams;
  std::vector<CUevent> events;  // once it has been given back
};

class Allocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    const c10::Device device = c10::impl::VirtualGuardImpl(c10::kCUDA).getDevice();
    if (bytes == 0) return {nullptr, device};
    activate(device.index());
    reap();
    auto block = std::make_unique<Block>();
    block->device = device.index();
    block->streams.push_back(current_stream(device.index()));
    CALL_CUDA(cuMemAlloc, &block->address, bytes);
    void* const data = reinterpret_cast<void*>(block->address);
    return {data, block.release(), &give_back, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void*, const void*, std::size_t) const override {
    TORCH_CHECK(false, "fake CUDA: copy_data");
  }

  static void give_back(void* data) {
    std::unique_ptr<Block> block(static_cast<Block*>(data));
    activate(block->device);
    for (const c10::Stream& stream : block->streams) {
      CALL_CUDA(cuEventCreate, &block->events.emplace_back(), CU_EVENT_DISABLE_TIMING);
      CALL_CUDA(cuEventRecord, block->events.back(), handle_of(stream));
    }
    const std::lock_guard lock(mutex());
    waiting().push_back(std::move(block));
  }

 private:
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  static std::list<std::unique_ptr<Block>>& waiting() {
    static auto* const all = new std::list<std::unique_ptr<Block>>;  // streams outlive statics
    return *all;
  }
  static bool is_over(const Block& block) {
    const c10::impl::VirtualGuardImpl guard(c10::kCUDA);
    for (CUevent event : block.events) {
      if (!guard.queryEvent(event)) return false;
    }
    return true;
  }
  static void reap() {
    const std::lock_guard lock(mutex());
    std::erase_if(waiting(), [](const std::unique_ptr<Block>& block) {
      if (!is_over(*block)) return false;
      for (CUevent event : block->events) CALL_CUDA(cuEventDestroy, event);
      CALL_CUDA(cuMemFree, block->address);
      return true;
    });
  }
};

}  // namespace

c10::Allocator& allocator() {
  static Allocator one;
  return one;
}

void record(const c10::DataPtr& memory, const c10::Stream& stream) {
  if (memory.get_deleter() != &Allocator::give_back) return;
  static_cast<Block*>(memory.get_context())->streams.push_back(stream);
}

}  // namespace fake_torch
