// A program of somebody who uses NCCL: written against NCCL's own header, with buffers in host
// memory, which only shoal's libnccl.so.2 moves. program MODE FILE: FILE is where rank 0 leaves the
// unique id.
#include <cuda.h>
#include <dlfcn.h>
#include <nccl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#define REQUIRE(condition)                                                        \
  do {                                                                            \
    if (!(condition)) {                                                           \
      std::fprintf(stderr, "line %d: %s; last error: %s\n", __LINE__, #condition, \
                   ncclGetLastError(nullptr));                                    \
      std::exit(1);                                                               \
    }                                                                             \
  } while (false)
#define NCCL(call) REQUIRE((call) == ncclSuccess)

namespace {

int number(const char* variable) { return std::atoi(std::getenv(variable)); }

ncclUniqueId shared_id(const std::string& file, int rank) {
  ncclUniqueId id;
  if (rank == 0) {
    NCCL(ncclGetUniqueId(&id));
    std::ofstream(file + ".part", std::ios::binary).write(id.internal, sizeof id.internal);
    REQUIRE(std::rename((file + ".part").c_str(), file.c_str()) == 0);
    return id;
  }
  for (int i = 0; i < 3000; ++i) {
    std::ifstream in(file, std::ios::binary);
    if (in.read(id.internal, sizeof id.internal)) return id;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  REQUIRE(!"rank 0 has left no id");
  return id;
}

template <class T>
constexpr ncclDataType_t type_of() {
  if constexpr (std::is_same_v<T, int8_t>) return ncclInt8;
  if constexpr (std::is_same_v<T, uint8_t>) return ncclUint8;
  if constexpr (std::is_same_v<T, int32_t>) return ncclInt32;
  if constexpr (std::is_same_v<T, uint32_t>) return ncclUint32;
  if constexpr (std::is_same_v<T, int64_t>) return ncclInt64;
  if constexpr (std::is_same_v<T, uint64_t>) return ncclUint64;
  if constexpr (std::is_same_v<T, float>) return ncclFloat32;
  return ncclFloat64;
}

struct Rank {
  ncclComm_t comm;
  int rank, size;
};

// Element i of rank r's input: small, so that every type holds sums and products exactly.
template <class T>
T value(int r, size_t i) {
  return static_cast<T>((r + i) % 3 + 1);
}

template <class T>
std::vector<T> input(int r, size_t count) {
  std::vector<T> x(count);
  for (size_t i = 0; i < count; ++i) x[i] = value<T>(r, i);
  return x;
}

template <class T>
T reduced(ncclRedOp_t op, int size, size_t i) {
  T result = value<T>(0, i);
  for (int r = 1; r < size; ++r) {
    const T next = value<T>(r, i);
    if (op == ncclSum || op == ncclAvg) result = result + next;
    if (op == ncclProd) result = result * next;
    if (op == ncclMax) result = next > result ? next : result;
    if (op == ncclMin) result = next < result ? next : result;
  }
  return op == ncclAvg ? result / static_cast<T>(size) : result;
}

template <class T>
void reductions(const Rank& me, size_t count) {
  const auto type = type_of<T>();
  for (const ncclRedOp_t op : {ncclSum, ncclProd, ncclMax, ncclMin, ncclAvg}) {
    const std::vector<T> x = input<T>(me.rank, count);
    std::vector<T> y(count);
    NCCL(ncclAllReduce(x.data(), y.data(), count, type, op, me.comm, nullptr));
    for (size_t i = 0; i < count; ++i) REQUIRE(y[i] == reduced<T>(op, me.size, i));
    std::vector<T> z = x;  // in place
    NCCL(ncclAllReduce(z.data(), z.data(), count, type, op, me.comm, nullptr));
    REQUIRE(z == y);
    const int root = me.size - 1;
    std::vector<T> at_root(me.rank == root ? count : 0);
    NCCL(ncclReduce(x.data(), me.rank == root ? at_root.data() : nullptr, count, type, op, root,
                    me.comm, nullptr));
    if (me.rank == root) REQUIRE(at_root == y);
    const std::vector<T> wide = input<T>(me.rank, count * me.size);
    NCCL(ncclReduceScatter(wide.data(), y.data(), count, type, op, me.comm, nullptr));
    for (size_t i = 0; i < count; ++i) {
      REQUIRE(y[i] == reduced<T>(op, me.size, me.rank * count + i));
    }
  }
}

template <class T>
void scaled_sum(const Rank& me, size_t count) {
  T factor = 2;
  ncclRedOp_t op;
  NCCL(ncclRedOpCreatePreMulSum(&op, &factor, type_of<T>(), ncclScalarHostImmediate, me.comm));
  const std::vector<T> x = input<T>(me.rank, count);
  std::vector<T> y(count);
  NCCL(ncclAllReduce(x.data(), y.data(), count, type_of<T>(), op, me.comm, nullptr));
  for (size_t i = 0; i < count; ++i) REQUIRE(y[i] == 2 * reduced<T>(ncclSum, me.size, i));
  NCCL(ncclRedOpDestroy(op, me.comm));
  REQUIRE(ncclAllReduce(x.data(), y.data(), count, type_of<T>(), op, me.comm, nullptr) ==
          ncclInvalidArgument);
}

// Floats that C++ has no type for, as bits.
template <class T>
void small_floats(const Rank& me, ncclDataType_t type, T half, T one, T two, T four) {
  REQUIRE(me.size == 2 || me.size == 4);
  const T x[2] = {one, half};
  T y[2];
  NCCL(ncclAllReduce(x, y, 2, type, ncclSum, me.comm, nullptr));
  REQUIRE(y[0] == (me.size == 2 ? two : four) && y[1] == (me.size == 2 ? one : two));
  NCCL(ncclAllReduce(x, y, 2, type, ncclAvg, me.comm, nullptr));
  REQUIRE(y[0] == one && y[1] == half);
  T factor = half;
  ncclRedOp_t op;
  NCCL(ncclRedOpCreatePreMulSum(&op, &factor, type, ncclScalarHostImmediate, me.comm));
  NCCL(ncclAllReduce(x, y, 1, type, op, me.comm, nullptr));
  REQUIRE(y[0] == (me.size == 2 ? one : two));
  NCCL(ncclRedOpDestroy(op, me.comm));
}

void moves(const Rank& me, size_t count) {
  const std::vector<float> x = input<float>(me.rank, count);
  std::vector<float> all(count * me.size), y(count);
  NCCL(ncclAllGather(x.data(), all.data(), count, ncclFloat32, me.comm, nullptr));
  for (int r = 0; r < me.size; ++r) {
    for (size_t i = 0; i < count; ++i) REQUIRE(all[r * count + i] == value<float>(r, i));
  }
  NCCL(ncclBroadcast(me.rank == 1 ? x.data() : nullptr, y.data(), count, ncclFloat32, 1, me.comm,
                     nullptr));
  REQUIRE(y == input<float>(1, count));
  y = x;
  NCCL(ncclBcast(y.data(), count, ncclFloat32, 0, me.comm, nullptr));
  REQUIRE(y == input<float>(0, count));
  const std::vector<float> wide = input<float>(me.rank, count * me.size);
  NCCL(ncclAlltoAll(wide.data(), all.data(), count, ncclFloat32, me.comm, nullptr));
  for (int r = 0; r < me.size; ++r) REQUIRE(all[r * count] == value<float>(r, me.rank * count));
  NCCL(ncclGather(x.data(), me.rank == 0 ? all.data() : nullptr, count, ncclFloat32, 0, me.comm,
                  nullptr));
  if (me.rank == 0) REQUIRE(all[(me.size - 1) * count] == value<float>(me.size - 1, 0));
  NCCL(ncclScatter(me.rank == 0 ? wide.data() : nullptr, y.data(), count, ncclFloat32, 0, me.comm,
                   nullptr));
  REQUIRE(y[0] == value<float>(0, me.rank * count));
}

void messages(const Rank& me, size_t count) {
  const std::vector<double> x = input<double>(me.rank, count);
  std::vector<double> from_left(count), from_right(count), sum(count);
  const int right = (me.rank + 1) % me.size, left = (me.rank + me.size - 1) % me.size;
  NCCL(ncclGroupStart());
  NCCL(ncclSend(x.data(), count, ncclFloat64, right, me.comm, nullptr));
  NCCL(ncclSend(x.data(), count, ncclFloat64, left, me.comm, nullptr));
  NCCL(ncclGroupStart());  // groups nest
  NCCL(ncclAllReduce(x.data(), sum.data(), count, ncclFloat64, ncclSum, me.comm, nullptr));
  NCCL(ncclGroupEnd());
  NCCL(ncclRecv(from_left.data(), count, ncclFloat64, left, me.comm, nullptr));
  NCCL(ncclRecv(from_right.data(), count, ncclFloat64, right, me.comm, nullptr));
  NCCL(ncclGroupEnd());
  REQUIRE(from_left == input<double>(left, count));
  if (me.size > 2) REQUIRE(from_right == input<double>(right, count));
  REQUIRE(sum[1] == reduced<double>(ncclSum, me.size, 1));
}

void parts(const Rank& me) {
  ncclComm_t part;
  NCCL(ncclCommSplit(me.comm, me.rank == 0 ? NCCL_SPLIT_NOCOLOR : me.rank % 2, -me.rank, &part,
                     nullptr));
  if (me.rank == 0) {
    REQUIRE(part == NULL);
  } else {
    int size, one = 1, sum;
    NCCL(ncclCommCount(part, &size));
    NCCL(ncclAllReduce(&one, &sum, 1, ncclInt32, ncclSum, part, nullptr));
    REQUIRE(sum == size);
    NCCL(ncclCommDestroy(part));
  }
  if (me.rank == 1) return;  // is left out
  int out = 1, size, rank, first = me.rank, last = me.rank;
  ncclComm_t rest;
  NCCL(ncclCommShrink(me.comm, &out, 1, &rest, nullptr, NCCL_SHRINK_DEFAULT));
  NCCL(ncclCommCount(rest, &size));
  NCCL(ncclCommUserRank(rest, &rank));
  REQUIRE(size == me.size - 1 && rank == (me.rank == 0 ? 0 : me.rank - 1));
  NCCL(ncclBcast(&first, 1, ncclInt32, 0, rest, nullptr));
  NCCL(ncclBcast(&last, 1, ncclInt32, size - 1, rest, nullptr));
  REQUIRE(first == 0 && last == me.size - 1);
  NCCL(ncclCommDestroy(rest));
}

void mistakes(const Rank& me) {
  float x = 1;
  REQUIRE(ncclAllReduce(&x, &x, 1, ncclFloat32, ncclSum, nullptr, nullptr) == ncclInvalidArgument);
  REQUIRE(std::strstr(ncclGetLastError(nullptr), "ncclAllReduce") != nullptr);
  REQUIRE(ncclAllReduce(&x, &x, 1, ncclNumTypes, ncclSum, me.comm, nullptr) == ncclInvalidArgument);
  REQUIRE(ncclSend(&x, 1, ncclFloat32, me.size, me.comm, nullptr) == ncclInvalidArgument);
  ncclCollConfig_t config = NCCL_COLLCONFIG_INITIALIZER;
  NCCL(ncclAllReduceConfig(&x, &x, 1, ncclFloat32, ncclMax, me.comm, nullptr, &config));
  config.algSelection = "ring";
  REQUIRE(ncclAllReduceConfig(&x, &x, 1, ncclFloat32, ncclMax, me.comm, nullptr, &config) ==
          ncclInvalidArgument);
  REQUIRE(std::strstr(ncclGetLastError(nullptr), "ring") != nullptr);
}

Rank join(const std::string& file) {
  Rank me{nullptr, number("SHOAL_RANK"), number("SHOAL_WORLD_SIZE")};
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  NCCL(ncclCommInitRankConfig(&me.comm, me.size, shared_id(file, me.rank), me.rank, &config));
  int size, rank;
  NCCL(ncclCommCount(me.comm, &size));
  NCCL(ncclCommUserRank(me.comm, &rank));
  REQUIRE(size == me.size && rank == me.rank);
  return me;
}

void everything(const Rank& me) {
  int version;
  NCCL(ncclGetVersion(&version));
  REQUIRE(version == NCCL_VERSION_CODE);
  for (const size_t count : {size_t{5}, size_t{3000}, size_t{200000}}) {
    reductions<float>(me, count);
    moves(me, count);
    messages(me, count);
  }
  reductions<double>(me, 1000);
  reductions<int8_t>(me, 100);
  reductions<uint8_t>(me, 100);
  reductions<int32_t>(me, 1000);
  reductions<uint32_t>(me, 1000);
  reductions<int64_t>(me, 1000);
  reductions<uint64_t>(me, 1000);
  scaled_sum<float>(me, 1000);
  scaled_sum<double>(me, 1000);
  scaled_sum<int32_t>(me, 1000);
  small_floats<uint16_t>(me, ncclFloat16, 0x3800, 0x3c00, 0x4000, 0x4400);
  small_floats<uint16_t>(me, ncclBfloat16, 0x3f00, 0x3f80, 0x4000, 0x4080);
  small_floats<uint8_t>(me, ncclFloat8e4m3, 0x30, 0x38, 0x40, 0x48);
  small_floats<uint8_t>(me, ncclFloat8e5m2, 0x38, 0x3c, 0x40, 0x44);
  mistakes(me);
  if (me.size > 2) parts(me);
  ncclResult_t error;
  NCCL(ncclCommGetAsyncError(me.comm, &error));
  REQUIRE(error == ncclSuccess);
}

// All ranks in one thread of one process, as programs with a GPU for each do it.
void one_thread() {
  constexpr int kRanks = 4;
  constexpr size_t kCount = 10000;
  ncclComm_t comms[kRanks];
  NCCL(ncclCommInitAll(comms, kRanks, nullptr));
  std::vector<std::vector<float>> x, y(kRanks, std::vector<float>(kCount)), z = y;
  for (int r = 0; r < kRanks; ++r) x.push_back(input<float>(r, kCount));
  for (int round = 0; round < 3; ++round) {
    NCCL(ncclGroupStart());
    for (int r = 0; r < kRanks; ++r) {
      NCCL(
          ncclAllReduce(x[r].data(), y[r].data(), kCount, ncclFloat32, ncclSum, comms[r], nullptr));
      NCCL(ncclSend(x[r].data(), kCount, ncclFloat32, (r + 1) % kRanks, comms[r], nullptr));
      NCCL(ncclRecv(z[r].data(), kCount, ncclFloat32, (r + 3) % kRanks, comms[r], nullptr));
    }
    NCCL(ncclGroupEnd());
    for (int r = 0; r < kRanks; ++r) {
      REQUIRE(y[r][7] == reduced<float>(ncclSum, kRanks, 7));
      REQUIRE(z[r] == x[(r + 3) % kRanks]);
    }
  }
  for (ncclComm_t comm : comms) NCCL(ncclCommDestroy(comm));
}

// The last rank is killed; the others are told so, and by whom.
void killed(const Rank& me) {
  float x = 1, y;
  NCCL(ncclAllReduce(&x, &y, 1, ncclFloat32, ncclSum, me.comm, nullptr));
  if (me.rank == me.size - 1) ::kill(::getpid(), SIGKILL);
  ::signal(SIGTERM, SIG_IGN);  // by which the launcher ends the others
  REQUIRE(ncclAllReduce(&x, &y, 1, ncclFloat32, ncclSum, me.comm, nullptr) == ncclRemoteError);
  REQUIRE(std::strstr(ncclGetLastError(me.comm), "killed by signal 9") != nullptr);
  ncclResult_t error;
  NCCL(ncclCommGetAsyncError(me.comm, &error));
  REQUIRE(error == ncclRemoteError);
  std::puts("told");
  NCCL(ncclCommAbort(me.comm));
}

// A driver of CUDA's interface, found at run time.
struct Driver {
  void* library = ::dlopen(std::getenv("SHOAL_CUDA_DRIVER"), RTLD_NOW);

  template <class... Arguments>
  void operator()(const char* name, Arguments... arguments) const {
    const auto function = reinterpret_cast<CUresult (*)(Arguments...)>(::dlsym(library, name));
    REQUIRE(function != nullptr && function(arguments...) == CUDA_SUCCESS);
  }
};

// This thread's context is the first device's; a stream of it.
CUstream begin_on(const Driver& cuda) {
  CUcontext context;
  CUstream stream;
  cuda("cuInit", 0u);
  cuda("cuDevicePrimaryCtxRetain", &context, 0);
  cuda("cuCtxPushCurrent_v2", context);
  cuda("cuStreamCreate", &stream, static_cast<unsigned>(CU_STREAM_NON_BLOCKING));
  return stream;
}

// CUDA memory of the program's own and a stream: the collective is an operation of that.
void on_device(const Rank& me) {
  constexpr size_t kCount = 5000, kBytes = kCount * sizeof(float);
  const Driver cuda;
  CUdeviceptr x, y;
  CUstream stream = begin_on(cuda);
  cuda("cuMemAlloc_v2", &x, kBytes);
  cuda("cuMemAlloc_v2", &y, kBytes);
  const auto type = ncclFloat32;
  void *send = reinterpret_cast<void*>(x), *receive = reinterpret_cast<void*>(y);
  std::vector<float> in, out(kCount);
  for (int round = 0; round < 3; ++round) {
    in = input<float>(me.rank + round, kCount);
    cuda("cuMemcpyHtoDAsync_v2", x, static_cast<const void*>(in.data()), kBytes, stream);
    NCCL(ncclGroupStart());
    NCCL(ncclAllReduce(send, receive, kCount, type, ncclSum, me.comm, stream));
    NCCL(ncclBroadcast(receive, receive, kCount, type, 0, me.comm, stream));
    NCCL(ncclGroupEnd());
    cuda("cuMemcpyDtoHAsync_v2", static_cast<void*>(out.data()), y, kBytes, stream);
    cuda("cuStreamSynchronize", stream);
    for (size_t i = 0; i < kCount; ++i) {
      REQUIRE(out[i] == reduced<float>(ncclSum, me.size, i + round));
    }
  }
  const int next = (me.rank + 1) % me.size, previous = (me.rank + me.size - 1) % me.size;
  for (int round = 0; round < 3; ++round) {
    in = input<float>(me.rank + round, kCount);
    cuda("cuMemcpyHtoDAsync_v2", x, static_cast<const void*>(in.data()), kBytes, stream);
    NCCL(ncclGroupStart());
    NCCL(ncclSend(send, kCount, type, next, me.comm, stream));
    NCCL(ncclRecv(receive, kCount, type, previous, me.comm, stream));
    NCCL(ncclGroupEnd());
    cuda("cuMemcpyDtoHAsync_v2", static_cast<void*>(out.data()), y, kBytes, stream);
    cuda("cuStreamSynchronize", stream);
    REQUIRE(out == input<float>(previous + round, kCount));
  }
  // Everybody to everybody, oneself among them: all_to_all as PyTorch makes it.
  const size_t part = kCount / static_cast<size_t>(me.size);
  in = input<float>(me.rank, kCount);
  cuda("cuMemcpyHtoDAsync_v2", x, static_cast<const void*>(in.data()), kBytes, stream);
  NCCL(ncclGroupStart());
  for (int peer = 0; peer < me.size; ++peer) {
    const size_t offset = static_cast<size_t>(peer) * part;
    NCCL(ncclSend(static_cast<float*>(send) + offset, part, type, peer, me.comm, stream));
    NCCL(ncclRecv(static_cast<float*>(receive) + offset, part, type, peer, me.comm, stream));
  }
  NCCL(ncclGroupEnd());
  cuda("cuMemcpyDtoHAsync_v2", static_cast<void*>(out.data()), y, kBytes, stream);
  cuda("cuStreamSynchronize", stream);
  for (int peer = 0; peer < me.size; ++peer) {
    const std::vector<float> theirs = input<float>(peer, kCount);
    const auto mine = theirs.begin() + static_cast<std::ptrdiff_t>(me.rank * part);
    REQUIRE(std::equal(mine, mine + static_cast<std::ptrdiff_t>(part),
                       out.begin() + static_cast<std::ptrdiff_t>(peer * part)));
  }
  // One group, two streams.
  CUstream beside;
  cuda("cuStreamCreate", &beside, static_cast<unsigned>(CU_STREAM_NON_BLOCKING));
  NCCL(ncclGroupStart());
  NCCL(ncclSend(send, 1, type, me.rank, me.comm, stream));
  NCCL(ncclRecv(receive, 1, type, me.rank, me.comm, beside));
  REQUIRE(ncclGroupEnd() == ncclInvalidArgument);
  REQUIRE(std::strstr(ncclGetLastError(nullptr), "several streams") != nullptr);
  cuda("cuMemFree_v2", x);
  cuda("cuMemFree_v2", y);
}

// What shoal does not do, averages of integers and pre-multiplied sums in CUDA memory among it,
// with NCCL itself at hand, or without.
void other(const Rank& me) {
  uint8_t x = 0x38, y = 0;
  const bool real = std::strlen(std::getenv("SHOAL_REAL_NCCL")) > 0;
  const Driver cuda;
  CUdeviceptr device;
  CUstream stream = begin_on(cuda);
  cuda("cuMemAlloc_v2", &device, sizeof x);
  void* data = reinterpret_cast<void*>(device);
  const ncclResult_t result = ncclAllReduce(data, data, 1, ncclUint8, ncclAvg, me.comm, stream);
  cuda("cuMemcpyDtoHAsync_v2", static_cast<void*>(&y), device, sizeof y, stream);
  cuda("cuStreamSynchronize", stream);
  uint8_t factor = 3, scaled = 0;
  ncclRedOp_t op;
  NCCL(ncclRedOpCreatePreMulSum(&op, &factor, ncclUint8, ncclScalarHostImmediate, me.comm));
  NCCL(ncclGroupStart());
  const ncclResult_t begun = ncclAllReduce(data, data, 1, ncclUint8, op, me.comm, stream);
  NCCL(ncclRedOpDestroy(op, me.comm));  // as PyTorch does: before the group ends
  const ncclResult_t ended = ncclGroupEnd();
  cuda("cuMemcpyDtoHAsync_v2", static_cast<void*>(&scaled), device, sizeof scaled, stream);
  cuda("cuStreamSynchronize", stream);
  REQUIRE(ncclRedOpCreatePreMulSum(&op, data, ncclUint8, ncclScalarDevice, me.comm) ==
          ncclInvalidArgument);
  cuda("cuMemFree_v2", device);
  ncclWindow_t window;
  const ncclResult_t registered =
      ncclCommWindowRegister(me.comm, &x, sizeof x, &window, NCCL_WIN_DEFAULT);
  if (real) {
    REQUIRE(result == ncclSuccess && y == 0x77);  // the stand-in's answer
    REQUIRE(begun == ncclSuccess && ended == ncclSuccess && scaled == factor);
    REQUIRE(registered == ncclInvalidUsage);
    std::puts("by NCCL");
    return;
  }
  REQUIRE(result == ncclInvalidUsage && begun == ncclInvalidUsage);
  REQUIRE(registered == ncclInvalidUsage);
  REQUIRE(std::strstr(ncclGetLastError(nullptr), "ncclCommWindowRegister") != nullptr);
  std::puts("refused");
}

}  // namespace

int main(int argc, char** argv) {
  REQUIRE(argc == 3);
  const std::string mode = argv[1];
  if (mode == "thread") {
    one_thread();
  } else {
    const Rank me = join(argv[2]);
    if (mode == "killed") {
      killed(me);
      return 0;
    }
    if (mode == "other") {
      other(me);
    } else if (mode == "device") {
      on_device(me);
    } else {
      everything(me);
    }
    NCCL(ncclCommFinalize(me.comm));
    NCCL(ncclCommDestroy(me.comm));
  }
  std::puts("right");
}
