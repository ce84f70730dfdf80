/// What the control groups of the ranks use: TCP traffic by cgroups.bpf.c, time of their threads
/// out of what Scheduler knows.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "cgroups.skel.h"
#include "programs.h"
#include "source.h"

namespace shoal::tracer {

/// Comes after Scheduler, whose threads it adds up.
class Cgroups : public Source {
 public:
  Cgroups(const SharedMaps& maps, Report& report);
  void added(int pid) override;
  void sample(Json& line, uint64_t now_ns) override;

 private:
  struct Times {
    uint64_t on_cpu_ns = 0, waiting_ns = 0, off_cpu_ns = 0;
  };
  struct Group {
    std::string path;
    std::set<int> pids;  // at the last look
    Times times;
  };
  uint64_t look_at(int pid);
  void add_times(const Json& threads);
  Json describe(uint64_t id, const Group& group) const;
  Json carried(uint64_t id, bool is_rank) const;

  Attached<cgroups_bpf> programs_;
  std::map<int, uint64_t> group_of_;  // of each watched process
  std::map<uint64_t, Group> groups_;  // by id
  std::map<uint32_t, Times> seen_;    // of each thread, at the last sample
};

}  // namespace shoal::tracer
