// oneCCL on the CPU, through its C++ API: oneccl SOCKET NAME RANK RANKS ADDRESS_FILE.
// Rank 0 writes where its key-value store is to the file, and the others wait for it.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <oneapi/ccl.hpp>
#include <stdexcept>
#include <string>

#include "harness.h"

namespace {

constexpr int kWaitUs = 10'000;
constexpr int kMaxWaits = 6000;  // a minute

int rank = 0, ranks = 0;
std::unique_ptr<ccl::communicator> comm;

ccl::shared_ptr_class<ccl::kvs> make_store(const std::filesystem::path& file) {
  auto store = ccl::create_main_kvs();
  const auto address = store->get_address();
  auto unfinished = file;
  unfinished += ".new";
  std::ofstream(unfinished, std::ios::binary).write(address.data(), address.size());
  std::filesystem::rename(unfinished, file);
  return store;
}

ccl::shared_ptr_class<ccl::kvs> find_store(const std::filesystem::path& file) {
  for (int i = 0; !std::filesystem::exists(file); ++i) {
    if (i == kMaxWaits) throw std::runtime_error("rank 0 has not said where its store is");
    usleep(kWaitUs);
  }
  ccl::kvs::address_type address{};
  std::ifstream(file, std::ios::binary).read(address.data(), address.size());
  return ccl::create_kvs(address);
}

const char* prepare(cell*) { return nullptr; }
void release(cell*) {}

template <typename Call>
int64_t time_calls(int64_t block, Call call) {
  const int64_t start = harness_now_ns();
  for (int64_t i = 0; i < block; ++i) call().wait();
  return harness_now_ns() - start;
}

int64_t time_block(cell* c, int64_t block) try {
  constexpr auto kSum = ccl::reduction::sum;
  const float* in = c->in;
  float* out = c->out;
  const size_t n = c->count;
  switch (c->op) {
    case BENCH_BARRIER:
      return time_calls(block, [&] { return ccl::barrier(*comm); });
    case BENCH_BROADCAST: {
      float* buffer = rank == 0 ? c->in : c->out;
      return time_calls(block, [&] { return ccl::broadcast(buffer, n, 0, *comm); });
    }
    case BENCH_ALL_REDUCE:
      return time_calls(block, [&] { return ccl::allreduce(in, out, n, kSum, *comm); });
    case BENCH_ALL_GATHER:
      return time_calls(block, [&] { return ccl::allgather(in, out, n, *comm); });
    case BENCH_REDUCE_SCATTER:
      return time_calls(block, [&] { return ccl::reduce_scatter(in, out, n, kSum, *comm); });
    case BENCH_ALL_TO_ALL:
      return time_calls(block, [&] { return ccl::alltoall(in, out, n, *comm); });
    default:
      return -1;
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "oneccl: %s\n", error.what());
  return -1;
}

int serve(char** argv) {
  rank = std::atoi(argv[3]);
  ranks = std::atoi(argv[4]);
  ccl::init();
  const auto store = rank == 0 ? make_store(argv[5]) : find_store(argv[5]);
  comm = std::make_unique<ccl::communicator>(ccl::create_communicator(ranks, rank, store));
  const std::string version = ccl::get_library_version().full;
  const library oneccl{.name = argv[2],
                       .version = version.c_str(),
                       .rank = rank,
                       .ranks = ranks,
                       .prepare = prepare,
                       .release = release,
                       .time_block = time_block};
  return harness_serve(argv[1], &oneccl);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: oneccl SOCKET NAME RANK RANKS ADDRESS_FILE\n");
    return 2;
  }
  try {
    _exit(serve(argv));  // its threads are not waited for
  } catch (const std::exception& error) {
    std::fprintf(stderr, "oneccl: %s\n", error.what());
    return 1;
  }
}
