/* Page faults of watched threads in user mode, minor and major alike (majors are in /proc). Memory
 * that the kernel touches for a thread, in a read() say, faults in kernel mode and is not counted.
 */
#include "shared.bpf.h"

SEC("tp_btf/page_fault_user")
int BPF_PROG(on_fault) {
  struct thread_record *thread = find_current();
  if (thread) ++thread->user_faults; /* has one writer, the thread */
  return 0;
}

char kLicense[] SEC("license") = "Dual BSD/GPL";
