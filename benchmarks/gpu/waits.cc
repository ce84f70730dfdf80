// Which calls of the driver do not return while a kernel runs that waits for the host, and while a
// stream waits so: what a rank may not do while another rank's kernel waits for it.
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "floor.h"
#include "ranks.h"

namespace floor_of {
namespace {

using shoal::cuda::Driver;
using shoal::cuda::ok;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kBytes = 2 << 20;
constexpr std::chrono::milliseconds kPatience{150};

/// Sets a word when kPatience has passed, unless it is told before.
class Release {
 public:
  explicit Release(std::atomic_ref<std::uint32_t> flag) : flag_(flag), thread_([this] { run(); }) {}
  /// True: it had not come to that.
  bool stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    thread_.join();
    return !released_;
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    released_ = !changed_.wait_for(lock, kPatience, [this] { return stopped_; });
    flag_.store(1);
  }
  std::atomic_ref<std::uint32_t> flag_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false, released_ = false;
  std::thread thread_;
};

/// A call, and what has to be there before and goes after it.
struct Trial {
  const char* name;
  std::function<void()> before, call, after;
};

class Waits {
 public:
  Waits(const shoal::cuda::PrimaryContext& context, const void* image)
      : driver_(context.driver()),
        image_(image),
        page_(static_cast<std::uint32_t*>(std::aligned_alloc(kPage, kPage))),
        words_(context, reinterpret_cast<std::byte*>(page_), kPage),
        module_(shoal::cuda::load_kernels(driver_, image)),
        waiting_(shoal::cuda::make_stream(driver_, CU_STREAM_NON_BLOCKING)),
        other_(shoal::cuda::make_stream(driver_, CU_STREAM_NON_BLOCKING)) {
    shoal::cuda::require(driver_, "cuModuleGetFunction",
                         driver_.module_get_function(&kernel_, module_.get(), "floor_wait"));
    host_ = std::aligned_alloc(kPage, kBytes);
    prop_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop_.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop_.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  }
  ~Waits() { std::free(host_); }

  void print() {
    std::printf(
        "| call of the driver | while a kernel waits | while a stream waits |\n|---|---|---|\n");
    for (const Trial& trial : trials()) {
      const bool beside_kernel = returns(trial, true), beside_stream = returns(trial, false);
      std::printf("| %s | %s | %s |\n", trial.name, beside_kernel ? "returns" : "**waits**",
                  beside_stream ? "returns" : "**waits**");
      std::printf(
          "{\"call\": \"%s\", \"returns_beside_kernel\": %s, \"returns_beside_stream\": %s}\n",
          trial.name, beside_kernel ? "true" : "false", beside_stream ? "true" : "false");
      std::fflush(stdout);
    }
  }

 private:
  std::vector<Trial> trials() {
    const auto map = [this] {
      (void)driver_.mem_create(&handle_, kBytes, &prop_, 0);
      (void)driver_.mem_map(range_, kBytes, 0, handle_, 0);
      CUmemAccessDesc access{prop_.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
      (void)driver_.mem_set_access(range_, kBytes, &access, 1);
    };
    const auto unmap = [this] {
      (void)driver_.mem_unmap(range_, kBytes);
      (void)driver_.mem_release(handle_);
    };
    const auto reserve = [this] { (void)driver_.mem_address_reserve(&range_, kBytes, 0, 0, 0); };
    const auto give_up = [this] { (void)driver_.mem_address_free(range_, kBytes); };
    const auto allocate = [this] { (void)driver_.mem_alloc(&memory_, kBytes); };
    const auto free = [this] { (void)driver_.mem_free(memory_); };
    const auto pin = [this] {
      (void)driver_.mem_host_register(host_, kBytes, CU_MEMHOSTREGISTER_DEVICEMAP);
    };
    const auto unpin = [this] { (void)driver_.mem_host_unregister(host_); };
    const auto load = [this] { (void)driver_.module_load_data(&loaded_, image_); };
    const auto unload = [this] { (void)driver_.module_unload(loaded_); };
    const auto find = [this] {
      CUfunction function = nullptr;
      (void)driver_.module_get_function(&function, loaded_, "floor_empty");
      if (driver_.func_load != nullptr) (void)driver_.func_load(function);
    };
    const auto open = [this] { (void)driver_.stream_create(&stream_, CU_STREAM_NON_BLOCKING); };
    const auto close = [this] { (void)driver_.stream_destroy(stream_); };
    const auto fill = [this](CUstream stream) {
      (void)driver_.memset_d32_async(memory_, 0, 1024, stream);
      (void)driver_.stream_synchronize(stream);
    };
    const auto nothing = [] {};
    return {
        {"cuMemAlloc", nothing, allocate, free},
        {"cuMemFree", allocate, free, nothing},
        {"cuMemAddressReserve", nothing, reserve, give_up},
        {"cuMemCreate, Map, SetAccess", reserve, map, [=] { unmap(), give_up(); }},
        {"cuMemUnmap, Release", [=] { reserve(), map(); }, unmap, give_up},
        {"cuMemHostRegister", nothing, pin, unpin},
        {"cuMemHostUnregister", pin, unpin, nothing},
        {"cuModuleLoadData", nothing, load, unload},
        {"cuModuleGetFunction, FuncLoad", load, find, unload},
        {"cuModuleUnload", load, unload, nothing},
        {"cuStreamCreate", nothing, open, close},
        {"cuStreamDestroy", open, close, nothing},
        {"cuMemset on another stream", allocate, [=, this] { fill(other_.get()); }, free},
        {"cuMemset on the null stream", allocate, [=] { fill(nullptr); }, free},
    };
  }

  /// Whether it came back before what waits was let go.
  bool returns(const Trial& trial, bool beside_kernel) {
    trial.before();
    const std::atomic_ref begun(page_[0]), flag(page_[1]);
    begun.store(0);
    flag.store(0);
    (beside_kernel ? start_kernel() : start_wait());
    const Clock::time_point end = Clock::now() + std::chrono::seconds(2);
    while (begun.load() == 0 && Clock::now() < end) std::this_thread::yield();
    Release release(flag);
    trial.call();
    const bool returned = release.stop();
    (void)driver_.stream_synchronize(waiting_.get());
    trial.after();
    return returned;
  }

  void start_kernel() {
    Wait wait{word(0), word(1)};
    void* arguments[] = {&wait};
    (void)driver_.launch_kernel(kernel_, 1, 1, 1, 1, 1, 1, 0, waiting_.get(), arguments, nullptr);
  }

  void start_wait() {
    CUstreamBatchMemOpParams operations[2]{};
    operations[0].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    operations[0].writeValue.address = reinterpret_cast<CUdeviceptr>(word(0));
    operations[0].writeValue.value = 1;
    operations[1].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    operations[1].waitValue.address = reinterpret_cast<CUdeviceptr>(word(1));
    operations[1].waitValue.value = 1;
    operations[1].waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
    (void)driver_.stream_batch_mem_op(waiting_.get(), 2, operations, 0);
  }

  [[nodiscard]] std::uint32_t* word(int i) const {
    return reinterpret_cast<std::uint32_t*>(
        words_.on_device(reinterpret_cast<const std::byte*>(page_ + i)));
  }

  const Driver& driver_;
  const void* image_;
  std::uint32_t* page_;
  shoal::cuda::MappedMemory words_;
  shoal::cuda::KernelModule module_;
  shoal::cuda::Stream waiting_, other_;
  CUfunction kernel_ = nullptr;
  void* host_ = nullptr;
  CUmemAllocationProp prop_{};
  CUmemGenericAllocationHandle handle_ = 0;
  CUdeviceptr range_ = 0, memory_ = 0;
  CUmodule loaded_ = nullptr;
  CUstream stream_ = nullptr;
};

}  // namespace

void print_waits(const shoal::cuda::PrimaryContext& context, const void* image) {
  const shoal::cuda::ContextGuard guard(context);
  Waits(context, image).print();
}

}  // namespace floor_of
