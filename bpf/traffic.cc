#include "traffic.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <memory>
#include <string>
#include <thread>

#include "address.h"

namespace shoal::tracer {
namespace {

// What libbpf 1.1 does not know: BPF_LINK_CREATE for tcx (Linux 6.6), of which the kernel takes the
// first 40 bytes.
struct TcxLink {
  uint32_t program;
  uint32_t interface;
  uint32_t attach_type;
  uint32_t flags;
  uint32_t relative_to;
  uint32_t pad;
  uint64_t expected_revision;
};
static_assert(sizeof(TcxLink) == 32, "layout of union bpf_attr");
enum : uint32_t { kTcxIngress = 46, kTcxEgress = 47 };

Fd link_tcx(int program, int interface, bool outgoing) {
  TcxLink attributes{};
  attributes.program = static_cast<uint32_t>(program);
  attributes.interface = static_cast<uint32_t>(interface);
  attributes.attach_type = outgoing ? kTcxEgress : kTcxIngress;
  return Fd(static_cast<int>(syscall(SYS_bpf, BPF_LINK_CREATE, &attributes, sizeof attributes)));
}

std::vector<int> interfaces() {
  std::vector<int> indices;
  struct if_nameindex* list = if_nameindex();
  if (list == nullptr) return indices;
  for (const struct if_nameindex* entry = list; entry->if_index != 0; ++entry) {
    indices.push_back(static_cast<int>(entry->if_index));
  }
  if_freenameindex(list);
  return indices;
}

// A thread may be in another network namespace than its process: what is done there does not
// concern the rest.
template <class Work>
int do_inside(int netns, Work&& work) {
  int code = 0;
  std::thread([&] {
    if (setns(netns, CLONE_NEWNET) != 0) {
      code = errno;
      return;
    }
    work();
  }).join();
  return code;
}

bpf_tc_hook hook_of(int interface, bpf_tc_attach_point point) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = interface, .attach_point = point);
  return hook;
}

}  // namespace

Traffic::Traffic(const SharedMaps& maps, Report& report)
    : report_(report), programs_(load<traffic_bpf>(maps, kBytes, report)) {}

Traffic::~Traffic() {
  for (const auto& [inode, place] : namespaces_) {
    if (place.filters.empty()) continue;
    do_inside(place.fd.get(), [&filters = place.filters] {
      for (const Filter& filter : filters) {
        const bpf_tc_hook hook = hook_of(filter.interface, filter.point);
        LIBBPF_OPTS(bpf_tc_opts, options, .handle = filter.handle, .priority = filter.priority);
        bpf_tc_detach(&hook, &options);
        if (!filter.own_qdisc) continue;
        bpf_tc_hook whole = hook_of(
            filter.interface, static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS));
        bpf_tc_hook_destroy(&whole);
      }
    });
  }
}

void Traffic::added(int pid) {
  if (programs_ == nullptr) return;
  Fd netns(::open(("/proc/" + std::to_string(pid) + "/ns/net").c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status{};
  if (!netns.valid() || fstat(netns.get(), &status) != 0) {
    report_.refused("bytes", kBytes, errno,
                    "no network namespace of process " + std::to_string(pid));
    return;
  }
  const auto [place, fresh] = namespaces_.try_emplace(status.st_ino);
  if (!fresh) return;
  place->second.fd = std::move(netns);
  const int code = do_inside(place->second.fd.get(), [&] { attach_in(place->second); });
  if (code != 0) report_.refused("bytes", kBytes, code, "setns to the network namespace of a rank");
}

void Traffic::attach_in(Namespace& place) {
  for (const int interface : interfaces()) {
    attach(place, interface, false);
    attach(place, interface, true);
  }
}

void Traffic::attach(Namespace& place, int interface, bool outgoing) {
  const bpf_program* program = outgoing ? programs_->progs.egress : programs_->progs.ingress;
  Fd link = link_tcx(bpf_program__fd(program), interface, outgoing);
  if (link.valid()) {
    report_.attached("bytes", "attached (tcx)");
    place.links.push_back(std::move(link));
  } else if (errno == EINVAL) {
    attach_filter(place, interface, outgoing);
  } else {
    report_.refused("bytes", kBytes, errno, "");
  }
}

void Traffic::attach_filter(Namespace& place, int interface, bool outgoing) {
  const bpf_tc_attach_point point = outgoing ? BPF_TC_EGRESS : BPF_TC_INGRESS;
  bpf_tc_hook hook = hook_of(interface, point);
  // Somebody else's clsact is as good, and is left there.
  const int made = bpf_tc_hook_create(&hook);
  const bpf_program* program = outgoing ? programs_->progs.egress : programs_->progs.ingress;
  LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = bpf_program__fd(program));
  const int code = made != 0 && made != -EEXIST ? made : bpf_tc_attach(&hook, &options);
  if (code != 0) {
    report_.refused("bytes", kBytes, -code, take_warning());
    return;
  }
  report_.attached("bytes", "attached (clsact)");
  place.filters.push_back({interface, point, options.handle, options.priority, made == 0});
}

void Traffic::sample(Json& line, uint64_t /*now_ns*/) {
  if (programs_ == nullptr) return;
  Json list = Json::array();
  read_hash<flow_key, flow_record>(bpf_map__fd(programs_->maps.flows),
                                   [&](const flow_key& key, const flow_record& flow) {
                                     list.push_back({{"local", address(key.family, key.local)},
                                                     {"remote", address(key.family, key.remote)},
                                                     {"sent", flow.sent},
                                                     {"received", flow.received},
                                                     {"packets", flow.packets}});
                                   });
  line["bytes"] = std::move(list);
}

}  // namespace shoal::tracer
