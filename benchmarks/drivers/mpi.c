/* An MPI library, whichever it is compiled with: mpi SOCKET NAME. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"

static MPI_Comm node = MPI_COMM_NULL;
static MPI_Win window = MPI_WIN_NULL;

/* "window": the library's own shared memory, MPI-3's MPI_Win_allocate_shared. */
static const char *prepare(struct cell *c) {
  if (strcmp(c->buffer, "private") == 0) return NULL;
  if (strcmp(c->buffer, "window") != 0) return "no such buffer";
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const size_t in_bytes = (c->in_count * sizeof(float) + page - 1) / page * page;
  MPI_Info info;
  MPI_Info_create(&info);
  MPI_Info_set(info, "alloc_shared_noncontig", "true"); /* each rank's part begins on a page */
  const int result = MPI_Win_allocate_shared((MPI_Aint)(in_bytes + c->out_count * sizeof(float)), 1,
                                             info, node, &c->in, &window);
  MPI_Info_free(&info);
  if (result != MPI_SUCCESS) return "MPI_Win_allocate_shared failed";
  c->out = (float *)((char *)c->in + in_bytes);
  return NULL;
}

static void release(struct cell *c) {
  (void)c;
  if (window != MPI_WIN_NULL) MPI_Win_free(&window);
}

static int rank;

static int64_t time_block(struct cell *c, int64_t block) {
  const int n = (int)c->count;
  int result = MPI_SUCCESS;
  const int64_t start = harness_now_ns();
  switch (c->op) {
    case BENCH_BARRIER:
      for (int64_t i = 0; i < block; ++i) result |= MPI_Barrier(MPI_COMM_WORLD);
      break;
    case BENCH_BROADCAST: {
      float *buffer = rank == 0 ? c->in : c->out;
      for (int64_t i = 0; i < block; ++i)
        result |= MPI_Bcast(buffer, n, MPI_FLOAT, 0, MPI_COMM_WORLD);
      break;
    }
    case BENCH_ALL_REDUCE:
      for (int64_t i = 0; i < block; ++i)
        result |= MPI_Allreduce(c->in, c->out, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      break;
    case BENCH_ALL_GATHER:
      for (int64_t i = 0; i < block; ++i)
        result |= MPI_Allgather(c->in, n, MPI_FLOAT, c->out, n, MPI_FLOAT, MPI_COMM_WORLD);
      break;
    case BENCH_REDUCE_SCATTER:
      for (int64_t i = 0; i < block; ++i)
        result |= MPI_Reduce_scatter_block(c->in, c->out, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      break;
    case BENCH_ALL_TO_ALL:
      for (int64_t i = 0; i < block; ++i)
        result |= MPI_Alltoall(c->in, n, MPI_FLOAT, c->out, n, MPI_FLOAT, MPI_COMM_WORLD);
      break;
    default:
      return -1;
  }
  const int64_t elapsed = harness_now_ns() - start;
  return result == MPI_SUCCESS ? elapsed : -1;
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: mpi SOCKET NAME\n");
    return 2;
  }
  MPI_Init(&argc, &argv);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  char version[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(version, &length);
  version[strcspn(version, ",\n")] = '\0'; /* the rest tells how it was built */
  struct library library = {.name = argv[2],
                            .version = version,
                            .prepare = prepare,
                            .release = release,
                            .time_block = time_block};
  MPI_Comm_rank(MPI_COMM_WORLD, &library.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &library.ranks);
  rank = library.rank;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  if (harness_serve(argv[1], &library) != 0) _exit(1); /* nobody left to finalize with */
  MPI_Comm_free(&node);
  MPI_Finalize();
  return 0;
}
