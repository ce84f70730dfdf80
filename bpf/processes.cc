#include "processes.h"

#include <dirent.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>

namespace shoal::tracer {

std::vector<int> threads_of(int pid) {
  std::vector<int> tids;
  const std::string path = "/proc/" + std::to_string(pid) + "/task";
  const auto close = [](DIR* folder) { closedir(folder); };
  const std::unique_ptr<DIR, decltype(close)> folder(opendir(path.c_str()));
  if (!folder) return tids;
  while (const dirent* entry = readdir(folder.get())) {
    if (const int tid = number_in(entry->d_name)) tids.push_back(tid);
  }
  return tids;
}

// "tid (name) state ppid ...": the name may hold anything, also parentheses; it ends at the last
// one. Fields are counted as in proc(5): the state is the third, the priority (less 100) the 18th,
// the core the 39th.
ThreadStatus status_of(int pid, int tid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid) + "/stat");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const size_t open = text.find('(');
  const size_t close = text.rfind(')');
  ThreadStatus status;
  if (open == std::string::npos || close == std::string::npos) return status;
  status.name = text.substr(open + 1, close - open - 1);
  std::istringstream rest(text.substr(close + 1));
  const std::vector<std::string> fields(std::istream_iterator<std::string>(rest), {});
  constexpr size_t kState = 0;
  constexpr size_t kPriority = 18 - 3;
  constexpr size_t kCore = 39 - 3;
  if (fields.size() <= kCore) return status;
  status.state = fields[kState][0];
  status.priority = number_in(fields[kPriority]) + 100;
  status.core = number_in(fields[kCore]);
  return status;
}

// "[<0>] futex_wait+0x5e/0xb0"
std::vector<std::string> stack_of(int pid, int tid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid) + "/stack");
  std::vector<std::string> names;
  for (std::string line; std::getline(file, line);) {
    const size_t start = line.find("] ");
    const size_t end = line.find('+');
    if (start == std::string::npos || end == std::string::npos) continue;
    names.push_back(line.substr(start + 2, end - start - 2));
  }
  return names;
}

}  // namespace shoal::tracer
