/* Bytes by pairs of addresses, on the interfaces that the tracer attaches these to. Headers are
 * counted as the interface sees them; a segment that the card cuts into packets (GSO) counts once
 * in bytes, and as its packets.
 */
#include <bpf/bpf_endian.h>

#include "shared.bpf.h"

enum {
  kIpv4 = 2,
  kIpv6 = 10,
  kEtherIpv4 = 0x0800,
  kEtherIpv6 = 0x86DD,
  kGoOn = -1 /* TC_ACT_UNSPEC */
};

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, kMaxFlows);
  __type(key, struct flow_key);
  __type(value, struct flow_record);
} flows SEC(".maps");

/* Source and destination stand side by side in both headers: at byte 12 of the one, at byte 8 of
 * the other. */
static __always_inline bool read_addresses(struct __sk_buff *packet, struct flow_key *key,
                                           void *source, void *destination) {
  if (packet->protocol == bpf_htons(kEtherIpv4)) {
    key->family = kIpv4;
    return bpf_skb_load_bytes_relative(packet, 12, source, 4, BPF_HDR_START_NET) == 0 &&
           bpf_skb_load_bytes_relative(packet, 16, destination, 4, BPF_HDR_START_NET) == 0;
  }
  if (packet->protocol == bpf_htons(kEtherIpv6)) {
    key->family = kIpv6;
    return bpf_skb_load_bytes_relative(packet, 8, source, 16, BPF_HDR_START_NET) == 0 &&
           bpf_skb_load_bytes_relative(packet, 24, destination, 16, BPF_HDR_START_NET) == 0;
  }
  return false;
}

static __always_inline struct flow_record *flow_of(const struct flow_key *key) {
  struct flow_record *flow = bpf_map_lookup_elem(&flows, key);
  if (flow) return flow;
  const struct flow_record none = {};
  bpf_map_update_elem(&flows, key, &none, BPF_NOEXIST);
  flow = bpf_map_lookup_elem(&flows, key);
  if (!flow) count_drop();
  return flow;
}

static __always_inline void count_packets(struct flow_record *flow, struct __sk_buff *packet) {
  __sync_fetch_and_add(&flow->packets, packet->gso_segs > 1 ? packet->gso_segs : 1);
}

SEC("tc")
int egress(struct __sk_buff *packet) {
  struct flow_key key = {};
  if (!read_addresses(packet, &key, key.local, key.remote)) return kGoOn;
  struct flow_record *flow = flow_of(&key);
  if (!flow) return kGoOn;
  __sync_fetch_and_add(&flow->sent, packet->len);
  count_packets(flow, packet);
  return kGoOn;
}

SEC("tc")
int ingress(struct __sk_buff *packet) {
  struct flow_key key = {};
  if (!read_addresses(packet, &key, key.remote, key.local)) return kGoOn;
  struct flow_record *flow = flow_of(&key);
  if (!flow) return kGoOn;
  __sync_fetch_and_add(&flow->received, packet->len);
  count_packets(flow, packet);
  return kGoOn;
}

char kLicense[] SEC("license") = "Dual BSD/GPL";
