// After the first call of a shape nothing on the data path allocates (counted by operator new) or
// takes a mutex that somebody else could hold (counted by pthread_mutex_lock).
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <cstdlib>
#include <mutex>
#include <new>

#include "comm/job.h"

namespace {
thread_local std::int64_t allocations = 0;
thread_local std::int64_t locks = 0;
}  // namespace

void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

#if !defined(__SANITIZE_THREAD__)  // it has put its own in this place
extern "C" int pthread_mutex_lock(pthread_mutex_t* mutex) {
  using Lock = int (*)(pthread_mutex_t*);
  static const auto lock = reinterpret_cast<Lock>(::dlsym(RTLD_NEXT, "pthread_mutex_lock"));
  ++locks;
  return lock(mutex);
}
#endif

namespace shoal {
namespace {

/// Every collective once, in the same two buffers of `ranks` * n elements.
void all_collectives(Communicator& comm, float* x, float* y, std::int64_t n) {
  constexpr auto kFloat = DataType::kFloat32;
  constexpr auto kSum = ReduceOp::kSum;
  const Count count{n};
  const Bytes one{n * 4}, all{n * 4 * comm.size()};
  comm.barrier().wait();
  comm.broadcast({x, one}, {x, one}, count, kFloat, 0).wait();
  comm.reduce({x, one}, {y, one}, count, kFloat, kSum, 0).wait();
  comm.all_reduce({x, one}, {x, one}, count, kFloat, kSum).wait();
  comm.all_reduce({x, one}, {y, one}, count, kFloat, kSum, {.deterministic = true}).wait();
  comm.all_gather({x, one}, {y, all}, count, kFloat).wait();
  comm.reduce_scatter({x, all}, {y, one}, count, kFloat, kSum).wait();
  comm.all_to_all({x, all}, {y, all}, count, kFloat).wait();
  comm.gather({x, one}, {y, all}, count, kFloat, 1).wait();
  comm.scatter({x, all}, {y, one}, count, kFloat, 1).wait();
}

TEST(RepeatedCalls, NeitherAllocateNorLock) {
  run_ranks(2, [](Communicator& comm) {
    constexpr std::int64_t kMost = 60'000;
    const std::int64_t elements = kMost * comm.size();
    PoolBlock source = comm.allocate({elements * 4}), target = comm.allocate({elements * 4});
    std::vector<float> private_source(elements, 1.0F), private_target(elements);
    const auto once = [&] {
      for (const std::int64_t n : {std::int64_t{2}, std::int64_t{1000}, kMost}) {
        all_collectives(comm, static_cast<float*>(source.data()),
                        static_cast<float*>(target.data()), n);
        all_collectives(comm, private_source.data(), private_target.data(), n);
      }
    };
    for (int i = 0; i < 10; ++i) once();  // plans, runs, staging blocks
    const std::int64_t allocated = allocations, locked = locks;
    for (int i = 0; i < 50; ++i) once();
    EXPECT_EQ(allocations - allocated, 0) << "rank " << comm.rank();
    EXPECT_EQ(locks - locked, 0) << "rank " << comm.rank();
    EXPECT_GT(allocated, 0) << "the counter does not count";
#if !defined(__SANITIZE_THREAD__)
    EXPECT_GT(locked, 0) << "the counter does not count";
#endif
  });
}

}  // namespace
}  // namespace shoal
