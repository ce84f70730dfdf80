/// Signals to watched processes: signals.bpf.c. They come through the ring buffer, one line each.
#pragma once

#include "programs.h"
#include "signals.skel.h"

namespace shoal::tracer {

class Signals {
 public:
  Signals(const SharedMaps& maps, Report& report) : programs_(maps, kSignals, report) {}

 private:
  Attached<signals_bpf> programs_;
};

/// The line that says it.
Json describe(const signal_event& event);

}  // namespace shoal::tracer
