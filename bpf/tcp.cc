#include "tcp.h"

#include "address.h"

namespace shoal::tracer {

Tcp::Tcp(const SharedMaps& maps, Report& report) : programs_(maps, kLinks, report) {}

void Tcp::sample(Json& line, uint64_t /*now_ns*/) {
  Json links = Json::array();
  if (programs_) {
    read_hash<link_key, link_record>(
        bpf_map__fd(programs_->maps.links), [&](const link_key& key, const link_record& link) {
          links.push_back({{"local", endpoint(key.family, key.local, key.local_port)},
                           {"remote", endpoint(key.family, key.remote, key.remote_port)},
                           {"retransmits", link.retransmits},
                           {"lost_at_ns", link.lost_at_ns},
                           {"netns", key.netns}});
        });
  }
  line["links"] = std::move(links);
}

}  // namespace shoal::tracer
