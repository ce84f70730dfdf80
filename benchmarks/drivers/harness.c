#define _GNU_SOURCE
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
  kLineBytes = 256, /* of a command */
  kCacheLine = 64,
  kSpins = 1 << 16,      /* where every rank has a core: longer than any rank is late */
  kCrowdedSpins = 64,    /* where ranks share cores: whoever is awaited needs this one */
  kDeadlineSeconds = 60, /* of a wait; the orchestrator gives up earlier */
};

int harness_spins = kSpins;

static const char *const kOps[BENCH_OPS] = {
    "barrier", "broadcast", "all_reduce", "all_gather",    "reduce_scatter", "all_to_all",
    "copy",    "add",       "ping_pong",  "tcp_ping_pong", "tcp_stream",
};

struct flag {
  _Alignas(kCacheLine) _Atomic uint64_t value;
};

struct server {
  FILE *in;
  int fd;
  const struct library *library;
  struct flag *barrier; /* one flag a rank */
  uint64_t met;         /* how often the ranks have met there */
  int seed; /* of the buffers' contents: the same on all ranks, new in each repetition */
  struct cell cell;
  int prepared;
};

void harness_check_deadline(int64_t since_ns) {
  if (harness_now_ns() - since_ns < (int64_t)kDeadlineSeconds * 1000000000) return;
  fprintf(stderr, "harness: waited %d s for another rank; giving up\n", kDeadlineSeconds);
  _exit(1);
}

static void meet(struct server *s) {
  ++s->met;
  /* release: pairs with the acquire below, so that buffers are filled before anybody goes on */
  atomic_store_explicit(&s->barrier[s->library->rank].value, s->met, memory_order_release);
  for (int r = 0; r < s->library->ranks; ++r) {
    struct patience patience = {0, 0};
    while (atomic_load_explicit(&s->barrier[r].value, memory_order_acquire) < s->met)
      harness_relax(&patience);
  }
}

/* ---- contents: small integers, so that sums are exact in any order */

/* 0..7, without a period: an element in the wrong place shows (Knuth's multiplicative hash). */
static int ripple(size_t i) { return (int)((uint32_t)i * 2654435761u >> 29); }

static float pattern(int rank, int seed, size_t i) { return (float)(rank + seed + ripple(i)); }

static float total(int ranks, int seed, size_t i) {
  return (float)(ranks * (seed + ripple(i)) + ranks * (ranks - 1) / 2);
}

static void fill(struct server *s) {
  const struct cell *c = &s->cell;
  s->seed = s->seed % 16 + 1;
  for (size_t i = 0; i < c->in_count; ++i) c->in[i] = pattern(s->library->rank, s->seed, i);
  for (size_t i = 0; i < c->out_count; ++i) c->out[i] = -1.0f; /* what an earlier call left */
}

static float expected(const struct server *s, size_t i) {
  const struct cell *c = &s->cell;
  const int rank = s->library->rank, ranks = s->library->ranks;
  switch (c->op) {
    case BENCH_BROADCAST:
      return rank == 0 ? -1.0f : pattern(0, s->seed, i);
    case BENCH_ALL_REDUCE:
      return total(ranks, s->seed, i);
    case BENCH_ALL_GATHER:
      return pattern((int)(i / c->count), s->seed, i % c->count);
    case BENCH_REDUCE_SCATTER:
      return total(ranks, s->seed, (size_t)rank * c->count + i);
    case BENCH_ALL_TO_ALL:
      return pattern((int)(i / c->count), s->seed, (size_t)rank * c->count + i % c->count);
    case BENCH_COPY:
      return pattern(rank, s->seed, i);
    case BENCH_ADD:
      return pattern(rank, s->seed, i) + pattern(rank, s->seed, i + c->count);
    case BENCH_TCP_PING_PONG:
    case BENCH_TCP_STREAM:
      return pattern((rank + ranks / 2) % ranks, s->seed, i);
    default:
      return 0;
  }
}

/* The first element that is wrong, or -1. */
static int64_t find_wrong(const struct server *s) {
  for (size_t i = 0; i < s->cell.out_count; ++i)
    if (s->cell.out[i] != expected(s, i)) return (int64_t)i;
  return -1;
}

/* ---- buffers */

static void shape(struct cell *c, int ranks) {
  const size_t elements = c->bytes / sizeof(float);
  const size_t part = elements / ranks > 0 ? elements / ranks : 1;
  const size_t whole = elements > 0 ? elements : 1;
  switch (c->op) {
    case BENCH_BARRIER:
    case BENCH_PING_PONG:
      c->count = c->in_count = c->out_count = 0;
      return;
    case BENCH_ALL_GATHER:
      c->count = c->in_count = part, c->out_count = part * ranks;
      return;
    case BENCH_REDUCE_SCATTER:
      c->count = c->out_count = part, c->in_count = part * ranks;
      return;
    case BENCH_ALL_TO_ALL:
      c->count = part, c->in_count = c->out_count = part * ranks;
      return;
    case BENCH_ADD:
      c->count = c->out_count = whole, c->in_count = 2 * whole;
      return;
    default:
      c->count = c->in_count = c->out_count = whole;
      return;
  }
}

static int is_ours(const struct cell *c) {
  return strncmp(c->buffer, "private", 7) == 0 || strcmp(c->buffer, "ordinary") == 0;
}

/* Page-aligned, as an allocator of large arrays gives it: 16 bytes past a page, where malloc puts
 * them, glibc's memcpy is 8 times slower on some AMD processors (sourceware bug 30994). */
static float *allocate(size_t count) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const size_t bytes = (count * sizeof(float) + page) / page * page;
  return aligned_alloc(page, bytes);
}

static void release(struct server *s) {
  if (!s->prepared) return;
  s->prepared = 0;
  s->library->release(&s->cell);
  if (!is_ours(&s->cell)) return;
  free(s->cell.in);
  free(s->cell.out);
}

static const char *prepare(struct server *s, const char *op, size_t bytes, const char *buffer) {
  release(s);
  struct cell *c = &s->cell;
  memset(c, 0, sizeof *c);
  while (c->op < BENCH_OPS && strcmp(kOps[c->op], op) != 0) ++c->op;
  if (c->op == BENCH_OPS) return "no such operation";
  c->bytes = bytes;
  snprintf(c->buffer, sizeof c->buffer, "%s", buffer);
  shape(c, s->library->ranks);
  if (is_ours(c)) {
    c->in = allocate(c->in_count);
    c->out = allocate(c->out_count);
    if (!c->in || !c->out) return "out of memory";
  }
  const char *refusal = s->library->prepare(c);
  s->prepared = refusal == NULL;
  if (s->prepared) fill(s); /* touched before anything is timed */
  return refusal;
}

/* ---- commands */

static void answer_times(const struct server *s, const int64_t *times, int repetitions) {
  FILE *out = fdopen(dup(s->fd), "w");
  if (!out) _exit(1);
  fputs("ok", out);
  for (int i = 0; i < repetitions; ++i) fprintf(out, " %lld", (long long)times[i]);
  fputs("\n", out);
  fclose(out);
}

static void run(struct server *s, int64_t block, int warmup, int repetitions, int verify) {
  int64_t *times = calloc((size_t)repetitions + 1, sizeof *times);
  if (!times) _exit(1);
  int64_t failed = 0;
  for (int i = -warmup; i < repetitions && !failed; ++i) {
    fill(s);
    meet(s);
    const int64_t elapsed = s->library->time_block(&s->cell, block);
    failed = elapsed < 0;
    if (i >= 0) times[i] = elapsed;
  }
  const int64_t wrong = verify && !failed ? find_wrong(s) : -1;
  if (failed)
    dprintf(s->fd, "error %s failed\n", kOps[s->cell.op]);
  else if (wrong >= 0)
    dprintf(s->fd, "error wrong result: element %lld is %g, not %g\n", (long long)wrong,
            s->cell.out[wrong], expected(s, (size_t)wrong));
  else
    answer_times(s, times, repetitions);
  free(times);
}

/* All threads of the process: a library's helpers have no core beside the rank's. */
static int pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  DIR *tasks = opendir("/proc/self/task");
  if (!tasks) return -1;
  int result = 0;
  for (const struct dirent *task; (task = readdir(tasks)) != NULL;) {
    const int id = atoi(task->d_name); /* 0: "." and ".." */
    if (id > 0 && sched_setaffinity(id, sizeof set, &set) != 0) result = -1;
  }
  closedir(tasks);
  return result;
}

static const char *start(struct server *s, int core, int spin, const char *path) {
  if (pin(core) != 0) return strerror(errno);
  harness_spins = spin ? kSpins : kCrowdedSpins;
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return strerror(errno);
  void *memory = mmap(NULL, sizeof(struct flag) * s->library->ranks, PROT_READ | PROT_WRITE,
                      MAP_SHARED, fd, 0);
  close(fd);
  if (memory == MAP_FAILED) return strerror(errno);
  s->barrier = memory;
  return NULL;
}

static void answer(const struct server *s, const char *refusal) {
  if (refusal)
    dprintf(s->fd, "error %s\n", refusal);
  else
    dprintf(s->fd, "ok\n");
}

/* 0: quit. */
static int obey(struct server *s, const char *line) {
  char word[kLineBytes], buffer[sizeof s->cell.buffer];
  size_t bytes;
  int64_t block;
  int a, b, c;
  if (sscanf(line, "start %d %d %255s", &a, &b, word) == 3)
    answer(s, start(s, a, b, word));
  else if (sscanf(line, "prepare %255s %zu %15s", word, &bytes, buffer) == 3)
    answer(s, prepare(s, word, bytes, buffer));
  else if (s->prepared && s->barrier && sscanf(line, "time %ld %d %d %d", &block, &a, &b, &c) == 4)
    run(s, block, a, b, c);
  else if (strcmp(line, "release\n") == 0)
    release(s), answer(s, NULL);
  else if (strcmp(line, "quit\n") == 0)
    return 0;
  else
    answer(s, "no such command, or not now");
  return 1;
}

int harness_serve(const char *socket_path, const struct library *library) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
  struct server s = {.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), .library = library};
  if (s.fd < 0 || connect(s.fd, (struct sockaddr *)&address, sizeof address) != 0) {
    perror(socket_path);
    return 1;
  }
  s.in = fdopen(s.fd, "r");
  if (!s.in) return 1;
  dprintf(s.fd, "hello %s %d %d %s\n", library->name, library->rank, library->ranks,
          library->version);
  char line[kLineBytes];
  while (fgets(line, sizeof line, s.in)) {
    if (obey(&s, line)) continue;
    release(&s);
    fclose(s.in);
    return 0;
  }
  return 1;
}
