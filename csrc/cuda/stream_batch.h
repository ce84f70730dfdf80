/// Stream memory operations: writes and waits of words, in the order in which they are put
/// together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/driver.h"

namespace shoal::cuda {

/// One thread. Of `capacity` operations, none allocates.
class StreamBatch {
 public:
  explicit StreamBatch(std::size_t capacity) { operations_.reserve(capacity); }

  /// After all that came before on the stream.
  void write(CUdeviceptr word, std::uint32_t value) noexcept;
  void wait(CUdeviceptr word, std::uint32_t value,
            unsigned condition = CU_STREAM_WAIT_VALUE_GEQ) noexcept;
  /// Enqueues them; the batch is empty then, whatever comes of it. In the current context.
  Outcome flush(const Driver& driver, CUstream stream) noexcept;
  void clear() noexcept { operations_.clear(); }

 private:
  std::vector<CUstreamBatchMemOpParams> operations_;
};

}  // namespace shoal::cuda
