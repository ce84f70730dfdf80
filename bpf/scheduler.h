/// Threads of watched processes: scheduler.bpf.c and faults.bpf.c.
#pragma once

#include <map>

#include "faults.skel.h"
#include "programs.h"
#include "scheduler.skel.h"
#include "source.h"
#include "symbols.h"

namespace shoal::tracer {

class Scheduler : public Source {
 public:
  Scheduler(const SharedMaps& maps, Report& report);

  void added(int pid) override;
  void sample(Json& line, uint64_t now_ns) override;

 private:
  Json describe(thread_record thread, uint64_t now_ns);
  Json stack_of(const thread_record& thread);
  Json kept_stack_of(const thread_record& thread);
  Json asked_stack_of(const thread_record& thread);
  Json preemptors_of(thread_record& thread, uint64_t now_ns);

  const SharedMaps& maps_;
  Attached<scheduler_bpf> programs_;
  Attached<faults_bpf> faults_;
  Symbols symbols_;
  struct Sleep {
    uint64_t since_ns;
    Json stack;
  };
  std::map<uint32_t, Sleep> sleeps_;  // by tid: of those whose stack had to be asked for
};

}  // namespace shoal::tracer
