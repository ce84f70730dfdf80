/// The command line. --help states what each source costs (bpf/README.md says how that was
/// measured).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace shoal::tracer {

struct Options {
  std::vector<int> pids;
  int interval_ms = 100;
  double seconds = 0;  // 0: until told to end
  bool syscalls = false;
  bool bytes = false;
  bool cgroups = false;
  bool sampling = true;
  std::string operations;  // path of libshoal.so; empty: not asked for
  std::string ucx;
  uint32_t ring_bytes = 256 * 1024;
};

/// nullopt: the program has nothing more to do; `status` is what to exit with.
std::optional<Options> parse(int argc, char** argv, int& status);

}  // namespace shoal::tracer
