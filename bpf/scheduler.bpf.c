/* What the threads of watched processes do with their time: on a core, waiting for one, asleep,
 * stopped.
 *
 * Every event of one thread comes under the lock of the run queue it is on, so a record has one
 * writer at a time. Which threads wait for a core is written down with the core, so that at each
 * switch there whoever leaves can be charged with the time the others waited for him.
 */
#include "shared.bpf.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, kMaxCores);
  __type(key, u32);
  __type(value, struct core);
} cores SEC(".maps");

static __always_inline u32 state_of(struct task_struct *task) {
  if (bpf_core_field_exists(task->__state)) return task->__state;
  return (u32)((struct task_struct___old *)task)->state;
}

static __always_inline u32 core_of(struct task_struct *task) {
  if (bpf_core_field_exists(task->thread_info.cpu)) return task->thread_info.cpu;
  return ((struct task_struct___old *)task)->cpu;
}

/* The state is read from the task and not taken from the event's arguments, where kernels
 * before 5.18 lack it: under the run queue's lock it can only have changed to "being woken", which
 * is none of the bits below.
 */
static __always_inline enum activity activity_of(u32 state) {
  if (state == 0) return kWaiting;
  if (state & kTaskDead) return kDead;
  if (state & (kTaskStopped | kTaskTraced)) return kStopped;
  if (state & kTaskUninterruptible) return kUninterruptible;
  return kSleeping;
}

/* What a thread was doing that had been there before us, when its first event comes: nothing has
 * happened to it since, so that event says it. Only which kind of sleep has ended must be taken
 * from what /proc said.
 */
static __always_inline enum activity slept_as(const struct thread_record *thread) {
  switch (thread->first_state) {
    case 'D':
      return kUninterruptible;
    case 'T':
    case 't':
      return kStopped;
    default:
      return kSleeping;
  }
}

static __always_inline void change(struct thread_record *thread, enum activity was,
                                   enum activity is, u64 now) {
  const u32 before = thread->activity == kUnread ? was : thread->activity;
  if (before < kActivities) thread->spent_ns[before] += now - thread->since_ns;
  thread->activity = is;
  thread->since_ns = now;
}

/* The tid is put where its core's next switch looks. Another core may do the same at the same time
 * (a migration), so that a slot is taken by compare-and-swap. Full: the thread's wait is counted,
 * but charged to nobody.
 */
static __always_inline void queue_at(u32 core_id, u32 tid) {
  struct core *core = bpf_map_lookup_elem(&cores, &core_id);
  if (!core) return;
  for (int i = 0; i < kWaitersOfACore; ++i)
    if (core->waiting[i] == tid) return;
  for (int i = 0; i < kWaitersOfACore; ++i)
    if (__sync_val_compare_and_swap(&core->waiting[i], 0, tid) == 0) return;
}

static __always_inline void begin_wait(struct thread_record *thread, u32 core_id, u64 now) {
  thread->core = core_id;
  thread->queued_ns = now;
  queue_at(core_id, thread->tid);
}

/* Adds `ns` to the entry of the thread that is current, which takes the place of the lightest one
 * if it is new. What that one had is forgotten and not inherited: a figure may be too low, never
 * too high.
 */
static __always_inline void charge(struct thread_record *thread, u64 ns) {
  const u64 current = bpf_get_current_pid_tgid();
  const u32 tid = (u32)current;
  u32 place = 0;
  u64 least = ~0ull;
  for (u32 i = 0; i < kPreemptors; ++i) {
    struct preemptor *entry = &thread->preemptors[i];
    if (entry->tid == tid) {
      entry->ns += ns;
      return;
    }
    if (entry->ns < least) {
      least = entry->ns;
      place = i;
    }
  }
  if (least > ns) return; /* lighter than all that are there */
  struct preemptor *entry = &thread->preemptors[place & (kPreemptors - 1)];
  entry->tid = tid;
  entry->pid = current >> 32;
  entry->ns = ns;
  bpf_get_current_comm(entry->name, kNameBytes);
}

/* Thread `tid` is written down as waiting for this core, where the current thread has run since
 * `ran_since`. False: it does not wait here any more. Not static: the verifier looks at such a
 * function once, and not at each place of the loop that calls it (loading took 220 ms so, now 10).
 */
int charge_waiter(u32 tid, u32 core_id, u64 ran_since, u64 now) {
  struct thread_record *thread = find(tid);
  if (!thread || thread->activity != kWaiting || thread->core != core_id) return false;
  const u32 current = (u32)bpf_get_current_pid_tgid();
  const u64 from = thread->queued_ns > ran_since ? thread->queued_ns : ran_since;
  /* tid 0 is the idle task: the core was waking up, nobody was in the way. */
  if (current == 0 || current == tid || now <= from) return true;
  ++thread->begun;
  charge(thread, now - from);
  thread->done = thread->begun;
  return true;
}

static __always_inline void charge_waiters(struct core *core, u32 core_id, u64 now) {
  for (int i = 0; i < kWaitersOfACore; ++i) {
    const u32 tid = core->waiting[i];
    if (tid != 0 && !charge_waiter(tid, core_id, core->since_ns, now))
      __sync_val_compare_and_swap(&core->waiting[i], tid, 0);
  }
}

/* Walking the stack takes 1 us: not at each of 10,000 sleeps a second. Of a sleep that lasts, /proc
 * has it, too. */
static __always_inline void keep_stack(void *context, struct thread_record *thread, u64 now) {
  if (now - thread->stack_ns < kStackEveryNs) return;
  thread->stack_ns = now;
  const long bytes = bpf_get_stack(context, thread->stack, sizeof thread->stack, 0);
  thread->stack_depth = bytes > 0 ? (u32)bytes / sizeof thread->stack[0] : 0;
}

static __always_inline void leave(void *context, struct task_struct *prev, u32 tid, bool preempted,
                                  u32 core_id, u64 now) {
  struct thread_record *thread = find(tid);
  if (!thread) return;
  const enum activity is = preempted ? kWaiting : activity_of(state_of(prev));
  ++thread->begun;
  change(thread, kOnCpu, is, now);
  ++thread->switches;
  thread->core = core_id;
  thread->priority = prev->prio;
  bpf_core_read(thread->name, kNameBytes, &prev->comm);
  if (is == kWaiting) {
    begin_wait(thread, core_id, now);
  } else if (is != kDead) {
    keep_stack(context, thread, now);
  }
  thread->done = thread->begun;
}

static __always_inline void enter(u32 tid, u32 core_id, u64 now) {
  struct thread_record *thread = find(tid);
  if (!thread) return;
  ++thread->begun;
  change(thread, kWaiting, kOnCpu, now);
  thread->core = core_id;
  thread->done = thread->begun;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempted, struct task_struct *prev, struct task_struct *next) {
  const u64 now = bpf_ktime_get_ns();
  const u32 core_id = bpf_get_smp_processor_id();
  const u32 prev_tid = prev->pid;
  const u32 next_tid = next->pid;
  struct core *core = bpf_map_lookup_elem(&cores, &core_id);
  if (core) {
    if (core->since_ns) charge_waiters(core, core_id, now);
    core->since_ns = now;
    core->tid = next_tid;
    core->pid = next->tgid;
  }
  leave(ctx, prev, prev_tid, preempted, core_id, now);
  enter(next_tid, core_id, now);
  return 0;
}

/* Under the lock of the target's run queue, but not always in the waker's context: who woke is
 * on_waking's. */
static __always_inline int awake(struct task_struct *task) {
  struct thread_record *thread = find(task->pid);
  if (!thread || thread->activity == kOnCpu || thread->activity == kWaiting) return 0;
  const u64 now = bpf_ktime_get_ns();
  ++thread->begun;
  change(thread, slept_as(thread), kWaiting, now);
  begin_wait(thread, core_of(task), now);
  thread->done = thread->begun;
  return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup, struct task_struct *task) { return awake(task); }

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_wakeup_new, struct task_struct *task) { return awake(task); }

SEC("tp_btf/sched_waking")
int BPF_PROG(on_waking, struct task_struct *task) {
  struct thread_record *thread = find(task->pid);
  if (!thread) return 0;
  thread->waker_tid = (u32)bpf_get_current_pid_tgid();
  bpf_get_current_comm(thread->waker_name, kNameBytes);
  return 0;
}

SEC("tp_btf/sched_migrate_task")
int BPF_PROG(on_migrate, struct task_struct *task, int destination) {
  struct thread_record *thread = find(task->pid);
  if (!thread || thread->activity != kWaiting) return 0;
  begin_wait(thread, (u32)destination, bpf_ktime_get_ns());
  return 0;
}

/* A new record is copied from here: one does not fit a program's stack. */
const volatile __u64 zeros[sizeof(struct thread_record) / sizeof(__u64)] = {};

/* A new thread of a watched process. A new process is not watched: it is no rank. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child) {
  const u32 pid = child->tgid;
  if (!is_watched(pid)) return 0;
  const u32 tid = child->pid;
  if (bpf_map_update_elem(&threads, &tid, (const void *)zeros, BPF_ANY)) {
    count_drop();
    return 0;
  }
  struct thread_record *thread = find(tid);
  if (!thread) return 0;
  thread->pid = pid;
  thread->tid = tid;
  thread->priority = child->prio;
  bpf_core_read(thread->name, kNameBytes, &child->comm);
  thread->since_ns = bpf_ktime_get_ns();
  thread->activity = kSleeping; /* until on_wakeup_new */
  return 0;
}

char kLicense[] SEC("license") = "Dual BSD/GPL";
