/// Bytes by pairs of addresses, on all interfaces of the network namespaces of watched processes:
/// traffic.bpf.c.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "programs.h"
#include "source.h"
#include "traffic.skel.h"

namespace shoal::tracer {

/// tcx links where the kernel has them (6.6): they go with this process. Elsewhere filters of a
/// clsact queueing discipline: they are taken off at the end, but stay if this process is killed by
/// SIGKILL.
class Traffic : public Source {
 public:
  Traffic(const SharedMaps& maps, Report& report);
  ~Traffic() override;

  /// Interfaces that appear later are not seen.
  void added(int pid) override;
  void sample(Json& line, uint64_t now_ns) override;

 private:
  struct Filter {
    int interface;
    bpf_tc_attach_point point;
    uint32_t handle;
    uint32_t priority;
    bool own_qdisc;
  };
  struct Namespace {
    Fd fd;
    std::vector<Fd> links;
    std::vector<Filter> filters;
  };
  void attach_in(Namespace& place);
  void attach(Namespace& place, int interface, bool outgoing);
  void attach_filter(Namespace& place, int interface, bool outgoing);

  Report& report_;
  Skeleton<traffic_bpf> programs_;
  std::map<uint64_t, Namespace> namespaces_;  // by inode
};

}  // namespace shoal::tracer
