/// What /proc says about processes and threads.
#pragma once

#include <charconv>
#include <string>
#include <string_view>
#include <vector>

namespace shoal::tracer {

/// The number that `text` is; 0 if it is none, which no process or thread has.
inline int number_in(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : 0;
}

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
