/// CUDA memory, for those who ask for it: nobody else loads anything of it.
#include <utility>

#include "comm/context.h"
#include "comm/impl.h"
#include "cuda/loader.h"
#include "transport/shm/layout.h"

namespace shoal {

namespace comm {

cuda::MemoryOptions Context::cuda_options(int device) {
  cuda::MemoryOptions options;
  options.self = node_->self();
  for (int r = 0; r < node_->ranks(); ++r) {
    options.doors.push_back(&transport::shm::Header(arena_, r).cuda_door());
  }
  options.device = device;
  options.timeout_ms = options_.timeout_ms;
  options.on_lost = [this](const std::string& text) {
    const std::lock_guard lock(receivers_mutex_);
    for (const auto& [id, receiver] : receivers_) receiver->lose_device(text);
  };
  return options;
}

cuda::DeviceMemory& Context::cuda(int device, const cuda::Interrupt& interrupt) {
  const std::lock_guard lock(cuda_mutex_);
  if (cuda_ == nullptr) cuda_ = cuda::make_device_memory(cuda_options(device), interrupt);
  if (device >= 0 && device != cuda_->device()) {
    throw Error(ErrorCode::kInvalidArgument,
                "cuda: this rank's memory is on device " + std::to_string(cuda_->device()) +
                    ", and device " + std::to_string(device) + " was asked for; a rank has one");
  }
  return *cuda_;
}

}  // namespace comm

struct CudaBlock::State {
  std::shared_ptr<comm::Context> context;  // shared_ptr: blocks outlive communicators
  cuda::DeviceMemory* memory;
  std::uint64_t address;
  std::int64_t bytes;
  bool shared = false;
};

CudaBlock::CudaBlock() noexcept = default;
CudaBlock::CudaBlock(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
CudaBlock::CudaBlock(CudaBlock&&) noexcept = default;

CudaBlock& CudaBlock::operator=(CudaBlock&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

CudaBlock::~CudaBlock() {
  if (state_ == nullptr) return;
  if (!state_->context->in_its_process()) {
    (void)state_.release();  // a forked child: everything belongs to the parent
    return;
  }
  state_->memory->free(state_->address, state_->shared);
}

void* CudaBlock::data() const noexcept {
  return state_ == nullptr ? nullptr : reinterpret_cast<void*>(state_->address);
}

Bytes CudaBlock::bytes() const noexcept { return {state_ == nullptr ? 0 : state_->bytes}; }
int CudaBlock::device() const noexcept { return state_->memory->device(); }
void CudaBlock::record_stream(void* stream) { state_->memory->used(state_->address, stream); }

void CudaBlock::order_after_uses(void* stream) {
  state_->memory->order_after_uses(state_->address, stream);
}

void CudaBlock::share() noexcept { state_->shared = true; }

void CudaBlock::copy_to_host(void* to) const {
  state_->memory->copy_to_host(to, state_->address, state_->bytes);
}

void CudaBlock::copy_from_host(const void* from) {
  state_->memory->copy_from_host(state_->address, from, state_->bytes);
}

CudaBlock Communicator::allocate_cuda(Bytes bytes, int device, const Interrupt& interrupt) {
  impl_->require_own_process();
  if (bytes.value < 0) {
    throw Error(ErrorCode::kInvalidArgument, "allocate_cuda: a negative number of bytes");
  }
  cuda::DeviceMemory& memory = impl_->context->cuda(device, interrupt);
  const std::uint64_t address = memory.allocate(bytes.value, interrupt);
  return CudaBlock(std::make_unique<CudaBlock::State>(
      CudaBlock::State{impl_->context, &memory, address, bytes.value}));
}

}  // namespace shoal
