// What the machine can do at all: the operations as bare loops, without a library.
// direct SOCKET NAME RANK RANKS MEMORY [ADDRESS]
//
// All ranks map one file and keep their buffers in it, so everybody reads and writes everybody's.
// There is no matching, no error handling, no choice of algorithm, nothing but the operation:
//
//   small   each rank copies its input into a slot of its own and raises the slot's flag; everybody
//           reads all slots. What fits is in the flag's own cache line.
//   large   raise a flag, await all flags, work straight on the others' buffers, and once more, so
//           that nobody returns while he is read. Each rank does an equal share.
//
// With "-stream" buffers results are stored past the caches: which is faster depends on the
// machine. With an address, that of the first half of the ranks, there is also bare TCP between
// rank r and r + ranks/2.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "harness.h"

namespace {

constexpr size_t kCacheLine = 64;
constexpr size_t kPage = 4096;
// Above these, copying costs more than a second round of flags. A broadcast's root runs ahead.
constexpr size_t kSlotBytes = 512, kRingBytes = 2048;
constexpr int kRing = 8;  // how many small broadcasts the root may run ahead
constexpr int kMaxRanks = 64;

using Flag = std::atomic<uint64_t>;

struct alignas(kCacheLine) Line {
  Flag flag;
};

struct alignas(kCacheLine) Slot {
  Flag sequence;
  std::byte near[kCacheLine - sizeof(Flag)];
  std::byte far[kRingBytes];

  float* payload(size_t bytes) {
    return reinterpret_cast<float*>(bytes <= sizeof near ? near : far);
  }
};

/// One rank's part of the memory: this first, then its buffers.
struct Control {
  Line phase;             // how many phases of large operations this rank has reached
  Line consumed;          // how many small broadcasts this rank has read
  Line ball;              // of the ping-pong
  std::atomic<int> port;  // where this rank listens
  Slot slots[2];          // two: a rank is at most one small operation ahead of another
  Slot ring[kRing];       // a broadcast's root waits for nobody, until the ring is full
};

size_t page_up(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

std::byte* memory = nullptr;
size_t rank_bytes = 0;
int rank = 0, ranks = 0;

Control& control(int r) { return *reinterpret_cast<Control*>(memory + r * rank_bytes); }
float* in_of(int r) {
  return reinterpret_cast<float*>(memory + r * rank_bytes + page_up(sizeof(Control)));
}
float* out_of(const cell& c, int r) { return in_of(r) + page_up(c.in_count * sizeof(float)) / 4; }

/// release: pairs with the acquire in await(); what was written before is seen after it.
void raise(Flag& flag, uint64_t value) { flag.store(value, std::memory_order_release); }
void await(const Flag& flag, uint64_t value) {
  patience turns{};
  while (flag.load(std::memory_order_acquire) < value) harness_relax(&turns);
}

// ---- loops over memory

#if defined(__AVX512F__)
constexpr size_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr size_t kVectorBytes = 32;
#else
constexpr size_t kVectorBytes = 16;
#endif
constexpr size_t kWidth = kVectorBytes / sizeof(float);
typedef float Vector __attribute__((vector_size(kVectorBytes), aligned(sizeof(float)), may_alias));

inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }

/// A store past the caches, where the processor has one; `to` is aligned to a vector.
inline void stream(float* to, Vector value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, value);
#elif defined(__AVX__)
  _mm256_stream_ps(to, value);
#elif defined(__SSE__)
  _mm_stream_ps(to, value);
#else
  store(to, value);
#endif
}

bool is_aligned(const float* p) { return reinterpret_cast<uintptr_t>(p) % kVectorBytes == 0; }

using Inputs = const float* const*;
using Outputs = float* const*;

/// out[o][i] = in[0][i] + in[1][i] + ... for every o. kInputs = 0: as many as `inputs` says.
template <int kInputs, bool kStream>
void fold_as(Inputs in, int inputs, Outputs out, int outputs, size_t count) {
  const int terms = kInputs ? kInputs : inputs;
  size_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    Vector sum = *reinterpret_cast<const Vector*>(in[0] + i);
    for (int k = 1; k < terms; ++k) sum += *reinterpret_cast<const Vector*>(in[k] + i);
    for (int o = 0; o < outputs; ++o) kStream ? stream(out[o] + i, sum) : store(out[o] + i, sum);
  }
  for (; i < count; ++i) {
    float sum = in[0][i];
    for (int k = 1; k < terms; ++k) sum += in[k][i];
    for (int o = 0; o < outputs; ++o) out[o][i] = sum;
  }
}

template <bool kStream>
void fold_by_inputs(Inputs in, int inputs, Outputs out, int outputs, size_t count) {
  switch (inputs) {
    case 1:
      return fold_as<1, kStream>(in, inputs, out, outputs, count);
    case 2:
      return fold_as<2, kStream>(in, inputs, out, outputs, count);
    case 4:
      return fold_as<4, kStream>(in, inputs, out, outputs, count);
    default:
      return fold_as<0, kStream>(in, inputs, out, outputs, count);
  }
}

bool streams = false;  // of the cell that is prepared

void fold(Inputs in, int inputs, Outputs out, int outputs, size_t count) {
  if (!streams || !std::all_of(out, out + outputs, is_aligned))
    return fold_by_inputs<false>(in, inputs, out, outputs, count);
  fold_by_inputs<true>(in, inputs, out, outputs, count);
#if defined(__x86_64__)
  _mm_sfence();  // streamed stores are ordered by nothing else, not even by a release
#endif
}

void copy(float* to, const float* from, size_t count) {
  if (streams)
    fold(&from, 1, &to, 1, count);
  else
    std::memcpy(to, from, count * sizeof(float));
}

// ---- small operations: one round of flags

uint64_t sequence = 0;    // of small operations; the same on all ranks
uint64_t broadcasts = 0;  // of small broadcasts
uint64_t credit = 0;      // up to this one all have read

void small_broadcast(const cell& c) {
  const size_t bytes = c.count * sizeof(float);
  Slot& slot = control(0).ring[++broadcasts % kRing];
  if (rank != 0) {
    await(slot.sequence, broadcasts);
    std::memcpy(c.out, slot.payload(bytes), bytes);
    return raise(control(rank).consumed.flag, broadcasts);
  }
  if (broadcasts > credit + kRing) {
    credit = broadcasts;
    for (int r = 1; r < ranks; ++r) {
      await(control(r).consumed.flag, broadcasts - kRing);
      // acquire: pairs with the release above
      credit = std::min(credit, control(r).consumed.flag.load(std::memory_order_acquire));
    }
  }
  std::memcpy(slot.payload(bytes), c.in, bytes);
  raise(slot.sequence, broadcasts);
}

/// Shows my input to all and waits for theirs: afterwards slot(r) holds rank r's.
void exchange(const cell& c) {
  const size_t bytes = c.in_count * sizeof(float);
  Slot& mine = control(rank).slots[++sequence % 2];
  std::memcpy(mine.payload(bytes), c.in, bytes);
  raise(mine.sequence, sequence);
  for (int r = 0; r < ranks; ++r) await(control(r).slots[sequence % 2].sequence, sequence);
}

const float* slot(const cell& c, int r) {
  return control(r).slots[sequence % 2].payload(c.in_count * sizeof(float));
}

void fold_slots(const cell& c, size_t offset) {
  const float* in[kMaxRanks];
  for (int r = 0; r < ranks; ++r) in[r] = slot(c, r) + offset;
  fold(in, ranks, &c.out, 1, c.count);
}

void collect_slots(const cell& c, size_t offset) {
  for (int r = 0; r < ranks; ++r)
    std::memcpy(c.out + r * c.count, slot(c, r) + offset, c.count * sizeof(float));
}

void small(const cell& c) {
  if (c.op == BENCH_BROADCAST) return small_broadcast(c);
  exchange(c);
  switch (c.op) {
    case BENCH_ALL_REDUCE:
      return fold_slots(c, 0);
    case BENCH_REDUCE_SCATTER:
      return fold_slots(c, rank * c.count);
    case BENCH_ALL_GATHER:
      return collect_slots(c, 0);
    case BENCH_ALL_TO_ALL:
      return collect_slots(c, rank * c.count);
    default:
      return;
  }
}

// ---- large operations: two rounds of flags around straight loops

uint64_t phases = 0;

void meet() {
  raise(control(rank).phase.flag, ++phases);
  for (int r = 0; r < ranks; ++r) await(control(r).phase.flag, phases);
}

struct Slice {
  size_t begin, count;
};

/// This rank's share of [0, count), whole cache lines of it.
Slice share(size_t count) {
  constexpr size_t kLine = kCacheLine / sizeof(float);
  const size_t each = (count / ranks + kLine - 1) / kLine * kLine;
  const size_t begin = std::min(rank * each, count);
  return {begin, rank == ranks - 1 ? count - begin : std::min(each, count - begin)};
}

// Up to this size each rank folds into its own output and copies that to the others: memcpy writes
// lines that another core holds without fetching them first, which is worth 1.6x up to here.
constexpr size_t kPushBytes = 64 << 10;

/// Each rank folds its share of all inputs and stores it into all outputs.
void large_all_reduce(const cell& c) {
  const Slice mine = share(c.count);
  const float* in[kMaxRanks];
  float* out[kMaxRanks];
  for (int r = 0; r < ranks; ++r) {
    in[r] = in_of(r) + mine.begin;
    out[r] = out_of(c, r) + mine.begin;
  }
  if (c.bytes > kPushBytes) return fold(in, ranks, out, ranks, mine.count);
  fold(in, ranks, &out[rank], 1, mine.count);
  for (int r = 0; r < ranks; ++r)
    if (r != rank) copy(out[r], out[rank], mine.count);
}

/// Each rank, the root too, carries its share to all but the root.
void large_broadcast(const cell& c) {
  const Slice mine = share(c.count);
  for (int r = 1; r < ranks; ++r)
    copy(out_of(c, r) + mine.begin, in_of(0) + mine.begin, mine.count);
}

void large_reduce_scatter(const cell& c) {
  const float* in[kMaxRanks];
  for (int r = 0; r < ranks; ++r) in[r] = in_of(r) + rank * c.count;
  fold(in, ranks, &c.out, 1, c.count);
}

void collect(const cell& c, size_t offset) {
  for (int k = 0; k < ranks; ++k) {
    const int r = (rank + k) % ranks;  // everybody reads from another one first
    copy(c.out + r * c.count, in_of(r) + offset, c.count);
  }
}

void large(const cell& c) {
  meet();
  switch (c.op) {
    case BENCH_BROADCAST:
      large_broadcast(c);
      break;
    case BENCH_ALL_REDUCE:
      large_all_reduce(c);
      break;
    case BENCH_REDUCE_SCATTER:
      large_reduce_scatter(c);
      break;
    case BENCH_ALL_GATHER:
      collect(c, 0);
      break;
    default:
      collect(c, rank * c.count);
      break;
  }
  meet();
}

// ---- floors

uint64_t hits = 0;

void ping_pong() {
  ++hits;
  if (rank > 1) return;
  if (rank == 1) await(control(0).ball.flag, hits);
  raise(control(rank).ball.flag, hits);
  if (rank == 0) await(control(1).ball.flag, hits);
}

void add(const cell& c) {
  const float* in[] = {c.in, c.in + c.count};
  fold(in, 2, &c.out, 1, c.count);
}

const char* address = nullptr;
int peer = -1;  // socket to the rank on the other side

bool connect_peer() {
  const int half = ranks / 2;
  sockaddr_in where{};
  where.sin_family = AF_INET;
  socklen_t length = sizeof where;
  if (inet_pton(AF_INET, address, &where.sin_addr) != 1) return false;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  auto* name = reinterpret_cast<sockaddr*>(&where);
  if (rank < half) {
    if (bind(fd, name, length) != 0 || listen(fd, 1) != 0) return false;
    getsockname(fd, name, &length);
    control(rank).port.store(where.sin_port, std::memory_order_release);  // pairs with the acquire
    peer = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
    close(fd);
  } else {
    patience turns{};
    while ((where.sin_port = control(rank - half).port.load(std::memory_order_acquire)) == 0)
      harness_relax(&turns);
    peer = connect(fd, name, length) == 0 ? fd : -1;
  }
  const int on = 1;
  return peer >= 0 && setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0;
}

/// Sends and receives at once, without ever sleeping; either may be of no bytes.
bool transfer(const float* from, size_t to_send, float* to, size_t to_receive) {
  auto* source = reinterpret_cast<const char*>(from);
  auto* target = reinterpret_cast<char*>(to);
  patience turns{};
  while (to_send + to_receive > 0) {
    const ssize_t sent = to_send ? send(peer, source, to_send, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (sent > 0) source += sent, to_send -= sent;
    const ssize_t got = to_receive ? recv(peer, target, to_receive, MSG_DONTWAIT) : 0;
    if (got > 0) target += got, to_receive -= got;
    if (to_receive && got == 0) return false;
    if ((sent < 0 || got < 0) && errno != EAGAIN) return false;
    if (sent <= 0 && got <= 0) harness_relax(&turns);
  }
  return true;
}

bool tcp_ping_pong(const cell& c) {
  const size_t bytes = c.count * sizeof(float);
  if (rank < ranks / 2)
    return transfer(c.in, bytes, nullptr, 0) && transfer(nullptr, 0, c.out, bytes);
  return transfer(nullptr, 0, c.out, bytes) && transfer(c.in, bytes, nullptr, 0);
}

// ---- driver

template <typename Call>
int64_t time_calls(int64_t block, Call call) {
  const int64_t start = harness_now_ns();
  for (int64_t i = 0; i < block; ++i) call();
  return harness_now_ns() - start;
}

int64_t time_block(cell* c, int64_t block) {
  bool good = true;
  const size_t bytes = c->count * sizeof(float);
  switch (c->op) {
    case BENCH_COPY:
      return time_calls(block, [&] { copy(c->out, c->in, c->count); });
    case BENCH_ADD:
      return time_calls(block, [&] { add(*c); });
    case BENCH_PING_PONG:
      return time_calls(block, ping_pong) / 2;
    case BENCH_TCP_PING_PONG: {
      const int64_t elapsed = time_calls(block, [&] { good = good && tcp_ping_pong(*c); });
      return good ? elapsed / 2 : -1;
    }
    case BENCH_TCP_STREAM: {
      const int64_t elapsed =
          time_calls(block, [&] { good = good && transfer(c->in, bytes, c->out, bytes); });
      return good ? elapsed : -1;
    }
    default:
      break;
  }
  const size_t most = c->op == BENCH_BROADCAST ? kRingBytes : kSlotBytes;
  if (c->in_count * sizeof(float) <= most) return time_calls(block, [&] { small(*c); });
  return time_calls(block, [&] { large(*c); });
}

const char* prepare(cell* c) {
  const bool shared = std::strncmp(c->buffer, "shared", 6) == 0;
  streams = std::strstr(c->buffer, "-stream") != nullptr;
  if (c->op >= BENCH_COPY && shared) return "a floor has no shared buffers";
  if (c->op < BENCH_COPY && !shared) return "only shared buffers";
  if (c->op >= BENCH_TCP_PING_PONG && !address) return "no network";
  if (c->op >= BENCH_TCP_PING_PONG && peer < 0 && !connect_peer()) return "cannot connect";
  if (!shared) return nullptr;
  c->in = in_of(rank);
  c->out = out_of(*c, rank);
  const auto* end = reinterpret_cast<std::byte*>(c->out + c->out_count);
  return end <= memory + (rank + 1) * rank_bytes ? nullptr : "the shared memory is too small";
}

void release(cell*) {}

bool map_memory(const char* path) {
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  struct stat status{};
  if (fd < 0 || fstat(fd, &status) != 0) return false;
  rank_bytes = static_cast<size_t>(status.st_size) / ranks / kPage * kPage;
  void* mapped = mmap(nullptr, rank_bytes * ranks, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  memory = static_cast<std::byte*>(mapped);
  return mapped != MAP_FAILED && rank_bytes > sizeof(Control);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6 && argc != 7) {
    std::fprintf(stderr, "usage: direct SOCKET NAME RANK RANKS MEMORY [ADDRESS]\n");
    return 2;
  }
  rank = std::atoi(argv[3]);
  ranks = std::atoi(argv[4]);
  address = argv[6];
  if (ranks < 1 || ranks > kMaxRanks || rank < 0 || rank >= ranks || !map_memory(argv[5])) {
    std::fprintf(stderr, "direct: rank %d of %d cannot use %s\n", rank, ranks, argv[5]);
    return 1;
  }
  const library direct{.name = argv[2],
                       .version = "-",
                       .rank = rank,
                       .ranks = ranks,
                       .prepare = prepare,
                       .release = release,
                       .time_block = time_block};
  return harness_serve(argv[1], &direct);
}
