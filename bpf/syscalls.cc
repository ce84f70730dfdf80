#include "syscalls.h"

#include <asm/unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "clock.h"

namespace shoal::tracer {
namespace {

std::string name_of_call(uint32_t number) {
  // One line `{__NR_x, "x"},` for each that <asm/unistd.h> has; made by CMake.
  static const std::map<uint32_t, const char*> kNames = {
#include "syscall_names.inc"
  };
  const auto found = kNames.find(number);
  return found == kNames.end() ? "syscall_" + std::to_string(number) : found->second;
}

// "202 0x7f... " of /proc/PID/task/TID/syscall; "running", or -1 where it is blocked outside of
// one.
Json call_of_proc(uint32_t pid, uint32_t tid, uint64_t since_ns) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid) + "/syscall");
  int64_t number = -1;
  if (!(file >> number) || number < 0) return nullptr;
  return {{"name", name_of_call(static_cast<uint32_t>(number))}, {"since_ns", since_ns}};
}

}  // namespace

Syscalls::Syscalls(const SharedMaps& maps, Report& report)
    : maps_(maps), programs_(maps, kCalls, report) {}

void Syscalls::added(int pid) { watched_since_[pid] = now_ns(); }

// A thread that has neither entered nor left one since we came is in that which /proc names, if
// any.
Json Syscalls::present_call(uint32_t pid, uint32_t tid) const {
  thread_record thread{};
  if (bpf_map_lookup_elem(maps_.threads(), &tid, &thread) != 0) return nullptr;
  const auto since = watched_since_.find(static_cast<int>(pid));
  if (since != watched_since_.end() && thread.call_event_ns < since->second) {
    return call_of_proc(pid, tid, since->second);
  }
  if (thread.call_since_ns == 0) return nullptr;
  return {{"name", name_of_call(thread.call)}, {"since_ns", thread.call_since_ns}};
}

void Syscalls::sample(Json& line, uint64_t /*now_ns*/) {
  if (!programs_) return;
  std::map<uint32_t, std::vector<std::pair<uint32_t, call_record>>> calls;  // by tid
  const int map = bpf_map__fd(programs_->maps.calls);
  read_hash<call_key, call_record>(map, [&](const call_key& key, const call_record& record) {
    calls[key.tid].emplace_back(key.call, record);
  });
  for (Json& thread : line["threads"]) {
    const auto tid = thread["tid"].get<uint32_t>();
    thread["in_syscall"] = present_call(thread["pid"], tid);
    Json& list = thread["syscalls"] = Json::array();
    auto own = calls.extract(tid);
    if (own.empty()) continue;
    std::ranges::sort(own.mapped(),
                      [](const auto& a, const auto& b) { return a.second.ns > b.second.ns; });
    for (const auto& [call, record] : own.mapped()) {
      list.push_back({{"name", name_of_call(call)},
                      {"count", record.count},
                      {"ns", record.ns},
                      {"max_ns", record.max_ns}});
    }
  }
  // Of threads that have been said to be dead.
  for (const auto& [tid, list] : calls) {
    for (const auto& [call, record] : list) {
      const call_key key{tid, call};
      bpf_map_delete_elem(map, &key);
    }
  }
}

}  // namespace shoal::tracer
