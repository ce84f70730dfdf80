/// System calls of watched threads: syscalls.bpf.c.
#pragma once

#include <map>

#include "programs.h"
#include "source.h"
#include "syscalls.skel.h"

namespace shoal::tracer {

/// Adds to the threads that Scheduler has put into the sample: comes after it.
class Syscalls : public Source {
 public:
  Syscalls(const SharedMaps& maps, Report& report);
  void added(int pid) override;
  void sample(Json& line, uint64_t now_ns) override;

 private:
  Json present_call(uint32_t pid, uint32_t tid) const;

  const SharedMaps& maps_;
  Attached<syscalls_bpf> programs_;
  std::map<int, uint64_t> watched_since_;  // by pid
};

}  // namespace shoal::tracer
