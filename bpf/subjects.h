/// What can be known, what it takes, and what is left without it: for the first line of the output.
#pragma once

#include <linux/capability.h>

#include <vector>

namespace shoal::tracer {

struct Subject {
  const char* what;
  const char* without;
  // Tried on 6.18 and 6.1, one by one: tracepoints want the first two, probes in user programs
  // CAP_SYS_ADMIN, too.
  std::vector<unsigned> capabilities;
};

inline const Subject kThreads{
    "threads: time on a core, waiting, asleep; who was in the way; who woke",
    "/proc: states, time on a core and waiting, but not since when, and not who",
    {CAP_BPF, CAP_PERFMON}};
inline const Subject kFaults{"page faults of each thread in user mode",
                             "/proc: minor and major faults of each thread",
                             {CAP_BPF, CAP_PERFMON}};
inline const Subject kSignals{"signals and their senders",
                              "/proc: that a process is stopped, but not by whom",
                              {CAP_BPF, CAP_PERFMON}};
inline const Subject kLinks{"TCP segments sent again, by connection",
                            "TCP_INFO of the ranks' sockets",
                            {CAP_BPF, CAP_PERFMON}};
inline const Subject kCgroups{"TCP messages and bytes by control group (Linux 6.3 and newer)",
                              "/proc/net/dev: bytes by interface",
                              {CAP_BPF, CAP_PERFMON}};
inline const Subject kCalls{"system calls: the present one, how many and how long each",
                            "/proc: the present one of the same user's threads",
                            {CAP_BPF, CAP_PERFMON}};
inline const Subject kOperations{"operations of shoal: counts, times, stalls and errors",
                                 "the progress pages: the present operations and counts",
                                 {CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN}};
inline const Subject kMessages{
    "messages of programs that use UCX", "nothing", {CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN}};
// Opening another user's namespace needs CAP_SYS_PTRACE, entering it CAP_SYS_ADMIN.
inline const Subject kBytes{"bytes by pairs of addresses",
                            "/proc/net/dev: bytes by interface",
                            {CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_PTRACE}};

}  // namespace shoal::tracer
