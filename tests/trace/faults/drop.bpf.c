// Loses TCP packets at a network interface, at random: a tc classifier with direct action.
// Compiled for each use with -DPERCENT=1..100 and -DPORT=N, a port of one connection, or 0
// for all connections.
// clang-format off: libbpf's headers need the types first
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
// clang-format on

static int is_meant(struct __sk_buff* skb) {
  struct iphdr ip;
  struct tcphdr tcp;
  if (skb->protocol != bpf_htons(ETH_P_IP)) return 0;
  if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof ip) < 0) return 0;
  if (ip.protocol != IPPROTO_TCP) return 0;
  if (PORT == 0) return 1;
  if (bpf_skb_load_bytes(skb, ETH_HLEN + ip.ihl * 4, &tcp, sizeof tcp) < 0) return 0;
  return tcp.source == bpf_htons(PORT) || tcp.dest == bpf_htons(PORT);
}

SEC("classifier") int drop(struct __sk_buff* skb) {
  if (!is_meant(skb)) return TC_ACT_OK;
  return bpf_get_prandom_u32() % 100 < PERCENT ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
