// After the first call of a shape nothing on the data path allocates: counted by operator new.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "comm/job.h"

namespace {
thread_local std::int64_t allocations = 0;
}

void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace shoal {
namespace {

TEST(Allocation, NoneAfterTheFirstCallOfAShape) {
  run_ranks(2, [](Communicator& comm) {
    PoolBlock block = comm.allocate({1 << 20});
    std::vector<float> foreign(1 << 16, 1.0F);
    const auto once = [&](std::int64_t n) {
      const Bytes bytes{n * 4};
      comm.all_reduce({block.data(), bytes}, {block.data(), bytes}, {n}, DataType::kFloat32,
                      ReduceOp::kSum)
          .wait();
      comm.broadcast({foreign.data(), bytes}, {foreign.data(), bytes}, {n}, DataType::kFloat32, 0)
          .wait();
      comm.barrier().wait();
    };
    for (int i = 0; i < 20; ++i) {  // plans, runs, staging blocks
      for (const std::int64_t n : {2, 1000, 60'000}) once(n);
    }
    const std::int64_t before = allocations;
    for (int i = 0; i < 200; ++i) {
      for (const std::int64_t n : {2, 1000, 60'000}) once(n);
    }
    EXPECT_EQ(allocations - before, 0) << "rank " << comm.rank();
    EXPECT_GT(before, 0) << "the counter does not count";
  });
}

}  // namespace
}  // namespace shoal
