// CUDA memory through the public API, with ranks as threads: so thread sanitizer sees the service
// threads, the control threads and the ranks together.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "comm/job.h"
#include "cuda/fake.h"

namespace shoal {
namespace {

/// Every test: the module's driver is the stand-in, in this process.
class CudaComm : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("SHOAL_CUDA_MODULE", SHOAL_CUDA_MODULE_PATH, 1);
    cuda::testing::fake_driver();
  }
};

TEST_F(CudaComm, EachRankHasMemoryAndGivesItBack) {
  const std::uint64_t before = cuda::testing::used_bytes();
  run_ranks(4, [](Communicator& comm) {
    for (int round = 0; round < 5; ++round) {
      CudaBlock block = comm.allocate_cuda({1 << 20}, 0);
      EXPECT_EQ(block.device(), 0);
      std::vector<char> in(1 << 20, static_cast<char>(comm.rank() + round)), out(1 << 20);
      block.copy_from_host(in.data());
      CudaBlock moved = std::move(block);
      moved.copy_to_host(out.data());
      EXPECT_EQ(in, out);
      if (round == 2) comm.barrier().wait();
    }
    comm.barrier().wait();
  });
  EXPECT_EQ(cuda::testing::used_bytes(), before);
}

// Rank 2 loses its device; the others wait for it in a barrier and learn of it by name. On one
// process's stand-in the error sticks for all, as with a real driver: the first to see it tells.
TEST_F(CudaComm, ALostDeviceIsAnErrorOnAllRanks) {
  const cuda::testing::Failing nothing("");
  std::atomic<int> ready{0};
  run_ranks(3, [&](Communicator& comm) {
    CudaBlock block = comm.allocate_cuda({64}, 0);
    comm.barrier().wait();
    char byte = 0;
    std::string text;
    if (comm.rank() == 2) {
      while (ready.load() < 2) std::this_thread::yield();
      auto* fail = cuda::testing::fake_function<decltype(fake_cuda_fail)>("fake_cuda_fail");
      EXPECT_TRUE(fail("stream:1:700"));
      std::vector<char> out(64);
      EXPECT_EQ(outcome([&] { block.copy_to_host(out.data()); }, &text), ErrorCode::kDevice);
      EXPECT_NE(text.find("CUDA_ERROR_ILLEGAL_ADDRESS"), std::string::npos) << text;
    } else {
      ++ready;
    }
    // Rank 2 never comes to the reduction.
    const auto wait = [&] {
      if (comm.rank() == 2) {
        for (int i = 0; i < 20'000 && comm.error() == ErrorCode::kOk; ++i) {
          std::this_thread::sleep_for(std::chrono::microseconds(500));
        }
        comm.barrier().wait();
      } else {
        comm.all_reduce({&byte, {1}}, {&byte, {1}}, {1}, DataType::kInt8, ReduceOp::kSum).wait();
      }
    };
    EXPECT_EQ(outcome(wait, &text), ErrorCode::kDevice);
    EXPECT_NE(text.find("has lost its GPU: "), std::string::npos) << text;
    EXPECT_NE(text.find("CUDA_ERROR_ILLEGAL_ADDRESS"), std::string::npos) << text;
  });
}

TEST_F(CudaComm, AMissingModuleIsSaid) {
  ::setenv("SHOAL_CUDA_MODULE", "/nowhere/libshoal_cuda.so", 1);
  run_ranks(1, [](Communicator& comm) {
    std::string text;
    EXPECT_EQ(outcome([&] { (void)comm.allocate_cuda({64}); }, &text), ErrorCode::kMissingLibrary);
    EXPECT_NE(text.find("/nowhere/libshoal_cuda.so"), std::string::npos) << text;
    EXPECT_NE(text.find("SHOAL_CUDA=ON"), std::string::npos) << text;
  });
}

}  // namespace
}  // namespace shoal
