/* Maps that all objects have in common: the tracer makes each once and gives it to all of them. */
#pragma once

// clang-format off: libbpf's headers need the types first
#include "kernel_types.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "tracer.h"
// clang-format on

/* Processes that are watched, by tgid. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, kMaxThreads);
  __type(key, u32);
  __type(value, u32);
} watched SEC(".maps");

/* Their threads, by tid. A thread that is not in here costs an event one look-up. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, kMaxThreads);
  __type(key, u32);
  __type(value, struct thread_record);
} threads SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 256 * 1024);
} events SEC(".maps");

/* What could not be written down: a full ring buffer or map. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, u32);
  __type(value, u64);
} drops SEC(".maps");

static __always_inline void count_drop(void) {
  const u32 zero = 0;
  u64 *count = bpf_map_lookup_elem(&drops, &zero);
  if (count) ++*count;
}

static __always_inline struct thread_record *find(u32 tid) {
  return bpf_map_lookup_elem(&threads, &tid);
}

static __always_inline struct thread_record *find_current(void) {
  return find((u32)bpf_get_current_pid_tgid());
}

static __always_inline bool is_watched(u32 tgid) {
  return bpf_map_lookup_elem(&watched, &tgid) != NULL;
}
