#include "scheduler.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "clock.h"
#include "processes.h"

namespace shoal::tracer {
namespace {

std::string text(const char (&name)[kNameBytes]) { return {name, strnlen(name, kNameBytes)}; }

// The letters of /proc. Who waits for a core is as runnable as who has it.
char letter(uint32_t activity) {
  switch (activity) {
    case kOnCpu:
    case kWaiting:
      return 'R';
    case kUninterruptible:
      return 'D';
    case kStopped:
      return 'T';
    case kDead:
      return 'X';
    default:
      return 'S';
  }
}

// A thread that the scheduler has said nothing about since we came does what /proc says, all the
// time.
uint32_t activity_of(char state) {
  switch (state) {
    case 'R':
      return kOnCpu;
    case 'D':
      return kUninterruptible;
    case 'T':
    case 't':
      return kStopped;
    case 'X':
    case 'Z':
      return kDead;
    default:
      return kSleeping;
  }
}

// A copy during which nobody wrote (see tracer.h). A few tries: a thread changes state every few
// microseconds at most.
bool read_steady(int map, uint32_t tid, thread_record& thread) {
  for (int tries = 0; tries < 4; ++tries) {
    if (bpf_map_lookup_elem(map, &tid, &thread) != 0) return false;
    if (thread.done == thread.begun) return true;
  }
  return true;
}

}  // namespace

Scheduler::Scheduler(const SharedMaps& maps, Report& report)
    : maps_(maps), programs_(maps, kThreads, report), faults_(maps, kFaults, report) {}

// Called with the programs attached: from the moment of the insertion on nothing is missed, so what
// /proc says afterwards holds until the first event.
void Scheduler::added(int pid) {
  for (const int tid : threads_of(pid)) {
    const auto key = static_cast<uint32_t>(tid);
    thread_record thread{};
    thread.pid = static_cast<uint32_t>(pid);
    thread.tid = key;
    thread.since_ns = now_ns();
    const ThreadStatus status = status_of(pid, tid);
    thread.first_state = status.state;
    thread.core = static_cast<uint32_t>(status.core);
    thread.priority = status.priority;
    status.name.copy(thread.name, kNameBytes - 1);
    // It may be there: a thread that was born between.
    bpf_map_update_elem(maps_.threads(), &key, &thread, BPF_NOEXIST);
  }
}

void Scheduler::sample(Json& line, uint64_t now_ns) {
  std::vector<thread_record> threads;
  read_hash<uint32_t, thread_record>(maps_.threads(), [&](uint32_t tid, thread_record& thread) {
    if (thread.done == thread.begun || read_steady(maps_.threads(), tid, thread))
      threads.push_back(thread);
  });
  std::ranges::sort(threads, [](const thread_record& a, const thread_record& b) {
    return std::pair(a.pid, a.tid) < std::pair(b.pid, b.tid);
  });
  Json list = Json::array();
  for (const thread_record& thread : threads) {
    Json described = describe(thread, now_ns);
    // Said once more, as dead, and then forgotten.
    if (described["state"] == "X") {
      bpf_map_delete_elem(maps_.threads(), &thread.tid);
      sleeps_.erase(thread.tid);
    }
    list.push_back(std::move(described));
  }
  line["threads"] = std::move(list);
}

Json Scheduler::describe(thread_record thread, uint64_t now_ns) {
  if (thread.activity == kUnread) {
    const ThreadStatus status =
        status_of(static_cast<int>(thread.pid), static_cast<int>(thread.tid));
    thread.activity = activity_of(status.state);
  }
  // The present stretch counts, too. It may have begun after `now_ns` was read.
  if (now_ns > thread.since_ns) thread.spent_ns[thread.activity] += now_ns - thread.since_ns;
  return {{"pid", thread.pid},
          {"tid", thread.tid},
          {"comm", text(thread.name)},
          {"state", std::string(1, letter(thread.activity))},
          {"since_ns", thread.since_ns},
          {"cpu", thread.core},
          {"prio", thread.priority},
          {"on_cpu_ns", thread.spent_ns[kOnCpu]},
          {"waiting_ns", thread.spent_ns[kWaiting]},
          {"sleeping_ns", thread.spent_ns[kSleeping]},
          {"uninterruptible_ns", thread.spent_ns[kUninterruptible]},
          {"stopped_ns", thread.spent_ns[kStopped]},
          {"switches", thread.switches},
          {"preempted_by", preemptors_of(thread, now_ns)},
          {"stack", stack_of(thread)},
          {"woken_by", thread.waker_tid == 0
                           ? Json()
                           : Json{{"tid", thread.waker_tid}, {"comm", text(thread.waker_name)}}},
          {"user_faults", thread.user_faults}};
}

// The way into the scheduler is the same for all: the stack begins with who called schedule().
Json Scheduler::kept_stack_of(const thread_record& thread) {
  std::vector<std::string_view> names;
  for (uint32_t i = 0; i < std::min<uint32_t>(thread.stack_depth, kStackDepth); ++i) {
    const std::string_view name = symbols_.name(thread.stack[i]);
    if (name == "__schedule" || name.starts_with("schedule")) {
      names.clear();
    } else if (!name.empty()) {
      names.push_back(name);
    }
  }
  return names;
}

// A sleep is asked about once. It may end at that moment: then the stack is of the next one, or
// empty.
Json Scheduler::asked_stack_of(const thread_record& thread) {
  const auto [known, fresh] = sleeps_.try_emplace(thread.tid);
  if (fresh || known->second.since_ns != thread.since_ns) {
    const int pid = static_cast<int>(thread.pid);
    known->second = {thread.since_ns, tracer::stack_of(pid, static_cast<int>(thread.tid))};
  }
  return known->second.stack;
}

Json Scheduler::stack_of(const thread_record& thread) {
  const bool asleep = thread.activity == kSleeping || thread.activity == kUninterruptible ||
                      thread.activity == kStopped;
  const bool kept = thread.stack_ns != 0 && (!asleep || thread.stack_ns == thread.since_ns);
  return kept ? kept_stack_of(thread) : asleep ? asked_stack_of(thread) : Json::array();
}

// Whoever has the core at this moment while the thread waits for it is charged at the next switch
// there only.
Json Scheduler::preemptors_of(thread_record& thread, uint64_t now_ns) {
  std::vector<preemptor> list(std::begin(thread.preemptors), std::end(thread.preemptors));
  core place{};
  const int cores = programs_ ? bpf_map__fd(programs_->maps.cores) : -1;
  if (thread.activity == kWaiting && cores >= 0 &&
      bpf_map_lookup_elem(cores, &thread.core, &place) == 0 && place.tid != 0 &&
      place.tid != thread.tid && now_ns > std::max(place.since_ns, thread.queued_ns)) {
    const uint64_t ns = now_ns - std::max(place.since_ns, thread.queued_ns);
    const auto known = std::ranges::find(list, place.tid, &preemptor::tid);
    if (known != list.end()) {
      known->ns += ns;
    } else {
      preemptor present{.ns = ns, .pid = place.pid, .tid = place.tid, .name = {}};
      status_of(static_cast<int>(place.pid), static_cast<int>(place.tid))
          .name.copy(present.name, kNameBytes - 1);
      list.push_back(present);
    }
  }
  std::ranges::sort(list, std::ranges::greater{}, &preemptor::ns);
  Json top = Json::array();
  for (const preemptor& other : list) {
    if (other.ns == 0 || top.size() == 4) break;
    top.push_back(
        {{"pid", other.pid}, {"tid", other.tid}, {"comm", text(other.name)}, {"ns", other.ns}});
  }
  return top;
}

}  // namespace shoal::tracer
