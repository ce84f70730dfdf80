/* System calls of watched threads: the present one, and how often and how long each took. Attaching
 * makes every system call of the machine take a detour: only where it is asked for.
 */
#include "shared.bpf.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, kMaxCalls);
  __type(key, struct call_key);
  __type(value, struct call_record);
} calls SEC(".maps");

SEC("tp_btf/sys_enter")
int BPF_PROG(on_enter, void *registers, long call) {
  struct thread_record *thread = find_current();
  if (!thread) return 0;
  thread->call = (u32)call;
  thread->call_since_ns = bpf_ktime_get_ns();
  ++thread->call_events;
  return 0;
}

static __always_inline struct call_record *record_of(u32 tid, u32 call) {
  const struct call_key key = {.tid = tid, .call = call};
  struct call_record *record = bpf_map_lookup_elem(&calls, &key);
  if (record) return record;
  const struct call_record none = {};
  bpf_map_update_elem(&calls, &key, &none, BPF_NOEXIST);
  return bpf_map_lookup_elem(&calls, &key);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_exit) {
  struct thread_record *thread = find_current();
  if (!thread) return 0;
  ++thread->call_events;
  if (thread->call_since_ns == 0) return 0; /* it had begun before we came */
  const u64 ns = bpf_ktime_get_ns() - thread->call_since_ns;
  thread->call_since_ns = 0;
  struct call_record *record = record_of(thread->tid, thread->call);
  if (!record) {
    count_drop();
    return 0;
  }
  ++record->count;
  record->ns += ns;
  if (ns > record->max_ns) record->max_ns = ns;
  return 0;
}

char kLicense[] SEC("license") = "Dual BSD/GPL";
