/// Messages of programs that use UCX: ucx.bpf.c, uprobes on libucp.so.
#pragma once

#include <string>
#include <vector>

#include "programs.h"
#include "source.h"
#include "ucx.skel.h"

namespace shoal::tracer {

class Ucx : public Source {
 public:
  Ucx(const SharedMaps& maps, const std::string& library, Report& report);
  void sample(Json& line, uint64_t now_ns) override;

 private:
  Skeleton<ucx_bpf> programs_;
  std::vector<Link> links_;
};

}  // namespace shoal::tracer
