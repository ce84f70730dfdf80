// shoal through its C++ API: shoal SOCKET NAME UCX_DIRECTORY, started by `shoal run`.
#include <shoal/communicator.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

#include "harness.h"

namespace {

using shoal::Collective;
using shoal::Count;
using shoal::DataType;
using shoal::ReduceOp;

constexpr auto kFloat = DataType::kFloat32;
constexpr auto kSum = ReduceOp::kSum;

std::unique_ptr<shoal::Communicator> comm;
shoal::PoolBlock in_block, out_block;
std::string refusal;

shoal::Bytes bytes_of(size_t count) { return {static_cast<std::int64_t>(count * sizeof(float))}; }

float* allocate(shoal::PoolBlock& block, size_t count) {
  if (count == 0) return nullptr;
  block = comm->allocate(bytes_of(count));
  return static_cast<float*>(block.data());
}

/// "pool" is memory that the ranks of a node share; "ordinary" is the harness's.
const char* prepare(cell* c) try {
  if (std::strcmp(c->buffer, "ordinary") == 0) return nullptr;
  if (std::strcmp(c->buffer, "pool") != 0) return "no such buffer";
  c->in = allocate(in_block, c->in_count);
  c->out = allocate(out_block, c->out_count);
  return nullptr;
} catch (const std::exception& error) {
  refusal = error.what();
  return refusal.c_str();
}

void release(cell*) {
  in_block = {};
  out_block = {};
}

template <typename Call>
int64_t time_calls(int64_t block, Call call) {
  const int64_t start = harness_now_ns();
  for (int64_t i = 0; i < block; ++i) call().wait();
  return harness_now_ns() - start;
}

int64_t time_block(cell* c, int64_t block) try {
  const Count n{static_cast<std::int64_t>(c->count)};
  const shoal::ConstBuffer in{c->in, bytes_of(c->in_count)};
  const shoal::Buffer out{c->out, bytes_of(c->out_count)};
  const shoal::Buffer root_in{c->in, bytes_of(c->in_count)};
  switch (c->op) {
    case BENCH_BARRIER:
      return time_calls(block, [&] { return comm->barrier(); });
    case BENCH_BROADCAST: {
      const auto target = comm->rank() == 0 ? root_in : out;  // in place at the root, as MPI_Bcast
      return time_calls(block, [&] { return comm->broadcast(in, target, n, kFloat, 0); });
    }
    case BENCH_ALL_REDUCE:
      return time_calls(block, [&] { return comm->all_reduce(in, out, n, kFloat, kSum); });
    case BENCH_ALL_GATHER:
      return time_calls(block, [&] { return comm->all_gather(in, out, n, kFloat); });
    case BENCH_REDUCE_SCATTER:
      return time_calls(block, [&] { return comm->reduce_scatter(in, out, n, kFloat, kSum); });
    case BENCH_ALL_TO_ALL:
      return time_calls(block, [&] { return comm->all_to_all(in, out, n, kFloat); });
    default:
      return -1;
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "shoal: %s\n", error.what());
  return -1;
}

int serve(char** argv) {
  shoal::Options options;
  options.ucx_directory = argv[3];
  comm = std::make_unique<shoal::Communicator>(shoal::Communicator::init(options));
  const library shoal_library{.name = argv[2],
                              .version = shoal::version(),
                              .rank = comm->rank(),
                              .ranks = comm->size(),
                              .prepare = prepare,
                              .release = release,
                              .time_block = time_block};
  const int code = harness_serve(argv[1], &shoal_library);
  comm.reset();
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: shoal SOCKET NAME UCX_DIRECTORY\n");
    return 2;
  }
  try {
    return serve(argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "shoal: %s\n", error.what());
    return 1;
  }
}
