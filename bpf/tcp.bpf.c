/* TCP segments sent again, by connection and network namespace, of the whole machine: the sending
 * process is not the one that runs when a timer expires, so they cannot be told apart by process
 * here.
 */
#include <bpf/bpf_endian.h>

#include "shared.bpf.h"

enum { kIpv4 = 2, kIpv6 = 10 };

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, kMaxLinks);
  __type(key, struct link_key);
  __type(value, struct link_record);
} links SEC(".maps");

static __always_inline bool read_key(const struct sock *socket, struct link_key *key) {
  key->family = BPF_CORE_READ(socket, __sk_common.skc_family);
  key->local_port = BPF_CORE_READ(socket, __sk_common.skc_num);
  key->remote_port = bpf_ntohs(BPF_CORE_READ(socket, __sk_common.skc_dport));
  key->netns = BPF_CORE_READ(socket, __sk_common.skc_net.net, ns.inum);
  if (key->family == kIpv4) {
    bpf_core_read(key->local, 4, &socket->__sk_common.skc_rcv_saddr);
    bpf_core_read(key->remote, 4, &socket->__sk_common.skc_daddr);
    return true;
  }
  if (key->family != kIpv6) return false;
  bpf_core_read(key->local, 16, &socket->__sk_common.skc_v6_rcv_saddr);
  bpf_core_read(key->remote, 16, &socket->__sk_common.skc_v6_daddr);
  return true;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(on_retransmit, const struct sock *socket) {
  struct link_key key = {};
  if (!read_key(socket, &key)) return 0;
  const u64 now = bpf_ktime_get_ns();
  struct link_record *link = bpf_map_lookup_elem(&links, &key);
  if (link) {
    __sync_fetch_and_add(&link->retransmits, 1);
    link->lost_at_ns = now;
    return 0;
  }
  const struct link_record first = {.retransmits = 1, .lost_at_ns = now};
  if (bpf_map_update_elem(&links, &key, &first, BPF_NOEXIST)) count_drop();
  return 0;
}

char kLicense[] SEC("license") = "Dual BSD/GPL";
