#include "options.h"

#include <getopt.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace shoal::tracer {
namespace {

constexpr char kHelp[] =
    R"(shoal-tracer: what the kernel does with the ranks of a job, as JSON lines on standard output.

  shoal-tracer --pid PID [--pid PID]... [--interval-ms 100] [--seconds N] [sources]

  --pid PID           a process to watch; more can be added on standard input, see below
  --interval-ms N     time between samples, 10 to 10000 (100)
  --seconds N         end after this time (0: do not)
  --ring-bytes N      size of the buffer for single events, a power of two, at least a page (262144)

Always on: states and times of threads, page faults, signals, TCP segments sent again. They cost each switch of
threads on this machine 0.3 us (one of a watched thread 1 us), each wake-up 0.3 us, each page fault in user mode
0.1 us. The tracer itself uses 0.4 % of a core with 8 ranks. More sources:

  --syscalls          system calls: the present one, and count and time of each. Costs every system call of this
                      machine 0.25 us
  --operations LIB    operations of shoal, by the probes of the libshoal.so that the ranks have loaded. Costs each
                      operation two hits of 0.5 us; above 1 % of a core the probes are taken off for most of the time
  --no-sampling       do not take these probes off, however often they are hit
  --bytes             bytes by pairs of addresses, on all interfaces the ranks have. Costs each packet 0.3 us
  --cgroups           TCP messages and bytes of the ranks' control groups (version 2), and time of the ranks in them.
                      Costs each send and receive of this machine 0.2 us
  --ucx LIB           tagged messages of programs that use UCX, by probes on the libucp.so they have loaded. Costs
                      each message 0.5 us, where the function begins with endbr64 12 us or more

Standard input: a line `pid PID` adds a process; `quit`, or the end of the input, ends the tracer. So do SIGTERM
and the death of its parent. Exit status: 0 ended as told; 2 wrong use; 3 nothing could be attached (the first line
says what is missing).
)";

bool number(const char* text, double least, double most, double& value) {
  char* end = nullptr;
  errno = 0;
  value = std::strtod(text, &end);
  return errno == 0 && end != text && *end == '\0' && value >= least && value <= most;
}

}  // namespace

std::optional<Options> parse(int argc, char** argv, int& status) {
  enum : int {
    kPid = 256,
    kInterval,
    kSeconds,
    kRing,
    kSyscalls,
    kOperations,
    kAll,
    kBytes,
    kCgroupsWanted,
    kUcx,
    kHelpWanted
  };
  static const option kNames[] = {{"pid", required_argument, nullptr, kPid},
                                  {"interval-ms", required_argument, nullptr, kInterval},
                                  {"seconds", required_argument, nullptr, kSeconds},
                                  {"ring-bytes", required_argument, nullptr, kRing},
                                  {"syscalls", no_argument, nullptr, kSyscalls},
                                  {"operations", required_argument, nullptr, kOperations},
                                  {"no-sampling", no_argument, nullptr, kAll},
                                  {"bytes", no_argument, nullptr, kBytes},
                                  {"cgroups", no_argument, nullptr, kCgroupsWanted},
                                  {"ucx", required_argument, nullptr, kUcx},
                                  {"help", no_argument, nullptr, kHelpWanted},
                                  {nullptr, 0, nullptr, 0}};
  Options options;
  status = 2;
  for (int name; (name = getopt_long(argc, argv, "", kNames, nullptr)) != -1;) {
    double value = 0;
    bool good = true;
    switch (name) {
      case kPid:
        good = number(optarg, 1, 1 << 22, value);
        options.pids.push_back(static_cast<int>(value));
        break;
      case kInterval:
        good = number(optarg, 10, 10000, value);
        options.interval_ms = static_cast<int>(value);
        break;
      case kSeconds:
        good = number(optarg, 0, 1e9, options.seconds);
        break;
      case kRing:
        good = number(optarg, 4096, 1 << 28, value);
        options.ring_bytes = static_cast<uint32_t>(value);
        break;
      case kSyscalls:
        options.syscalls = true;
        break;
      case kOperations:
        options.operations = optarg;
        break;
      case kAll:
        options.sampling = false;
        break;
      case kBytes:
        options.bytes = true;
        break;
      case kCgroupsWanted:
        options.cgroups = true;
        break;
      case kUcx:
        options.ucx = optarg;
        break;
      case kHelpWanted:
        std::fputs(kHelp, stdout);
        status = 0;
        return std::nullopt;
      default:
        return std::nullopt;  // getopt has said what
    }
    if (!good) {
      std::fprintf(stderr, "shoal-tracer: %s is no number in range: see --help\n", optarg);
      return std::nullopt;
    }
  }
  if (optind < argc) {
    std::fprintf(stderr, "shoal-tracer: %s is not understood: see --help\n", argv[optind]);
    return std::nullopt;
  }
  return options;
}

}  // namespace shoal::tracer
