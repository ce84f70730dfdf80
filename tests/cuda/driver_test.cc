// The driver is found or it is said why not; and the stand-in behaves as the tests need it: work in
// streams is ordered, captured work runs at launch only, late accesses fault, errors stick.
#include "cuda/driver.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "cuda/fake.h"

namespace shoal::cuda {
namespace {

using testing::Failing;
using testing::fake_driver;
using testing::fake_function;

#define ASSERT_CUDA(call) ASSERT_EQ((call), CUDA_SUCCESS)

/// Context of device 0, current in this thread.
class DriverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_CUDA(d.primary_ctx_retain(&context, 0));
    ASSERT_CUDA(d.ctx_push_current(context));
    ASSERT_CUDA(d.stream_create(&a, CU_STREAM_NON_BLOCKING));
    ASSERT_CUDA(d.stream_create(&b, CU_STREAM_NON_BLOCKING));
  }
  void TearDown() override {
    (void)d.stream_destroy(a);
    (void)d.stream_destroy(b);
    (void)d.ctx_pop_current(nullptr);
    (void)d.primary_ctx_release(0);
  }
  CUstreamBatchMemOpParams wait_for(std::uint32_t& word, std::uint32_t value) {
    CUstreamBatchMemOpParams op{};
    op.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    op.waitValue.address = reinterpret_cast<CUdeviceptr>(&word);
    op.waitValue.value = value;
    op.waitValue.flags = CU_STREAM_WAIT_VALUE_GEQ;
    return op;
  }
  CUstreamBatchMemOpParams write(std::uint32_t& word, std::uint32_t value) {
    CUstreamBatchMemOpParams op{};
    op.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    op.writeValue.address = reinterpret_cast<CUdeviceptr>(&word);
    op.writeValue.value = value;
    return op;
  }

  const Driver& d = fake_driver();
  CUcontext context = nullptr;
  CUstream a = nullptr, b = nullptr;
};

TEST(FindDriver, SaysWhatIsMissing) {
  ::setenv("SHOAL_CUDA_DRIVER", "/nowhere/libcuda.so.1", 1);
  DriverFound found = load_driver();
  EXPECT_EQ(found.driver, nullptr);
  EXPECT_NE(found.reason.find("no CUDA driver: /nowhere/libcuda.so.1"), std::string::npos)
      << found.reason;
  ::setenv("SHOAL_CUDA_DRIVER", "libdl.so.2", 1);
  found = load_driver();
  EXPECT_EQ(found.driver, nullptr);
  EXPECT_NE(found.reason.find("is no CUDA driver: it lacks cuInit"), std::string::npos)
      << found.reason;
}

TEST(FindDriver, NamesTheErrorOfInit) {
  fake_driver();
  const Failing failing("cuInit:1:803");
  const DriverFound found = load_driver();
  EXPECT_EQ(found.driver, nullptr);
  EXPECT_NE(found.reason.find("cuInit: error 803"), std::string::npos) << found.reason;
  EXPECT_NE(found.reason.find("reboot"), std::string::npos) << found.reason;
}

TEST(Errors, HaveACodeAndAText) {
  EXPECT_EQ(status_of(CUDA_ERROR_OUT_OF_MEMORY).code, ErrorCode::kOutOfMemory);
  EXPECT_EQ(status_of(CUDA_ERROR_NO_DEVICE).code, ErrorCode::kMissingLibrary);
  EXPECT_EQ(status_of(CUDA_ERROR_ILLEGAL_ADDRESS).code, ErrorCode::kDevice);
  EXPECT_EQ(status_of(CUDA_ERROR_ILLEGAL_ADDRESS).detail, 700);
  EXPECT_TRUE(is_sticky(CUDA_ERROR_ILLEGAL_ADDRESS));
  EXPECT_FALSE(is_sticky(CUDA_ERROR_OUT_OF_MEMORY));
  const std::string text = explain(fake_driver(), "cuMemCreate", CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(text.find("cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY ("), 0U) << text;
}

TEST_F(DriverTest, StreamsRunInOrderAndEventsOrderTwo) {
  constexpr int kWords = 1024;
  CUdeviceptr memory = 0;
  ASSERT_CUDA(d.mem_alloc(&memory, kWords * 4));
  std::vector<unsigned> out(kWords);
  std::uint32_t go = 0;
  CUevent written = nullptr;
  ASSERT_CUDA(d.event_create(&written, CU_EVENT_DISABLE_TIMING));
  auto wait = wait_for(go, 1);
  ASSERT_CUDA(d.stream_batch_mem_op(a, 1, &wait, 0));
  ASSERT_CUDA(d.memset_d32_async(memory, 7, kWords, a));
  ASSERT_CUDA(d.event_record(written, a));
  ASSERT_CUDA(d.stream_wait_event(b, written, 0));
  ASSERT_CUDA(d.memcpy_dtoh_async(out.data(), memory, kWords * 4, b));
  EXPECT_EQ(d.event_query(written), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(d.stream_query(b), CUDA_ERROR_NOT_READY);
  std::atomic_ref(go).store(1, std::memory_order_release);
  ASSERT_CUDA(d.stream_synchronize(b));
  EXPECT_EQ(d.event_query(written), CUDA_SUCCESS);
  EXPECT_EQ(out, std::vector<unsigned>(kWords, 7));
  ASSERT_CUDA(d.event_destroy(written));
  ASSERT_CUDA(d.mem_free(memory));
}

TEST_F(DriverTest, MemoryOperationsCompareCyclically) {
  std::uint32_t word = 3, done = 0;
  auto wait = wait_for(word, 0xfffffff0);  // 3 is later than that
  auto tell = write(done, 9);
  CUstreamBatchMemOpParams both[] = {wait, tell};
  ASSERT_CUDA(d.stream_batch_mem_op(a, 2, both, 0));
  ASSERT_CUDA(d.stream_synchronize(a));
  EXPECT_EQ(done, 9U);
}

TEST_F(DriverTest, CapturedWorkRunsAtEachLaunchOnly) {
  CUdeviceptr memory = 0;
  ASSERT_CUDA(d.mem_alloc(&memory, 4));
  unsigned one = 1, out = 0;
  ASSERT_CUDA(d.memset_d32_async(memory, 0, 1, a));
  ASSERT_CUDA(d.stream_synchronize(a));
  CUevent fork = nullptr;
  ASSERT_CUDA(d.event_create(&fork, CU_EVENT_DISABLE_TIMING));
  ASSERT_CUDA(d.stream_begin_capture(a, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  ASSERT_CUDA(d.event_record(fork, a));
  ASSERT_CUDA(d.stream_wait_event(b, fork, 0));
  ASSERT_CUDA(d.memcpy_htod_async(memory, &one, 4, b));
  EXPECT_EQ(d.stream_synchronize(a), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  CUgraph graph = nullptr;
  ASSERT_CUDA(d.stream_end_capture(a, &graph));
  ASSERT_CUDA(d.stream_synchronize(b));
  const auto value = [&] {
    EXPECT_EQ(d.memcpy_dtoh_async(&out, memory, 4, b), CUDA_SUCCESS);
    EXPECT_EQ(d.stream_synchronize(b), CUDA_SUCCESS);
    return out;
  };
  EXPECT_EQ(value(), 0U);
  CUgraphExec exec = nullptr;
  ASSERT_CUDA(d.graph_instantiate(&exec, graph, 0));
  for (one = 5; one < 8; ++one) {
    ASSERT_CUDA(d.graph_launch(exec, b));
    EXPECT_EQ(value(), one);
  }
  ASSERT_CUDA(d.graph_exec_destroy(exec));
  ASSERT_CUDA(d.graph_destroy(graph));
  ASSERT_CUDA(d.event_destroy(fork));
  ASSERT_CUDA(d.mem_free(memory));
}

struct AddParameters {
  int* to;
  int value;
};
const FakeKernel kAdd = {sizeof(AddParameters),
                         [](const void* parameters, const FakeLaunch* shape) {
                           AddParameters p;
                           std::memcpy(&p, parameters, sizeof p);
                           *p.to += p.value * static_cast<int>(shape->grid[0] * shape->block[0]);
                         }};

TEST_F(DriverTest, KernelsAreFoundByNameAndCopyTheirParameters) {
  fake_function<decltype(fake_cuda_set_kernels)>("fake_cuda_set_kernels")(
      [](const char* name) { return std::strcmp(name, "add") == 0 ? &kAdd : nullptr; });
  CUmodule module = nullptr;
  ASSERT_CUDA(d.module_load_data(&module, "image"));
  CUfunction add = nullptr, other = nullptr;
  ASSERT_CUDA(d.module_get_function(&add, module, "add"));
  EXPECT_EQ(d.module_get_function(&other, module, "subtract"), CUDA_ERROR_NOT_FOUND);
  int sum = 0;
  for (int value = 1; value <= 2; ++value) {
    AddParameters parameters = {&sum, value};
    void* list[] = {&parameters};
    ASSERT_CUDA(d.launch_kernel(add, 2, 1, 1, 5, 1, 1, 0, a, list, nullptr));
  }
  ASSERT_CUDA(d.stream_synchronize(a));
  EXPECT_EQ(sum, 30);
  CUlaunchAttribute cooperative{};
  cooperative.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
  cooperative.value.cooperative = 1;
  CUlaunchConfig config{};
  config.gridDimX = 1000;
  config.gridDimY = config.gridDimZ = config.blockDimX = config.blockDimY = config.blockDimZ = 1;
  config.hStream = a;
  config.attrs = &cooperative;
  config.numAttrs = 1;
  AddParameters parameters = {&sum, 1};
  void* list[] = {&parameters};
  EXPECT_EQ(d.launch_kernel_ex(&config, add, list, nullptr),
            CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
  ASSERT_CUDA(d.module_unload(module));
}

/// Reserves, creates, maps and opens one granule.
CUdeviceptr make_chunk(const Driver& d, std::size_t bytes, CUmemGenericAllocationHandle* handle) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}};
  prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  CUdeviceptr address = 0;
  EXPECT_EQ(d.mem_address_reserve(&address, bytes, 0, 0, 0), CUDA_SUCCESS);
  EXPECT_EQ(d.mem_create(handle, bytes, &prop, 0), CUDA_SUCCESS);
  EXPECT_EQ(d.mem_map(address, bytes, 0, *handle, 0), CUDA_SUCCESS);
  return address;
}

TEST_F(DriverTest, ExportedMemoryIsTheSameMemory) {
  constexpr std::size_t kBytes = 2 << 20;
  CUmemAccessDesc access{};
  access.location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}};
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  CUmemGenericAllocationHandle mine = 0, theirs = 0;
  const CUdeviceptr one = make_chunk(d, kBytes, &mine);
  ASSERT_CUDA(d.mem_set_access(one, kBytes, &access, 1));
  int fd = -1;
  ASSERT_CUDA(
      d.mem_export_to_shareable_handle(&fd, mine, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  ASSERT_CUDA(d.mem_import_from_shareable_handle(
      &theirs, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)),
      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  ::close(fd);
  CUdeviceptr two = 0;
  ASSERT_CUDA(d.mem_address_reserve(&two, kBytes, 0, 0, 0));
  ASSERT_CUDA(d.mem_map(two, kBytes, 0, theirs, 0));
  ASSERT_CUDA(d.mem_set_access(two, kBytes, &access, 1));
  const std::uint64_t used = testing::used_bytes();
  ASSERT_CUDA(d.memset_d8_async(one, 0x5a, kBytes, a));
  ASSERT_CUDA(d.stream_synchronize(a));
  EXPECT_EQ(*reinterpret_cast<unsigned char*>(two + kBytes - 1), 0x5a);
  for (const auto& [address, handle] : {std::pair(one, mine), std::pair(two, theirs)}) {
    ASSERT_CUDA(d.mem_unmap(address, kBytes));
    ASSERT_CUDA(d.mem_release(handle));
    ASSERT_CUDA(d.mem_address_free(address, kBytes));
  }
  EXPECT_EQ(testing::used_bytes(), used - kBytes);
}

// What is not accessible yet, or not any more, must fault: or tests could not see such an access.
TEST_F(DriverTest, TooEarlyAndTooLateAccessesFault) {
  constexpr std::size_t kBytes = 2 << 20;
  CUmemGenericAllocationHandle handle = 0;
  const CUdeviceptr early = make_chunk(d, kBytes, &handle);
  EXPECT_FALSE(testing::is_accessible(early));
  ASSERT_CUDA(d.mem_unmap(early, kBytes));
  ASSERT_CUDA(d.mem_release(handle));
  CUdeviceptr late = 0;
  ASSERT_CUDA(d.mem_alloc(&late, 4096));
  EXPECT_TRUE(testing::is_accessible(late));
  ASSERT_CUDA(d.mem_free(late));
  EXPECT_FALSE(testing::is_accessible(late));
}

TEST_F(DriverTest, FailuresComeWhenAskedAndStickyOnesStay) {
  CUdeviceptr memory = 0;
  {
    const Failing failing("cuMemAlloc:2:2");
    ASSERT_CUDA(d.mem_alloc(&memory, 64));
    ASSERT_CUDA(d.mem_free(memory));
    EXPECT_EQ(d.mem_alloc(&memory, 64), CUDA_ERROR_OUT_OF_MEMORY);
    ASSERT_CUDA(d.mem_alloc(&memory, 64));
    ASSERT_CUDA(d.mem_free(memory));
  }
  {
    const Failing failing("stream:1:700");
    std::uint32_t word = 0;
    auto tell = write(word, 1);
    ASSERT_CUDA(d.stream_batch_mem_op(a, 1, &tell, 0));
    EXPECT_EQ(d.stream_synchronize(a), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_EQ(word, 0U);
    EXPECT_EQ(d.mem_alloc(&memory, 64), CUDA_ERROR_ILLEGAL_ADDRESS);
  }
  ASSERT_CUDA(d.stream_synchronize(a));
}

TEST_F(DriverTest, NoMoreThanItsMemoryAndNothingWithoutAContext) {
  std::size_t free = 0, total = 0;
  ASSERT_CUDA(d.mem_get_info(&free, &total));
  CUdeviceptr memory = 0;
  EXPECT_EQ(d.mem_alloc(&memory, free + 1), CUDA_ERROR_OUT_OF_MEMORY);
  std::thread([&] { EXPECT_EQ(d.mem_alloc(&memory, 64), CUDA_ERROR_INVALID_CONTEXT); }).join();
}

}  // namespace
}  // namespace shoal::cuda
