/* The few kernel types that the programs read, each with the few fields they read, and no offset
 * that holds on one machine only: `preserve_access_index` makes every access a relocation, which
 * libbpf resolves with the BTF of the kernel it loads into. This takes the place of a vmlinux.h,
 * whose 100,000 lines describe the machine it came from.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/types.h>
#include <stdbool.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;

/* Values of task_struct.__state (include/linux/sched.h), the same since 4.14. */
enum {
  kTaskInterruptible = 0x1,
  kTaskUninterruptible = 0x2,
  kTaskStopped = 0x4,
  kTaskTraced = 0x8,
  kTaskDead = 0x80,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct thread_info {
  u32 cpu;
};

struct task_struct {
  struct thread_info thread_info;
  unsigned int __state;
  int pid;
  int tgid;
  int prio;
  char comm[16];
};

/* Before 5.14 the state was signed and named otherwise; before 5.16 arm64 had the core beside
 * thread_info. */
struct task_struct___old {
  long state;
  unsigned int cpu;
};

struct kernel_siginfo {
  int si_code;
};

struct ns_common {
  unsigned int inum;
};

struct net {
  struct ns_common ns;
};

typedef struct {
  struct net *net;
} possible_net_t;

struct in6_addr;

struct sock_common {
  __be32 skc_daddr;
  __be32 skc_rcv_saddr;
  __be16 skc_dport;
  u16 skc_num;
  u16 skc_family;
  possible_net_t skc_net;
  struct {
    u8 bytes[16];
  } skc_v6_daddr, skc_v6_rcv_saddr;
};

struct sock {
  struct sock_common __sk_common;
  u16 sk_protocol;
};

#pragma clang attribute pop
