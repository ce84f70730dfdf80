/// What /proc says about processes and threads.
#pragma once

#include <string>
#include <vector>

namespace shoal::tracer {

/// Thread ids of a process; empty if it is gone.
std::vector<int> threads_of(int pid);

struct ThreadStatus {
  char state = 'X';  // R, S, D, T, t, Z, I; X: gone
  int core = 0;
  int priority = 0;  // the kernel's: 120 is nice 0, below 100 real time
  std::string name;
};
ThreadStatus status_of(int pid, int tid);

/// The kernel's functions that a sleeping thread is in, innermost first. Needs CAP_SYS_ADMIN; else
/// empty.
std::vector<std::string> stack_of(int pid, int tid);

}  // namespace shoal::tracer
