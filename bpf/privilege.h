/// What this process may do, and what would help where it may not.
#pragma once

#include <string>

namespace shoal::tracer {

struct Remedy {
  std::string why;  // empty: not a matter of privilege
  std::string action;
};

/// For an errno of bpf(2) or perf_event_open(2).
Remedy remedy_for(int code);

/// Whether the kernel describes its types (/sys/kernel/btf/vmlinux), without which no program here
/// loads.
bool kernel_has_btf();

/// Process ids that programs see are those of the first pid namespace: in another one they would
/// mean others.
bool in_first_pid_namespace();

}  // namespace shoal::tracer
