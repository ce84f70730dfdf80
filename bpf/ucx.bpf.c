/* Messages of programs that use UCX without shoal: uprobes at the entry of its tagged sends and
 * receives. Both have the count as their third argument: bytes, unless the caller names another
 * datatype.
 */
#include "shared.bpf.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, kMaxThreads);
  __type(key, u32);
  __type(value, struct ucx_record);
} messages SEC(".maps");

static __always_inline struct ucx_record *record_of_current(void) {
  const u32 pid = bpf_get_current_pid_tgid() >> 32;
  if (!is_watched(pid)) return NULL;
  struct ucx_record *record = bpf_map_lookup_elem(&messages, &pid);
  if (record) return record;
  const struct ucx_record none = {};
  bpf_map_update_elem(&messages, &pid, &none, BPF_NOEXIST);
  record = bpf_map_lookup_elem(&messages, &pid);
  if (!record) count_drop();
  return record;
}

SEC("uprobe")
int BPF_KPROBE(ucp_tag_send_nbx, void *endpoint, void *buffer, u64 count) {
  struct ucx_record *record = record_of_current();
  if (!record) return 0;
  __sync_fetch_and_add(&record->sends, 1);
  __sync_fetch_and_add(&record->bytes, count);
  return 0;
}

SEC("uprobe")
int BPF_KPROBE(ucp_tag_recv_nbx) {
  struct ucx_record *record = record_of_current();
  if (record) __sync_fetch_and_add(&record->receives, 1);
  return 0;
}

char kLicense[] SEC("license") = "Dual BSD/GPL";
