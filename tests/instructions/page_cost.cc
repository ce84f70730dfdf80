// What an operation costs, its updates of the progress page included: page_cost [CALLS]
//
// One rank, alone in its job, calls barriers: nobody is waited for, and each updates the page once.
// Built twice, with SHOAL_OBSERVABLE on and off, the difference is what the page and the probes
// cost (benchmarks/tracer). Prints the nanoseconds of one call.
#include <shoal/communicator.h>

#include <cstdio>
#include <cstdlib>

#include "comm/job.h"
#include "core/clock.h"

int main(int argc, char** argv) {
  const long calls = argc > 1 ? std::atol(argv[1]) : 100'000'000;
  if (calls < 1) {
    std::fprintf(stderr, "usage: page_cost [CALLS]\n");
    return 2;
  }
  shoal::run_ranks(1, [&](shoal::Communicator& comm) {
    const std::int64_t began = shoal::now_ns();
    for (long i = 0; i < calls; ++i) comm.barrier().wait();
    const auto took = static_cast<double>(shoal::now_ns() - began);
    std::printf("%.3f\n", took / static_cast<double>(calls));
  });
}
