/* Operations of shoal, by the USDT probes of libshoal.so (csrc/core/probes.h): how many, and how
 * long they took. A hit costs 0.5 us, nearly all of it the trap: whoever attaches begin and end
 * decides for which share of the time.
 */
// clang-format off: the types come first
#include "shared.bpf.h"

#include <bpf/usdt.bpf.h>
// clang-format on

/* What begin remembers for end. An operation may end in another thread, on another core. */
struct in_flight {
  u64 sequence[kInFlight];
  u64 begun_ns[kInFlight];
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, kMaxGroups);
  __type(key, struct group_key);
  __type(value, struct in_flight);
} in_flight SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
  __uint(max_entries, kMaxGroups);
  __type(key, struct group_key);
  __type(value, struct group_record);
} groups SEC(".maps");

/* Hits of begin and end, of all processes that use the library: those that are not watched cost the
 * same. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, u32);
  __type(value, u64);
} hits SEC(".maps");

/* A new value is copied from here: one of these sizes does not fit a program's stack. */
const volatile __u64 zeros[sizeof(struct in_flight) / sizeof(__u64)] = {};

/* Set while both begin and end are attached: between the one and the other half would be counted.
 */
__u32 counting = 0;

/* A program in a user's context can be preempted by another of its kind on the same core: so also
 * what is per CPU is counted by atomic additions.
 */
static __always_inline void add(u64 *counter) { __sync_fetch_and_add(counter, 1); }

/* False: of no interest but for its cost. */
static __always_inline bool count_hit(u32 pid) {
  const u32 zero = 0;
  u64 *count = bpf_map_lookup_elem(&hits, &zero);
  if (count) add(count);
  return counting && is_watched(pid);
}

static __always_inline struct group_record *group_of(const struct group_key *key) {
  struct group_record *group = bpf_map_lookup_elem(&groups, key);
  if (group) return group;
  bpf_map_update_elem(&groups, key, (const void *)zeros, BPF_NOEXIST);
  group = bpf_map_lookup_elem(&groups, key);
  if (!group) count_drop();
  return group;
}

static __always_inline struct in_flight *flight_of(const struct group_key *key) {
  struct in_flight *flight = bpf_map_lookup_elem(&in_flight, key);
  if (flight) return flight;
  bpf_map_update_elem(&in_flight, key, (const void *)zeros, BPF_NOEXIST);
  return bpf_map_lookup_elem(&in_flight, key);
}

static __always_inline u32 current_pid(void) { return bpf_get_current_pid_tgid() >> 32; }

/* The place of the highest bit that is set; 0 for 0. The BPF target has no instruction for it. */
static __always_inline u32 log2_of(u64 value) {
  u32 bits = 0;
  for (u32 step = 32; step > 0; step /= 2) {
    if (value >> step == 0) continue;
    value >>= step;
    bits += step;
  }
  return bits;
}

SEC("usdt")
int BPF_USDT(begin, u64 communicator, u64 sequence) {
  const struct group_key key = {.pid = current_pid(), .communicator = (u32)communicator};
  if (!count_hit(key.pid)) return 0;
  struct group_record *group = group_of(&key);
  if (group) add(&group->begun);
  struct in_flight *flight = flight_of(&key);
  if (!flight) return 0;
  const u32 slot = sequence & (kInFlight - 1);
  flight->sequence[slot] = sequence;
  flight->begun_ns[slot] = bpf_ktime_get_ns();
  return 0;
}

SEC("usdt")
int BPF_USDT(end, u64 communicator, u64 sequence) {
  const struct group_key key = {.pid = current_pid(), .communicator = (u32)communicator};
  if (!count_hit(key.pid)) return 0;
  struct group_record *group = group_of(&key);
  if (!group) return 0;
  add(&group->ended);
  struct in_flight *flight = bpf_map_lookup_elem(&in_flight, &key);
  const u32 slot = sequence & (kInFlight - 1);
  if (!flight || flight->begun_ns[slot] == 0 || flight->sequence[slot] != sequence) return 0;
  const u64 ns = bpf_ktime_get_ns() - flight->begun_ns[slot];
  flight->begun_ns[slot] = 0;
  add(&group->ns_log2[log2_of(ns) & (kLatencies - 1)]);
  return 0;
}

static __always_inline void tell(u32 kind, const struct group_key *key, u64 sequence, u64 detail) {
  struct operation_event *event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
  if (!event) {
    count_drop();
    return;
  }
  event->head.kind = kind;
  event->head.pid = key->pid;
  event->head.tid = (u32)bpf_get_current_pid_tgid();
  event->head.pad = 0;
  event->head.time_ns = bpf_ktime_get_ns();
  event->communicator = key->communicator;
  event->pad = 0;
  event->sequence = sequence;
  event->detail = detail;
  bpf_ringbuf_submit(event, 0);
}

SEC("usdt")
int BPF_USDT(stall, u64 communicator, u64 sequence, u64 awaited) {
  const struct group_key key = {.pid = current_pid(), .communicator = (u32)communicator};
  if (!is_watched(key.pid)) return 0;
  struct group_record *group = group_of(&key);
  if (group) add(&group->stalled);
  tell(kStallEvent, &key, sequence, awaited);
  return 0;
}

SEC("usdt")
int BPF_USDT(error, u64 communicator, u64 sequence, u64 code) {
  const struct group_key key = {.pid = current_pid(), .communicator = (u32)communicator};
  if (!is_watched(key.pid)) return 0;
  struct group_record *group = group_of(&key);
  if (group) add(&group->failed);
  tell(kErrorEvent, &key, sequence, code);
  return 0;
}

char kLicense[] SEC("license") = "Dual BSD/GPL";
