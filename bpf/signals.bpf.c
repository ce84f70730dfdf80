/* Who sends which signal to a watched process. A signal is rare: each becomes one event in the ring
 * buffer. */
#include "shared.bpf.h"

/* `info` is 0 for a signal that a process sent without saying more, 1 for one of the kernel's own.
 */
static __always_inline int code_of(const struct kernel_siginfo *info) {
  if ((unsigned long)info == 0) return 0;    /* SI_USER */
  if ((unsigned long)info == 1) return 0x80; /* SI_KERNEL */
  return BPF_CORE_READ(info, si_code);
}

SEC("tp_btf/signal_generate")
int BPF_PROG(on_signal, int signal, struct kernel_siginfo *info, struct task_struct *task,
             int group, int result) {
  const u32 pid = task->tgid;
  if (!is_watched(pid)) return 0;
  struct signal_event *event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
  if (!event) {
    count_drop();
    return 0;
  }
  const u64 sender = bpf_get_current_pid_tgid();
  event->head.kind = kSignalEvent;
  event->head.pid = pid;
  event->head.tid = task->pid;
  event->head.pad = 0;
  event->head.time_ns = bpf_ktime_get_ns();
  event->signal = signal;
  event->code = code_of(info);
  event->result = result;
  event->sender_pid = sender >> 32;
  event->sender_tid = (u32)sender;
  event->pad = 0;
  bpf_get_current_comm(event->sender_name, kNameBytes);
  bpf_ringbuf_submit(event, 0);
  return 0;
}

char kLicense[] SEC("license") = "Dual BSD/GPL";
