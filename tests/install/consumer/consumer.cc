// Uses shoal as a stranger would: public headers only. Alone, without a launcher, it is one rank.
#include <cstdio>
#include <cstdlib>

#include "shoal/communicator.h"

int main() {
  shoal::Communicator comm = shoal::Communicator::init();
  const shoal::Count count{1024};
  const shoal::Bytes bytes{count.value * size_of(shoal::DataType::kFloat32)};
  shoal::PoolBlock block = comm.allocate(bytes);
  auto* x = static_cast<float*>(block.data());
  for (int i = 0; i < count.value; ++i) x[i] = static_cast<float>(comm.rank() + i);

  comm.all_reduce({x, bytes}, {x, bytes}, count, shoal::DataType::kFloat32, shoal::ReduceOp::kSum)
      .wait();

  if (comm.size() != 1 || x[1023] != 1023.0F || !comm.in_pool(x, bytes)) return EXIT_FAILURE;
  try {  // an error crosses the border of the library as its own type
    comm.all_reduce({x, {4}}, {x, {4}}, count, shoal::DataType::kFloat32, shoal::ReduceOp::kSum)
        .wait();
    return EXIT_FAILURE;
  } catch (const shoal::Error& error) {
    if (error.code() != shoal::ErrorCode::kInvalidArgument) return EXIT_FAILURE;
  }
  std::puts("consumer: ok");
}
