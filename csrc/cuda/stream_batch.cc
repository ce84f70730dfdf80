#include "cuda/stream_batch.h"

#include <algorithm>

namespace shoal::cuda {

namespace {

/// Operations of one call; the driver takes no more.
constexpr std::size_t kMostOperations = 256;

}  // namespace

void StreamBatch::write(CUdeviceptr word, std::uint32_t value) noexcept {
  CUstreamBatchMemOpParams operation{};
  operation.writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
  operation.writeValue.address = word;
  operation.writeValue.value = value;
  operation.writeValue.flags = CU_STREAM_WRITE_VALUE_DEFAULT;
  operations_.push_back(operation);
}

void StreamBatch::wait(CUdeviceptr word, std::uint32_t value, unsigned condition) noexcept {
  CUstreamBatchMemOpParams operation{};
  operation.waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
  operation.waitValue.address = word;
  operation.waitValue.value = value;
  operation.waitValue.flags = condition;
  operations_.push_back(operation);
}

Outcome StreamBatch::flush(const Driver& driver, CUstream stream) noexcept {
  Outcome outcome;
  for (std::size_t at = 0; at < operations_.size() && outcome.ok(); at += kMostOperations) {
    const auto n = static_cast<unsigned>(std::min(kMostOperations, operations_.size() - at));
    outcome = {"cuStreamBatchMemOp",
               driver.stream_batch_mem_op(stream, n, operations_.data() + at, 0)};
  }
  operations_.clear();
  return outcome;
}

}  // namespace shoal::cuda
