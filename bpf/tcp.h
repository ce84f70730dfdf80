/// TCP connections that sent segments again: tcp.bpf.c.
#pragma once

#include "programs.h"
#include "source.h"
#include "tcp.skel.h"

namespace shoal::tracer {

class Tcp : public Source {
 public:
  Tcp(const SharedMaps& maps, Report& report);
  void sample(Json& line, uint64_t now_ns) override;

 private:
  Attached<tcp_bpf> programs_;
};

}  // namespace shoal::tracer
