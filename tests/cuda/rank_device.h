/// What tests of CUDA memory through the public API need at each rank, over the stand-in driver.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "comm/job.h"
#include "cuda/fake.h"
#include "cuda/handles.h"
#include "cuda/reference.h"
#include "shoal/communicator.h"

namespace shoal {

/// A rank's streams and the context they need.
class Device {
 public:
  Device() : context_(cuda::testing::fake_driver(), 0), guard_(context_) {
    stream_ = cuda::make_stream(cuda::testing::fake_driver(), CU_STREAM_NON_BLOCKING);
    other_ = cuda::make_stream(cuda::testing::fake_driver(), CU_STREAM_NON_BLOCKING);
  }
  [[nodiscard]] CUstream stream() const { return stream_.get(); }
  [[nodiscard]] CUstream other() const { return other_.get(); }
  void synchronize() const {
    (void)cuda::testing::fake_driver().stream_synchronize(stream());
    (void)cuda::testing::fake_driver().stream_synchronize(other());
  }

 private:
  cuda::PrimaryContext context_;
  cuda::ContextGuard guard_;
  cuda::Stream stream_, other_;
};

inline CallOptions on(CUstream stream, std::int64_t timeout_ms = 0) {
  CallOptions options;
  options.on_stream = true;
  options.stream = stream;
  options.timeout_ms = timeout_ms;
  return options;
}

inline CudaBlock make(Communicator& comm, const cuda::testing::Array& content) {
  CudaBlock block = comm.allocate_cuda({std::ssize(content)});
  block.copy_from_host(content.data());
  return block;
}

inline cuda::testing::Array content_of(const CudaBlock& block) {
  cuda::testing::Array content(static_cast<std::size_t>(block.bytes().value));
  block.copy_to_host(content.data());
  return content;
}

inline cuda::testing::Array ints(std::size_t count, std::int32_t value) {
  cuda::testing::Array array(count * 4);
  for (std::size_t i = 0; i < count; ++i) std::memcpy(array.data() + i * 4, &value, 4);
  return array;
}

inline Work sum_ints(Communicator& comm, CudaBlock& x, CUstream stream,
                     std::int64_t timeout_ms = 0) {
  const Bytes bytes = x.bytes();
  return comm.all_reduce({x.data(), bytes}, {x.data(), bytes}, Count{bytes.value / 4},
                         DataType::kInt32, ReduceOp::kSum, on(stream, timeout_ms));
}

/// What every rank does: rank 1 comes too late, and the others name it.
inline void name_a_rank_that_never_comes(Communicator& comm) {
  const Device device;
  CudaBlock x = make(comm, ints(100, 1));
  sum_ints(comm, x, device.stream()).wait();  // the first call may wait for the others in itself
  x.copy_from_host(ints(100, 1).data());
  comm.barrier().wait();
  if (comm.rank() == 1) {
    while (comm.error() == ErrorCode::kOk) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(outcome([&] { sum_ints(comm, x, device.stream()).wait(); }), ErrorCode::kTimeout);
    return;
  }
  std::string text;
  (void)sum_ints(comm, x, device.stream(), 200);
  Work second = sum_ints(comm, x, device.other(), 200);
  EXPECT_EQ(outcome([&] { second.wait(); }, &text), ErrorCode::kTimeout);
  EXPECT_NE(text.find("all_reduce(count 100, int32, sum, CUDA) #"), std::string::npos) << text;
  EXPECT_NE(text.find("rank 1 ("), std::string::npos) << text;
  EXPECT_NE(text.find("has not called it yet"), std::string::npos) << text;
  device.synchronize();  // the streams have been let go
  EXPECT_EQ(content_of(x), ints(100, 1));
}

}  // namespace shoal
