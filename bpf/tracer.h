/* What the programs in the kernel and the tracer beside them share: fixed-width structs, the same
 * bytes for clang's BPF target and for the C++ compiler. Plain C.
 */
#pragma once

#ifdef __cplusplus
#include <cstdint>
#else
typedef __u8 uint8_t;
typedef __u16 uint16_t;
typedef __u32 uint32_t;
typedef __u64 uint64_t;
typedef __s32 int32_t;
#define static_assert _Static_assert
#endif

enum {
  kNameBytes = 16,  /* TASK_COMM_LEN */
  kStackDepth = 16, /* innermost frames of a sleep */
  kPreemptors = 8,  /* heaviest others remembered for each thread */
  kWaitersOfACore =
      8, /* watched threads that can wait for one core and still be charged to somebody */
  kStackEveryNs = 10000000,
  kMaxThreads = 4096,
  kMaxCores = 1024,
  kMaxLinks = 1024,
  kMaxCalls = 16384, /* pairs of a thread and a system call */
  kMaxGroups = 256,  /* pairs of a process and a communicator */
  kInFlight = 64,    /* operations of one communicator whose begin is remembered */
  kLatencies = 64,   /* powers of two of nanoseconds */
  kMaxFlows = 4096,
  kMaxCgroups = 1024,
};

/* What a thread is doing. kUnread: it was there before us, and the scheduler has not said anything
 * about it yet. */
enum activity {
  kUnread,
  kOnCpu,
  kWaiting, /* runnable, another has the core */
  kSleeping,
  kUninterruptible,
  kStopped, /* by a signal or a debugger */
  kDead,
  kActivities,
};

/* Somebody who ran while a watched thread waited. */
struct preemptor {
  uint64_t ns;
  uint32_t pid;
  uint32_t tid;
  char name[kNameBytes];
};
static_assert(sizeof(struct preemptor) == 32, "shared with the kernel's side");

/* All that is known of one watched thread; key: its tid.
 *
 * It is read while it is written. `done` is stored last by a writer and `begun` first; the copy
 * goes upwards: if both are equal in a copy, no writer was at work between them. Writers are the
 * scheduler's events of one thread, which come one at a time; the fields after `begun` have writers
 * of their own and stand alone.
 */
struct thread_record {
  uint32_t done;
  uint32_t pid;
  uint32_t tid;
  uint32_t activity;
  uint64_t since_ns;
  uint64_t queued_ns; /* kWaiting: since when for this core */
  uint64_t spent_ns[kActivities];
  uint64_t switches;
  uint64_t stack_ns; /* the sleep that `stack` is of: its since_ns */
  uint32_t core;
  int32_t priority;
  char name[kNameBytes];
  struct preemptor preemptors[kPreemptors];
  uint32_t stack_depth;
  char first_state; /* kUnread: the letter that /proc had for it */
  uint8_t pad[3];
  uint64_t stack[kStackDepth];
  uint32_t begun;

  uint32_t waker_tid;
  char waker_name[kNameBytes];
  uint64_t user_faults;
  uint64_t call_since_ns; /* 0: in no system call */
  uint64_t call_event_ns; /* when it last went into one or came out */
  uint32_t call;
  uint8_t pad2[4];
};
static_assert(sizeof(struct thread_record) == 576, "shared with the kernel's side");

/* One core: who runs, since when, and which watched threads wait for it (0: none). */
struct core {
  uint64_t since_ns;
  uint32_t pid;
  uint32_t tid;
  uint32_t waiting[kWaitersOfACore];
};
static_assert(sizeof(struct core) == 48, "shared with the kernel's side");

struct link_key {
  uint8_t local[16]; /* IPv4: the first four bytes */
  uint8_t remote[16];
  uint16_t local_port;
  uint16_t remote_port;
  uint16_t family;
  uint16_t pad;
  uint32_t netns;
};
static_assert(sizeof(struct link_key) == 44, "shared with the kernel's side");

struct link_record {
  uint64_t retransmits;
  uint64_t lost_at_ns;
};
static_assert(sizeof(struct link_record) == 16, "shared with the kernel's side");

struct call_key {
  uint32_t tid;
  uint32_t call;
};
static_assert(sizeof(struct call_key) == 8, "shared with the kernel's side");

/* Has one writer, the thread. */
struct call_record {
  uint64_t count;
  uint64_t ns;
  uint64_t max_ns;
};
static_assert(sizeof(struct call_record) == 24, "shared with the kernel's side");

/* Operations of one rank in one communicator. */
struct group_key {
  uint32_t pid;
  uint32_t communicator;
};
static_assert(sizeof(struct group_key) == 8, "shared with the kernel's side");

struct group_record {
  uint64_t begun;
  uint64_t ended;
  uint64_t failed;
  uint64_t stalled;
  uint64_t ns_log2[kLatencies]; /* [i]: 2^i to 2^(i+1) ns */
};
static_assert(sizeof(struct group_record) == 544, "shared with the kernel's side");

/* Addresses of a packet, seen from the host that it leaves or reaches. */
struct flow_key {
  uint8_t local[16];
  uint8_t remote[16];
  uint16_t family;
  uint16_t pad;
};
static_assert(sizeof(struct flow_key) == 36, "shared with the kernel's side");

struct flow_record {
  uint64_t sent;
  uint64_t received;
  uint64_t packets;
};
static_assert(sizeof(struct flow_record) == 24, "shared with the kernel's side");

struct ucx_record {
  uint64_t sends;
  uint64_t receives;
  uint64_t bytes; /* sent */
};
static_assert(sizeof(struct ucx_record) == 24, "shared with the kernel's side");

/* A control group of version 2, and who in it. */
struct cgroup_key {
  uint64_t group;
  uint32_t is_rank; /* a watched process; 0: any other */
  uint32_t pad;
};
static_assert(sizeof(struct cgroup_key) == 16, "shared with the kernel's side");

/* Calls that carried something, of TCP sockets. */
struct cgroup_record {
  uint64_t sends;
  uint64_t sent_bytes;
  uint64_t receives;
  uint64_t received_bytes;
};
static_assert(sizeof(struct cgroup_record) == 32, "shared with the kernel's side");

enum event_kind { kSignalEvent = 1, kStallEvent, kErrorEvent };

/* The head of everything in the ring buffer. */
struct event {
  uint32_t kind;
  uint32_t pid;
  uint32_t tid;
  uint32_t pad;
  uint64_t time_ns;
};
static_assert(sizeof(struct event) == 24, "shared with the kernel's side");

struct signal_event {
  struct event head; /* pid, tid: who gets it */
  int32_t signal;
  int32_t code;
  int32_t result; /* 0 delivered, 1 ignored, 2 pending already, 3 and 4 the queue was full */
  uint32_t sender_pid;
  uint32_t sender_tid;
  uint32_t pad;
  char sender_name[kNameBytes];
};
static_assert(sizeof(struct signal_event) == 64, "shared with the kernel's side");

/* A stall or an error of an operation; `detail` is the awaited rank or the error's code. */
struct operation_event {
  struct event head;
  uint32_t communicator;
  uint32_t pad;
  uint64_t sequence;
  uint64_t detail;
};
static_assert(sizeof(struct operation_event) == 48, "shared with the kernel's side");
