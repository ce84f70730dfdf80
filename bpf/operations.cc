#include "operations.h"

#include <sys/timerfd.h>

#include <numeric>
#include <utility>

#include "clock.h"
#include "duty_cycle.h"

namespace shoal::tracer {
namespace {

constexpr char kWhat[] = "operations of shoal: counts, times, stalls and errors";
constexpr uint64_t kLookNs = 20'000'000;  // between two looks at the rate while the probes are on

}  // namespace

Operations::Operations(const SharedMaps& maps, std::string library, bool sampling, Report& report)
    : library_(std::move(library)), programs_(load<operations_bpf>(maps, kWhat, report)) {
  if (programs_ == nullptr) return;
  const auto& programs = programs_->progs;
  for (bpf_program* program : {programs.stall, programs.error}) attach(program, rare_, report);
  bool good = true;
  for (bpf_program* program : {programs.begin, programs.end}) {
    good = attach(program, frequent_, report) && good;
  }
  started_ns_ = on_since_ns_ = looked_ns_ = now_ns();
  if (!good || !sampling) return;
  timer_ = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  set_timer(kLookNs);
}

bool Operations::attach(bpf_program* program, std::vector<Link>& links, Report& report) {
  const std::string name = bpf_program__name(program);
  Link link(
      bpf_program__attach_usdt(program, -1, library_.c_str(), "shoal", name.c_str(), nullptr));
  if (link == nullptr) {
    const int code = errno;
    report.refused("shoal:" + name, kWhat, code,
                   code == ENOENT
                       ? library_ +
                             " has no such probe: build shoal with <sys/sdt.h> "
                             "(systemtap-sdt-dev), and name the library the ranks have loaded"
                       : last_warning());
    return false;
  }
  report.attached("shoal:" + name);
  links.push_back(std::move(link));
  return true;
}

void Operations::set_timer(uint64_t ns) {
  const timespec after{static_cast<time_t>(ns / 1'000'000'000),
                       static_cast<long>(ns % 1'000'000'000)};
  const itimerspec times{{}, after};
  timerfd_settime(timer_.get(), 0, &times, nullptr);
}

uint64_t Operations::hits() const {
  const auto counts = read_per_cpu<uint64_t>(bpf_map__fd(programs_->maps.hits), uint32_t{0});
  return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

void Operations::on_ready() {
  uint64_t ticks = 0;
  if (::read(timer_.get(), &ticks, sizeof ticks) != sizeof ticks) return;
  if (frequent_.empty()) {
    if (switch_on()) set_timer(kLookNs);
    return;
  }
  const uint64_t now = now_ns();
  const uint64_t seen = hits();
  const uint64_t off_ns = time_off_ns(now - looked_ns_, seen - seen_hits_, switch_ns_);
  seen_hits_ = seen;
  looked_ns_ = now;
  if (off_ns > 0) switch_off(now);
  set_timer(off_ns > 0 ? off_ns : kLookNs);
}

bool Operations::switch_on() {
  const uint64_t before = read_clock(CLOCK_PROCESS_CPUTIME_ID);
  Report ignored;  // it has been attached before
  const auto& programs = programs_->progs;
  for (bpf_program* program : {programs.begin, programs.end}) attach(program, frequent_, ignored);
  switch_ns_ += read_clock(CLOCK_PROCESS_CPUTIME_ID) - before;
  on_since_ns_ = looked_ns_ = now_ns();
  seen_hits_ = hits();
  return !frequent_.empty();
}

// What this takes, and the next switch_on(), is what the next turn has to earn.
void Operations::switch_off(uint64_t now_ns) {
  const uint64_t before = read_clock(CLOCK_PROCESS_CPUTIME_ID);
  frequent_.clear();
  switch_ns_ = read_clock(CLOCK_PROCESS_CPUTIME_ID) - before;
  on_ns_ += now_ns - std::exchange(on_since_ns_, 0);
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
  const uint64_t on_ns =
      on_ns_ + (on_since_ns_ != 0 && now_ns > on_since_ns_ ? now_ns - on_since_ns_ : 0);
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
