#include "operations.h"

#include <chrono>
#include <numeric>
#include <utility>

#include "clock.h"
#include "duty_cycle.h"

namespace shoal::tracer {
namespace {

constexpr uint64_t kLookNs = 20'000'000;  // between two looks at the rate while the probes are on

}  // namespace

Operations::Operations(const SharedMaps& maps, std::string library, bool sampling, Report& report)
    : library_(std::move(library)), programs_(load<operations_bpf>(maps, kOperations, report)) {
  if (programs_ == nullptr) return;
  for (bpf_program* program : {programs_->progs.stall, programs_->progs.error}) {
    attach(program, rare_, report);
  }
  const bool good = switch_on(report);
  started_ns_ = on_since_ns_;
  if (good && sampling) turns_ = std::thread([this] { take_turns(); });
}

Operations::~Operations() {
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
  }
  ended_.notify_all();
  if (turns_.joinable()) turns_.join();
}

bool Operations::attach(bpf_program* program, std::vector<Link>& links, Report& report) {
  const std::string name = bpf_program__name(program);
  Link link(
      bpf_program__attach_usdt(program, -1, library_.c_str(), "shoal", name.c_str(), nullptr));
  if (link == nullptr) {
    const int code = errno;
    const bool no_file = access(library_.c_str(), R_OK) != 0;
    const std::string no_probe = library_ +
                                 " has no such probe: it was built without <sys/sdt.h> "
                                 "(systemtap-sdt-dev), or is another library";
    report.refused("shoal:" + name, kOperations, code,
                   no_file          ? library_ + " cannot be read"
                   : code == ENOENT ? no_probe
                                    : take_warning());
    return false;
  }
  report.attached("shoal:" + name);
  links.push_back(std::move(link));
  return true;
}

uint64_t Operations::hits() const {
  const auto counts = read_per_cpu<uint64_t>(bpf_map__fd(programs_->maps.hits), uint32_t{0});
  return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

bool Operations::switch_on(Report& report) {
  bool good = true;
  for (bpf_program* program : {programs_->progs.begin, programs_->progs.end}) {
    good = attach(program, frequent_, report) && good;
  }
  programs_->bss->counting = good;
  on_since_ns_ = now_ns();
  return good;
}

void Operations::switch_off() {
  programs_->bss->counting = false;
  on_ns_ += now_ns() - on_since_ns_.exchange(0);
  frequent_.clear();
}

// False: the tracer ends.
bool Operations::wait(uint64_t ns) {
  std::unique_lock lock(mutex_);
  return !ended_.wait_for(lock, std::chrono::nanoseconds(ns), [this] { return end_; });
}

// A turn is a time on and a time off. While they are on, the rate of hits is looked at every
// kLookNs. Until the kernel has taken them off they are hit on: the turn's cost is known only then,
// and the time off follows from it.
void Operations::take_turns() {
  for (;;) {
    uint64_t from_ns = now_ns();
    uint64_t seen = hits();
    while (true) {
      if (!wait(kLookNs)) return;
      if (time_off_ns(now_ns() - from_ns, hits() - seen, 0) > 0) break;
      from_ns = now_ns();
      seen = hits();
    }
    const uint64_t cpu_before = read_clock(CLOCK_THREAD_CPUTIME_ID);
    switch_off();
    // What it took to take them off, it will take to put them on.
    const uint64_t switch_ns = 2 * (read_clock(CLOCK_THREAD_CPUTIME_ID) - cpu_before);
    if (!wait(time_off_ns(now_ns() - from_ns, hits() - seen, switch_ns))) return;
    Report ignored;  // they have been attached before; a job that has ended has left the library's
                     // file
    if (!switch_on(ignored)) return;
  }
}

void Operations::sample(Json& line, uint64_t now_ns) {
  if (programs_ == nullptr) return;
  Json list = Json::array();
  const int map = bpf_map__fd(programs_->maps.groups);
  std::vector<group_key> keys;
  for (group_key key{}, *previous = nullptr;
       keys.size() < kMaxGroups && bpf_map_get_next_key(map, previous, &key) == 0;
       previous = &keys.back()) {
    keys.push_back(key);
  }
  for (const group_key& key : keys) {
    group_record sum{};
    for (const group_record& part : read_per_cpu<group_record>(map, key)) {
      sum.begun += part.begun;
      sum.ended += part.ended;
      sum.failed += part.failed;
      sum.stalled += part.stalled;
      for (int i = 0; i < kLatencies; ++i) sum.ns_log2[i] += part.ns_log2[i];
    }
    list.push_back({{"pid", key.pid},
                    {"communicator", key.communicator},
                    {"begun", sum.begun},
                    {"ended", sum.ended},
                    {"failed", sum.failed},
                    {"stalled", sum.stalled},
                    {"ns_log2", sum.ns_log2}});
  }
  line["operations"] = std::move(list);
  const uint64_t since_ns = on_since_ns_.load(std::memory_order_relaxed);
  const uint64_t present_ns = since_ns != 0 && now_ns > since_ns ? now_ns - since_ns : 0;
  const uint64_t on_ns = on_ns_.load(std::memory_order_relaxed) + present_ns;
  const uint64_t all_ns = now_ns > started_ns_ ? now_ns - started_ns_ : 1;
  line["operations_sampled"] =
      std::min(1.0, static_cast<double>(on_ns) / static_cast<double>(all_ns));
}

Json describe(const operation_event& event) {
  const bool stall = event.head.kind == kStallEvent;
  return {{"type", stall ? "stall" : "error"},
          {"t_ns", event.head.time_ns},
          {"pid", event.head.pid},
          {"tid", event.head.tid},
          {"communicator", event.communicator},
          {"sequence", event.sequence},
          {stall ? "awaited" : "code", static_cast<int64_t>(event.detail)}};
}

}  // namespace shoal::tracer
