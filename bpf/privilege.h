/// What this process may do, and what would help where it may not.
#pragma once

#include <string>
#include <vector>

namespace shoal::tracer {

struct Remedy {
  std::string why;  // empty: the kernel's own words say it best
  std::string action;
};

/// For an errno of bpf(2), perf_event_open(2) or setns(2) in something that takes these
/// capabilities.
Remedy remedy_for(int code, const std::vector<unsigned>& capabilities);

/// Process ids that programs see are those of the first pid namespace: elsewhere ours would mean
/// others.
bool in_first_pid_namespace();

}  // namespace shoal::tracer
