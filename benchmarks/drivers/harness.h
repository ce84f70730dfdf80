/* What is the same for every library that is timed: the line to the orchestrator, pinning, buffers
 * and their contents, the barrier before each iteration, the clock.
 *
 * A driver (mpi.c, shoal.cc, direct.cc; Python ones through ctypes) is one process a rank. It joins
 * its library's job and hands its functions to harness_serve(), which obeys until told to quit:
 *
 *   hello NAME RANK RANKS VERSION              rank -> orchestrator, once
 *   start CORE SPIN BARRIER                    a core to run on; may waits spin; the barrier's file
 *   prepare OP BYTES BUFFER                    buffers for one cell of the table
 *   time BLOCK WARMUP REPETITIONS VERIFY       answered by `ok` and one time a repetition, in ns
 *   release | quit
 *
 * Each is answered by a line `ok ...` or `error TEXT`. Between commands a rank sleeps in read(), so
 * that the libraries of a run can take turns on the same cores.
 *
 * One repetition: fill the buffers, meet at the barrier, time a block of calls.
 */
#ifndef SHOAL_BENCH_HARNESS_H_
#define SHOAL_BENCH_HARNESS_H_

#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define BENCH_API __attribute__((visibility("default")))

enum op {
  BENCH_BARRIER,
  BENCH_BROADCAST, /* from rank 0 */
  BENCH_ALL_REDUCE,
  BENCH_ALL_GATHER,
  BENCH_REDUCE_SCATTER,
  BENCH_ALL_TO_ALL,
  BENCH_COPY,          /* out = in, every rank by itself */
  BENCH_ADD,           /* out = a + b, every rank by itself; a and b are the halves of in */
  BENCH_PING_PONG,     /* one cache line between ranks 0 and 1, one way */
  BENCH_TCP_PING_PONG, /* bytes over TCP between ranks r and r + ranks/2, one way */
  BENCH_TCP_STREAM,    /* bytes over TCP both ways at once */
  BENCH_OPS
};

/* One operation and its buffers. Elements are float32; a reduction is a sum. `bytes` is the largest
 * buffer, or the nearest that holds a whole number of elements for every rank, at least one. */
struct cell {
  enum op op;
  size_t bytes;
  char buffer[16]; /* "private..." and "ordinary" are allocated by the harness, others by the driver
                    */
  size_t count;    /* as the call takes it: of the whole vector, or of one rank's part */
  size_t in_count, out_count;
  float *in, *out;
};

struct library {
  const char *name, *version;
  int rank, ranks;
  /* Sets in and out if the buffer is of the driver's own kind. NULL, or why it cannot. */
  const char *(*prepare)(struct cell *);
  void (*release)(struct cell *);
  /* Nanoseconds of `block` calls back to back; negative if one failed. */
  int64_t (*time_block)(struct cell *, int64_t block);
};

/* Obeys until `quit`: 0; or until the orchestrator is gone: 1. */
BENCH_API int harness_serve(const char *socket_path, const struct library *library);

/* For a driver that waits by itself: how many turns to spin before yielding the core. */
extern int harness_spins;
BENCH_API void harness_check_deadline(int64_t since_ns);

static inline int64_t harness_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct patience {
  int turns;
  int64_t since_ns;
};

/* One turn of a wait: spins first, then yields; ends the process after a minute. */
static inline void harness_relax(struct patience *patience) {
  if (++patience->turns < harness_spins) {
#if defined(__x86_64__)
    _mm_pause();
#endif
    return;
  }
  if ((patience->turns & 0x3ff) == 0) {
    if (patience->since_ns == 0) patience->since_ns = harness_now_ns();
    harness_check_deadline(patience->since_ns);
  }
  sched_yield();
}

#ifdef __cplusplus
}
#endif

#endif /* SHOAL_BENCH_HARNESS_H_ */
