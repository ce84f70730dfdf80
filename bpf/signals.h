/// Signals to watched processes: signals.bpf.c. They come through the ring buffer, one line each.
#pragma once

#include <vector>

#include "programs.h"
#include "signals.skel.h"

namespace shoal::tracer {

class Signals {
 public:
  Signals(const SharedMaps& maps, Report& report);

 private:
  Skeleton<signals_bpf> programs_;
  std::vector<Link> links_;
};

/// The line that says it.
Json describe(const signal_event& event);

}  // namespace shoal::tracer
