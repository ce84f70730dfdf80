/* What the sockets of the ranks' control groups carry: each send and receive of a TCP socket, by
 * the version 2 group of the process that makes the call, and apart for ranks and for the others
 * that are in their group. Attaching costs every send and receive of the machine a detour: only
 * where it is asked for.
 */
#include "shared.bpf.h"

enum { kTcpProtocol = 6, kPeek = 2 /* MSG_PEEK */ };

/* Groups that a watched process is in, by their id. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, kMaxCgroups);
  __type(key, u64);
  __type(value, u32);
} groups SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, kMaxCgroups);
  __type(key, struct cgroup_key);
  __type(value, struct cgroup_record);
} carried SEC(".maps");

/* NULL: not counted. A rank's group is counted from its first call on, the others of it from when
 * the tracer has told of it. */
static __always_inline struct cgroup_record *record_of(const struct sock *socket) {
  if (socket->sk_protocol != kTcpProtocol) return NULL;
  struct cgroup_key key = {.group = bpf_get_current_cgroup_id()};
  key.is_rank = is_watched(bpf_get_current_pid_tgid() >> 32);
  if (!key.is_rank && !bpf_map_lookup_elem(&groups, &key.group)) return NULL;
  struct cgroup_record *record = bpf_map_lookup_elem(&carried, &key);
  if (record) return record;
  const struct cgroup_record none = {};
  bpf_map_update_elem(&carried, &key, &none, BPF_NOEXIST);
  record = bpf_map_lookup_elem(&carried, &key);
  if (!record) count_drop();
  return record;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(on_send, const struct sock *socket, int bytes) {
  if (bytes <= 0) return 0; /* an error, or nothing */
  struct cgroup_record *record = record_of(socket);
  if (!record) return 0;
  __sync_fetch_and_add(&record->sends, 1);
  __sync_fetch_and_add(&record->sent_bytes, bytes);
  return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(on_receive, const struct sock *socket, int bytes, int flags) {
  if (bytes <= 0 || (flags & kPeek)) return 0;
  struct cgroup_record *record = record_of(socket);
  if (!record) return 0;
  __sync_fetch_and_add(&record->receives, 1);
  __sync_fetch_and_add(&record->received_bytes, bytes);
  return 0;
}

char kLicense[] SEC("license") = "Dual BSD/GPL";
