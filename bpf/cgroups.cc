#include "cgroups.h"

#include <sys/stat.h>

#include <fstream>
#include <sstream>

namespace shoal::tracer {
namespace {

// Where version 2 is mounted: "ID PARENT MAJ:MIN ROOT PLACE OPTIONS... - cgroup2 ...".
std::string find_mount() {
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.find(" - cgroup2 ") == std::string::npos) continue;
    std::istringstream words(line);
    std::string word, place;
    words >> word >> word >> word >> word >> place;
    return place;
  }
  return "";
}

// "0::/jobs/a"; empty if the process is gone.
std::string path_of(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("0::")) return line.substr(3);
  }
  return "";
}

// The kernel's number of a group is that of its folder; 0: unknown.
uint64_t id_of(const std::string& path) {
  static const std::string kMount = find_mount();
  struct stat about{};
  if (kMount.empty() || path.empty() || ::stat((kMount + path).c_str(), &about) != 0) return 0;
  return about.st_ino;
}

}  // namespace

Cgroups::Cgroups(const SharedMaps& maps, Report& report) : programs_(maps, kCgroups, report) {}

void Cgroups::added(int pid) { group_of_[pid] = look_at(pid); }

/// Where the process is now: it may have been moved.
uint64_t Cgroups::look_at(int pid) {
  const std::string path = path_of(pid);
  const uint64_t id = id_of(path);
  if (id == 0 || !programs_) return id;
  const auto [entry, is_new] = groups_.try_emplace(id, Group{path, {}, {}});
  entry->second.pids.insert(pid);
  const uint32_t present = 1;
  if (is_new) bpf_map_update_elem(bpf_map__fd(programs_->maps.groups), &id, &present, BPF_ANY);
  return id;
}

/// What each thread has spent since the last sample goes to the group that its process is in: so
/// the sums never shrink, whoever ends or moves.
void Cgroups::add_times(const Json& threads) {
  std::map<uint32_t, Times> now;
  for (const Json& thread : threads) {
    const auto place = group_of_.find(thread["pid"].get<int>());
    if (place == group_of_.end() || place->second == 0) continue;
    const auto ns = [&](const char* field) { return thread[field].get<uint64_t>(); };
    const uint32_t tid = thread["tid"];
    const Times times{ns("on_cpu_ns"), ns("waiting_ns"),
                      ns("sleeping_ns") + ns("uninterruptible_ns") + ns("stopped_ns")};
    const Times before = seen_[tid];
    Times& sum = groups_[place->second].times;
    sum.on_cpu_ns += times.on_cpu_ns - before.on_cpu_ns;
    sum.waiting_ns += times.waiting_ns - before.waiting_ns;
    sum.off_cpu_ns += times.off_cpu_ns - before.off_cpu_ns;
    now[tid] = times;
  }
  seen_ = std::move(now);
}

Json Cgroups::carried(uint64_t id, bool is_rank) const {
  const cgroup_key key{id, is_rank ? 1U : 0U, 0};
  cgroup_record record{};
  bpf_map_lookup_elem(bpf_map__fd(programs_->maps.carried), &key, &record);
  return {{"sends", record.sends},
          {"sent_bytes", record.sent_bytes},
          {"receives", record.receives},
          {"received_bytes", record.received_bytes}};
}

Json Cgroups::describe(uint64_t id, const Group& group) const {
  return {{"path", group.path},
          {"id", id},
          {"pids", group.pids},
          {"ranks", carried(id, true)},
          {"others", carried(id, false)},
          {"on_cpu_ns", group.times.on_cpu_ns},
          {"waiting_ns", group.times.waiting_ns},
          {"off_cpu_ns", group.times.off_cpu_ns}};
}

void Cgroups::sample(Json& line, uint64_t /*now_ns*/) {
  if (!programs_) return;
  add_times(line["threads"]);
  for (auto& [id, group] : groups_) group.pids.clear();
  for (auto& [pid, id] : group_of_) id = look_at(pid);
  Json list = Json::array();
  for (const auto& [id, group] : groups_) list.push_back(describe(id, group));
  line["cgroups"] = std::move(list);
}

}  // namespace shoal::tracer
