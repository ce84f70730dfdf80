/// Operations of shoal: operations.bpf.c on the USDT probes of libshoal.so.
#pragma once

#include <string>
#include <vector>

#include "operations.skel.h"
#include "programs.h"
#include "source.h"

namespace shoal::tracer {

/// The probes of stall and error stay attached. Those of begin and end come with every operation
/// and may cost a job that does a million a second more than it has: they are taken off for as much
/// of the time as keeps them below 1 % of a core (duty_cycle.h), unless `sampling` is false.
class Operations : public Source {
 public:
  Operations(const SharedMaps& maps, std::string library, bool sampling, Report& report);

  [[nodiscard]] int descriptor() const override { return timer_.get(); }
  void on_ready() override;
  void sample(Json& line, uint64_t now_ns) override;

 private:
  bool attach(bpf_program* program, std::vector<Link>& links, Report& report);
  bool switch_on();
  void switch_off(uint64_t now_ns);
  void set_timer(uint64_t ns);
  [[nodiscard]] uint64_t hits() const;

  std::string library_;
  Skeleton<operations_bpf> programs_;
  std::vector<Link> rare_;
  std::vector<Link> frequent_;
  Fd timer_;
  uint64_t started_ns_ = 0;
  uint64_t on_since_ns_ = 0;
  uint64_t on_ns_ = 0;  // before on_since_ns_
  uint64_t switch_ns_ = 0;
  uint64_t seen_hits_ = 0;
  uint64_t looked_ns_ = 0;
};

/// The line that says it.
Json describe(const operation_event& event);

}  // namespace shoal::tracer
