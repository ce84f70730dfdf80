// Ranks that are threads of one process, on one GPU: what a small all_reduce costs over the least
// that it could (a kernel of each rank and one round of flags between them), what large ones reach
// of the device's copy, and what calls of the driver wait for a kernel that waits.
//
//   gpu_floor [--try]     one size of each, few calls: does it run?
#include "floor.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "ranks.h"

// What nvcc has made of floor.cu, as it is.
asm(".section .rodata\n"
    ".balign 16\n"
    ".hidden floor_image\n"
    ".global floor_image\n"
    "floor_image:\n"
    ".incbin \"" FLOOR_FATBIN
    "\"\n"
    ".previous\n");
extern "C" const unsigned char floor_image[];

namespace floor_of {
namespace {

using shoal::cuda::Driver;
using shoal::cuda::require;

constexpr int kProgramS = 90;
bool trial = false;

/// The kernels of floor.cu, and their flags.
class Floor {
 public:
  explicit Floor(const shoal::cuda::PrimaryContext& context)
      : driver_(context.driver()), module_(shoal::cuda::load_kernels(driver_, floor_image)) {
    require(driver_, "cuModuleGetFunction",
            driver_.module_get_function(&empty_, module_.get(), "floor_empty"));
    require(driver_, "cuModuleGetFunction",
            driver_.module_get_function(&round_, module_.get(), "floor_round"));
    require(driver_, "cuMemAlloc", driver_.mem_alloc(&flags_, kFlagBytes));
    require(driver_, "cuMemsetD8Async", driver_.memset_d8_async(flags_, 0, kFlagBytes, nullptr));
    require(driver_, "cuStreamSynchronize", driver_.stream_synchronize(nullptr));
  }
  ~Floor() { (void)driver_.mem_free(flags_); }
  Floor(const Floor&) = delete;
  Floor& operator=(const Floor&) = delete;

  void launch_empty(const Seat& seat) const { launch(empty_, seat, 0); }
  void launch_round(const Seat& seat, std::uint32_t value) const { launch(round_, seat, value); }

 private:
  static constexpr std::size_t kFlagBytes = kStride * kStride * sizeof(std::uint32_t);

  void launch(CUfunction kernel, const Seat& seat, std::uint32_t value) const {
    Round round{reinterpret_cast<std::uint32_t*>(flags_), seat.rank, seat.ranks, value};
    void* arguments[] = {&round};
    require(
        driver_, "cuLaunchKernel",
        driver_.launch_kernel(kernel, 1, 1, 1, kStride, 1, 1, 0, seat.stream, arguments, nullptr));
  }

  const Driver& driver_;
  shoal::cuda::KernelModule module_;
  CUfunction empty_ = nullptr, round_ = nullptr;
  CUdeviceptr flags_ = 0;
};

void all_reduce(const Seat& seat, const shoal::CudaBlock& block, std::int64_t bytes,
                shoal::DataType dtype, bool waits = false) {
  shoal::CallOptions options;
  options.on_stream = true;
  options.stream = seat.stream;
  shoal::Work work =
      seat.comm.all_reduce({block.data(), {bytes}}, {block.data(), {bytes}},
                           {bytes / shoal::size_of(dtype)}, dtype, shoal::ReduceOp::kSum, options);
  if (waits) work.wait();
}

void zero(const Seat& seat, const shoal::CudaBlock& block) {
  require(seat.driver, "cuMemsetD8Async",
          seat.driver.memset_d8_async(reinterpret_cast<CUdeviceptr>(block.data()), 0,
                                      static_cast<std::size_t>(block.bytes().value), seat.stream));
}

void print_small(int ranks, const std::vector<Cell>& cells, const std::vector<Times>& times,
                 double floor_us) {
  std::printf("%d ranks as threads, us a call\n", ranks);
  std::printf("| what | bytes | one at a time | over the floor | back to back | host |\n");
  std::printf("|---|---|---|---|---|---|\n");
  for (std::size_t i = 0; i < cells.size(); ++i) {
    std::printf("| %s | %lld | %.2f | %.2f | %.2f | %.2f |\n", cells[i].what.c_str(),
                static_cast<long long>(cells[i].bytes), times[i].each_us,
                floor_us > 0 ? times[i].each_us / floor_us : 0.0, times[i].many_us,
                times[i].host_us);
  }
  for (std::size_t i = 0; i < cells.size(); ++i) {
    std::printf(
        "{\"ranks\": %d, \"what\": \"%s\", \"bytes\": %lld, \"each_us\": %.3f, \"many_us\": %.3f, "
        "\"host_us\": %.3f, \"floor_us\": %.3f}\n",
        ranks, cells[i].what.c_str(), static_cast<long long>(cells[i].bytes), times[i].each_us,
        times[i].many_us, times[i].host_us, floor_us);
  }
}

/// `floor`: nullptr: this driver has no such kernels.
void measure_small(const shoal::cuda::PrimaryContext& context, const Floor* floor, int ranks) {
  run_ranks(context, ranks, [&](Seat& seat) {
    const int calls = trial ? 20 : 200;
    std::uint32_t value = 0;
    const shoal::CudaBlock block = seat.comm.allocate_cuda({1 << 20}, 0);
    zero(seat, block);
    std::vector<Cell> cells;
    if (floor != nullptr) {
      cells.push_back({"empty kernel", 0, calls, [&] { floor->launch_empty(seat); }});
      cells.push_back(
          {"kernel, flag round", 0, calls, [&] { floor->launch_round(seat, ++value); }});
    }
    // The last of the small ones goes in one round of packets, the next not.
    for (const std::int64_t bytes : {8, 1 << 10, 4 << 10, 16 << 10, (16 << 10) + 8, 64 << 10}) {
      cells.push_back({"all_reduce", bytes, calls,
                       [&, bytes] { all_reduce(seat, block, bytes, shoal::DataType::kFloat32); }});
      if (trial) break;
    }
    cells.push_back({"all_reduce, Work.wait()", 8, calls,
                     [&] { all_reduce(seat, block, 8, shoal::DataType::kFloat32, true); }});
    const std::vector<Times> times = measure(seat, cells, trial ? 1 : 7);
    if (seat.rank == 0) {
      print_small(ranks, cells, times, floor != nullptr ? times[1].each_us : 0);
    }
  });
}

/// Of one rank's copies within the device, read and written.
double copy_gb_s(Seat& seat, const shoal::CudaBlock& from, const shoal::CudaBlock& to,
                 std::int64_t bytes) {
  const int calls = 4;
  const auto copy = [&] {
    if (seat.rank != 0) return;
    require(seat.driver, "cuMemcpyDtoDAsync",
            seat.driver.memcpy_dtod_async(reinterpret_cast<CUdeviceptr>(to.data()),
                                          reinterpret_cast<CUdeviceptr>(from.data()),
                                          static_cast<std::size_t>(bytes), seat.stream));
  };
  const std::vector<Times> times = measure(seat, {{"copy", bytes, calls, copy}}, trial ? 1 : 5);
  return 2e-3 * static_cast<double>(bytes) / times[0].many_us;
}

void measure_large(const shoal::cuda::PrimaryContext& context, int ranks) {
  const std::int64_t most = trial ? 1 << 20 : 256 << 20;
  run_ranks(context, ranks, [&](Seat& seat) {
    const shoal::CudaBlock block = seat.comm.allocate_cuda({most}, 0);
    const shoal::CudaBlock other = seat.comm.allocate_cuda({seat.rank == 0 ? most : 1}, 0);
    zero(seat, block);
    for (const std::int64_t bytes : {most / 4, most}) {
      const double copied = copy_gb_s(seat, block, other, bytes);
      std::vector<Cell> cells;
      for (const shoal::DataType dtype : {shoal::DataType::kFloat32, shoal::DataType::kBfloat16}) {
        cells.push_back({std::string(name_of(dtype)), bytes, 4,
                         [&, bytes, dtype] { all_reduce(seat, block, bytes, dtype); }});
      }
      const std::vector<Times> times = measure(seat, cells, trial ? 1 : 5);
      for (std::size_t i = 0; seat.rank == 0 && i < cells.size(); ++i) {
        const double moved = 2e-3 * static_cast<double>(bytes) * ranks / times[i].many_us;
        std::printf(
            "| %d ranks | all_reduce | %lld MiB | %s | %.0f GB/s | %.2f of the copy's %.0f |\n",
            ranks, static_cast<long long>(bytes >> 20), cells[i].what.c_str(), moved,
            moved / copied, copied);
        std::printf(
            "{\"ranks\": %d, \"what\": \"bandwidth\", \"bytes\": %lld, \"dtype\": \"%s\", "
            "\"gb_s\": "
            "%.1f, \"copy_gb_s\": %.1f}\n",
            ranks, static_cast<long long>(bytes), cells[i].what.c_str(), moved, copied);
      }
    }
  });
}

/// True: it went well, or there was nothing to do.
bool attempt(const char* name, const std::function<void()>& body) {
  try {
    body();
    std::printf("ok %s\n", name);
    std::fflush(stdout);
    return true;
  } catch (const std::exception& error) {
    std::printf("FAILED %s: %s\n", name, error.what());
    std::fflush(stdout);
    return false;
  }
}

int run() {
  ::setenv("SHOAL_CUDA_MODULE", SHOAL_CUDA_MODULE_PATH, 0);
  ::setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);  // a hardware queue for each stream
  const shoal::cuda::DriverFound& found = shoal::cuda::find_driver();
  if (found.driver == nullptr) {
    std::printf("skipped gpu_floor: %s\n", found.reason.c_str());
    return 0;
  }
  const shoal::cuda::PrimaryContext context(*found.driver, 0);
  const shoal::cuda::ContextGuard guard(context);
  std::unique_ptr<Floor> floor;
  try {
    floor = std::make_unique<Floor>(context);
  } catch (const std::exception& error) {
    std::printf("skipped floor: %s\n", error.what());
  }
  bool all = true;
  for (const int ranks : {2, 4}) {
    const std::string name = std::to_string(ranks) + " ranks";
    all &= attempt(("small, " + name).c_str(), [&] { measure_small(context, floor.get(), ranks); });
  }
  if (floor != nullptr) {
    all &= attempt("waits", [&] { print_waits(context, floor_image); });
  }
  for (const int ranks : {2, 4}) {
    const std::string name = std::to_string(ranks) + " ranks";
    all &= attempt(("large, " + name).c_str(), [&] { measure_large(context, ranks); });
  }
  return all ? 0 : 1;
}

}  // namespace
}  // namespace floor_of

int main(int argc, char** argv) {
  floor_of::trial = argc > 1 && std::strcmp(argv[1], "--try") == 0;
  std::thread([] {
    std::this_thread::sleep_for(std::chrono::seconds(floor_of::kProgramS));
    std::printf("FAILED gpu_floor: not over after %d s\n", floor_of::kProgramS);
    std::fflush(stdout);
    std::_Exit(1);
  }).detach();
  const int code = floor_of::run();
  std::fflush(stdout);
  std::_Exit(code);  // the thread above
}
