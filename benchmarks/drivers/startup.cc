// How long a job takes to start, and what it needs.
//
//   startup rank          one rank, started by `shoal run`. When all stand at their first barrier
//   it says
//                         "rank MAIN INIT BARRIER RSS PSS": the times of CLOCK_MONOTONIC at which
//                         main() began, init() had returned and the barrier had ended, in ns;
//                         memory in KiB
//   startup bare RANKS    the floor: as many processes of this very program that do nothing, by
//                         posix_spawn(). Says "bare END" when all of them have ended
#include <shoal/communicator.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <string>

#include "harness.h"

extern char** environ;

namespace {

struct Memory {
  long rss_kib = 0;
  long pss_kib = 0;
};

Memory memory_of_this_process() {
  std::ifstream file("/proc/self/smaps_rollup");
  Memory memory;
  for (std::string word; file >> word;) {
    if (word == "Rss:") file >> memory.rss_kib;
    if (word == "Pss:") file >> memory.pss_kib;
  }
  return memory;
}

int be_a_rank(int64_t main_ns) {
  auto comm = shoal::Communicator::init();
  const int64_t init_ns = harness_now_ns();
  comm.barrier().wait();
  const int64_t barrier_ns = harness_now_ns();
  comm.barrier().wait();  // all have what they need by now
  const Memory memory = memory_of_this_process();
  std::printf("rank %" PRId64 " %" PRId64 " %" PRId64 " %ld %ld\n", main_ns, init_ns, barrier_ns,
              memory.rss_kib, memory.pss_kib);
  std::fflush(stdout);
  comm.barrier().wait();  // PSS is a share: nobody leaves before all have looked
  return 0;
}

int start_bare(char* self, int ranks) {
  char idle[] = "idle";
  char* const arguments[] = {self, idle, nullptr};
  for (int i = 0; i < ranks; ++i) {
    pid_t pid = 0;
    if (posix_spawn(&pid, self, nullptr, nullptr, arguments, environ) != 0) return 1;
  }
  while (wait(nullptr) > 0) {
  }
  std::printf("bare %" PRId64 "\n", harness_now_ns());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t main_ns = harness_now_ns();
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "idle") return 0;
  if (what == "bare" && argc == 3) return start_bare(argv[0], std::atoi(argv[2]));
  if (what != "rank") {
    std::fprintf(stderr, "usage: startup rank | startup bare RANKS\n");
    return 2;
  }
  try {
    return be_a_rank(main_ns);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "startup: %s\n", error.what());
    return 1;
  }
}
