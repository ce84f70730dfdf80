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
  kMaxThreads = 4096,
  kMaxCores = 1024,
  kMaxLinks = 1024,
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
};
static_assert(sizeof(struct thread_record) == 544, "shared with the kernel's side");

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
