#include "ucx.h"

namespace shoal::tracer {

Ucx::Ucx(const SharedMaps& maps, const std::string& library, Report& report) {
  programs_ = load<ucx_bpf>(maps, kMessages, report);
  if (programs_ == nullptr) return;
  for (bpf_program* program :
       {programs_->progs.ucp_tag_send_nbx, programs_->progs.ucp_tag_recv_nbx}) {
    // The program has the name of the function.
    const char* name = bpf_program__name(program);
    take_warning();
    LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = name);
    Link link(bpf_program__attach_uprobe_opts(program, -1, library.c_str(), 0, &options));
    if (link == nullptr) {
      report.refused(name, kMessages, errno, take_warning());
      continue;
    }
    report.attached(name);
    links_.push_back(std::move(link));
  }
}

void Ucx::sample(Json& line, uint64_t /*now_ns*/) {
  if (programs_ == nullptr) return;
  Json list = Json::array();
  read_hash<uint32_t, ucx_record>(bpf_map__fd(programs_->maps.messages),
                                  [&](uint32_t pid, const ucx_record& record) {
                                    list.push_back({{"pid", pid},
                                                    {"sends", record.sends},
                                                    {"receives", record.receives},
                                                    {"bytes", record.bytes}});
                                  });
  line["ucx"] = std::move(list);
}

}  // namespace shoal::tracer
