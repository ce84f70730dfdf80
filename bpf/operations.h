/// Operations of shoal: operations.bpf.c on the USDT probes of libshoal.so.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "operations.skel.h"
#include "programs.h"
#include "source.h"

namespace shoal::tracer {

/// The probes of stall and error stay attached. Those of begin and end come with every operation
/// and may cost a job that does a million a second more than it has: they are taken off for as much
/// of the time as keeps them below 1 % of a core (duty_cycle.h), unless `sampling` is false. That
/// is the work of a thread of its own: the kernel can take half a second to take a probe off.
class Operations : public Source {
 public:
  Operations(const SharedMaps& maps, std::string library, bool sampling, Report& report);
  ~Operations() override;

  void sample(Json& line, uint64_t now_ns) override;

 private:
  bool attach(bpf_program* program, std::vector<Link>& links, Report& report);
  bool switch_on(Report& report);
  void switch_off();
  void take_turns();
  bool wait(uint64_t ns);
  [[nodiscard]] uint64_t hits() const;

  std::string library_;
  Skeleton<operations_bpf> programs_;
  std::vector<Link> rare_;
  std::vector<Link> frequent_;
  uint64_t started_ns_ = 0;
  // Written by the thread, read by sample(); each stands alone: any order will do.
  std::atomic<uint64_t> on_since_ns_{0};  // 0: off
  std::atomic<uint64_t> on_ns_{0};        // before that
  std::mutex mutex_;
  std::condition_variable ended_;
  bool end_ = false;
  std::thread turns_;
};

/// The line that says it.
Json describe(const operation_event& event);

}  // namespace shoal::tracer
