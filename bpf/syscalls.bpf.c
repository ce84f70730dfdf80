/* System calls of watched threads: the present one, and how often and how long each took. Attaching
 * makes every system call of the machine take a detour: only where it is asked for.
 *
 * A call that had begun before counts from when these programs came. They come and go, and the
 * threads' records stay: what a record says of calls is of this time if its call_event_ns is.
 */
#include <asm/unistd.h>

#include "shared.bpf.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, kMaxCalls);
  __type(key, struct call_key);
  __type(value, struct call_record);
} calls SEC(".maps");

static u64 came_ns; /* the first system call of the machine after that */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct pt_regs___x86 {
  unsigned long orig_ax;
};
struct pt_regs___arm64 {
  s32 syscallno;
};
#pragma clang attribute pop

static __always_inline u32 call_of(void *registers) {
#ifdef __TARGET_ARCH_arm64
  return (u32)BPF_CORE_READ((struct pt_regs___arm64 *)registers, syscallno);
#else
  return (u32)BPF_CORE_READ((struct pt_regs___x86 *)registers, orig_ax);
#endif
}

/* For every call of the machine: no more than a look. */
static __always_inline void note_coming(void) {
  if (came_ns == 0) came_ns = bpf_ktime_get_ns();
}

/* A new thread comes out of a call that it has never gone into. */
static __always_inline bool is_born(u32 call, long result) {
  if (result != 0) return false;
#ifdef __NR_fork
  if (call == __NR_fork || call == __NR_vfork) return true;
#endif
  return call == __NR_clone || call == __NR_clone3;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_enter, void *registers, long call) {
  note_coming();
  struct thread_record *thread = find_current();
  if (!thread) return 0;
  thread->call = (u32)call;
  thread->call_since_ns = thread->call_event_ns = bpf_ktime_get_ns();
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
int BPF_PROG(on_exit, void *registers, long result) {
  note_coming();
  struct thread_record *thread = find_current();
  if (!thread) return 0;
  const u64 now = bpf_ktime_get_ns();
  if (thread->call_event_ns < came_ns) {
    thread->call = call_of(registers);
    thread->call_since_ns = is_born(thread->call, result) ? 0 : came_ns;
  }
  thread->call_event_ns = now;
  if (thread->call_since_ns == 0) return 0;
  const u64 ns = now - thread->call_since_ns;
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
