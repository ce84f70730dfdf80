/// NCCL's functions, each in a few lines: what its arguments mean in shoal's words.
///
/// Collectives on CUDA memory are operations of their stream. Those on host memory have ended when
/// the call (or its group) returns; a stream orders nothing then. What shoal does not do goes to
/// NCCL itself, see real.h.
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <span>

#include "core/environment.h"
#include "nccl/drop_in/group.h"
#include "nccl/drop_in/real.h"
#include "shoal/error.h"

namespace shoal::nccl {

namespace {

/// The driver that this process has loaded; null where there is none, and so no CUDA memory either.
/// SHOAL_CUDA_DRIVER, as everywhere in shoal, names another one.
void* loaded_driver() noexcept {
  const std::string other = environment("SHOAL_CUDA_DRIVER");
  return ::dlopen(other.empty() ? "libcuda.so.1" : other.c_str(), RTLD_NOW | RTLD_NOLOAD);
}

using GetAttribute = int (*)(void* value, int attribute, std::uint64_t pointer);

/// Found once the driver is loaded, which may be after the first call.
GetAttribute get_attribute() noexcept {
  static std::atomic<GetAttribute> known = nullptr;
  GetAttribute get = known.load(std::memory_order_relaxed);
  if (get != nullptr) return get;
  void* driver = loaded_driver();
  if (driver == nullptr) return nullptr;
  get = reinterpret_cast<GetAttribute>(::dlsym(driver, "cuPointerGetAttribute"));
  known.store(get, std::memory_order_relaxed);
  return get;
}

/// Whether the memory is a GPU's.
bool is_device_memory(const void* data) noexcept {
  const GetAttribute get = get_attribute();
  constexpr int kMemoryType = 2, kDevice = 2;
  unsigned int type = 0;
  return data != nullptr && get != nullptr &&
         get(&type, kMemoryType, reinterpret_cast<std::uintptr_t>(data)) == 0 && type == kDevice;
}

/// What most functions are given.
struct Call {
  const char* function;
  ncclComm_t comm;
  const void* input;
  void* output;
  std::size_t count;
  ncclDataType_t type;
  cudaStream_t stream;
  bool on_device = is_device_memory(input) || is_device_memory(output);  // the driver is asked once

  [[nodiscard]] std::int64_t bytes(std::int64_t blocks = 1) const {
    return static_cast<std::int64_t>(count) * blocks * size_of(type_of(type));
  }
  [[nodiscard]] Count elements() const { return {static_cast<std::int64_t>(count)}; }
};

/// Whether NCCL itself has to do it: what a reduction computes besides, shoal does on host memory
/// only. Decided alike by all ranks: type and kind of memory are theirs all.
bool is_for_nccl(const Call& call, ncclRedOp_t op) {
  const bool computes = op >= ncclNumOps || (op == ncclAvg && is_integer(type_of(call.type)));
  return computes && call.on_device;
}

CallOptions options_of(const Call& call) noexcept {
  CallOptions options;
  options.on_stream = call.on_device;
  options.stream = options.on_stream ? call.stream : nullptr;
  return options;
}

Operation collective(const Call& call, std::function<Work()> start) {
  type_of(call.type);  // throws for none
  Operation operation;
  operation.comm = call.comm;
  operation.start = std::move(start);
  operation.ends_here = !call.on_device;
  return operation;
}

// --- reductions --------------------------------------------------------------------------------

/// NCCL's number of a reduction in shoal's words.
struct Reduction {
  ReduceOp op = ReduceOp::kSum;
  std::optional<Factor> factor;  ///< of each input
  bool divides = false;          ///< by the number of ranks, afterwards: ncclAvg of integers
};

Reduction reduction_of(const Call& call, ncclRedOp_t op) {
  switch (op) {
    case ncclSum:
      return {ReduceOp::kSum, {}, false};
    case ncclProd:
      return {ReduceOp::kProd, {}, false};
    case ncclMax:
      return {ReduceOp::kMax, {}, false};
    case ncclMin:
      return {ReduceOp::kMin, {}, false};
    case ncclAvg:
      if (is_integer(type_of(call.type))) return {ReduceOp::kSum, {}, true};
      return {ReduceOp::kAvg, {}, false};
    default:
      break;
  }
  const std::lock_guard lock(call.comm->mutex);
  const auto found = call.comm->factors.find(op);
  if (found != call.comm->factors.end()) return {ReduceOp::kSum, found->second, false};
  throw Error(ErrorCode::kInvalidArgument,
              std::string(call.function) + ": reduction " + std::to_string(static_cast<int>(op)) +
                  " is none of NCCL's and was not made by ncclRedOpCreatePreMulSum() for this "
                  "communicator");
}

/// A reduction by NCCL itself. It has to be told of one that a user has made, whose number is ours;
/// the user may have forgotten it by the time that the group ends. `more`: the root, if there is
/// one.
template <class... More>
Operation reduction_elsewhere(const Call& call, ncclRedOp_t op, More... more) {
  const std::optional<Factor> factor = reduction_of(call, op).factor;
  ncclComm* const real = real_communicator(*call.comm, call.function);
  Operation operation;
  operation.comm = call.comm;
  operation.elsewhere = [=] {
    Factor scalar = factor.value_or(Factor());
    ncclRedOp_t theirs = op;
    if (factor) {
      call_real("ncclRedOpCreatePreMulSum", &theirs, static_cast<void*>(scalar.given.data()),
                call.type, ncclScalarHostImmediate, real);
    }
    call_real(call.function, call.input, call.output, call.count, call.type, theirs, more..., real,
              call.stream);
    if (factor) call_real("ncclRedOpDestroy", theirs, real);  // it is read when it is called
  };
  return operation;
}

using StartReduction = std::function<Work(const void* input, ReduceOp op)>;

/// `input_blocks`, `output_blocks`: how many times `count` elements lie there; of no output, 0.
Operation reduction(const Call& call, ncclRedOp_t op, std::int64_t input_blocks,
                    std::int64_t output_blocks, const StartReduction& start) {
  const Reduction what = reduction_of(call, op);
  Operation operation = collective(call, [=] { return start(call.input, what.op); });
  if (what.factor) {
    const auto scaled = std::make_shared<std::vector<std::byte>>(call.bytes(input_blocks));
    operation.start = [=] {
      multiply(call.input, scaled->data(), call.elements().value * input_blocks, call.type,
               *what.factor);
      return start(scaled->data(), what.op);
    };
    operation.finish = [scaled] {};  // read until then
  }
  if (what.divides && output_blocks > 0) {
    operation.finish = [=] {
      divide(call.output, call.elements().value * output_blocks, call.type, call.comm->comm.size());
    };
  }
  return operation;
}

ncclResult_t all_reduce(const Call& call, ncclRedOp_t op) {
  return guarded([&] {
    Communicator comm = checked(call.comm, call.function).comm;
    if (is_for_nccl(call, op)) {
      return submit(reduction_elsewhere(call, op));
    }
    submit(reduction(call, op, 1, 1, [=](const void* input, ReduceOp by) mutable {
      return comm.all_reduce({input, {call.bytes()}}, {call.output, {call.bytes()}},
                             call.elements(), type_of(call.type), by, options_of(call));
    }));
  });
}

ncclResult_t reduce(const Call& call, ncclRedOp_t op, int root) {
  return guarded([&] {
    Communicator comm = checked(call.comm, call.function).comm;
    if (is_for_nccl(call, op)) {
      return submit(reduction_elsewhere(call, op, root));
    }
    const bool at_root = comm.rank() == root;
    const Buffer output = at_root ? Buffer{call.output, {call.bytes()}} : Buffer{};
    submit(reduction(call, op, 1, at_root ? 1 : 0, [=](const void* input, ReduceOp by) mutable {
      return comm.reduce({input, {call.bytes()}}, output, call.elements(), type_of(call.type), by,
                         root, options_of(call));
    }));
  });
}

ncclResult_t reduce_scatter(const Call& call, ncclRedOp_t op) {
  return guarded([&] {
    Communicator comm = checked(call.comm, call.function).comm;
    if (is_for_nccl(call, op)) {
      return submit(reduction_elsewhere(call, op));
    }
    const int ranks = comm.size();
    submit(reduction(call, op, ranks, 1, [=](const void* input, ReduceOp by) mutable {
      return comm.reduce_scatter({input, {call.bytes(ranks)}}, {call.output, {call.bytes()}},
                                 call.elements(), type_of(call.type), by, options_of(call));
    }));
  });
}

// --- the other collectives ---------------------------------------------------------------------

ncclResult_t broadcast(const Call& call, int root) {
  return guarded([&] {
    Communicator comm = checked(call.comm, call.function).comm;
    const ConstBuffer input =
        comm.rank() == root ? ConstBuffer{call.input, {call.bytes()}} : ConstBuffer{};
    submit(collective(call, [=]() mutable {
      return comm.broadcast(input, {call.output, {call.bytes()}}, call.elements(),
                            type_of(call.type), root, options_of(call));
    }));
  });
}

ncclResult_t all_gather(const Call& call) {
  return guarded([&] {
    Communicator comm = checked(call.comm, call.function).comm;
    submit(collective(call, [=]() mutable {
      return comm.all_gather({call.input, {call.bytes()}}, {call.output, {call.bytes(comm.size())}},
                             call.elements(), type_of(call.type), options_of(call));
    }));
  });
}

ncclResult_t all_to_all(const Call& call) {
  return guarded([&] {
    Communicator comm = checked(call.comm, call.function).comm;
    submit(collective(call, [=]() mutable {
      const Bytes all{call.bytes(comm.size())};
      return comm.all_to_all({call.input, all}, {call.output, all}, call.elements(),
                             type_of(call.type), options_of(call));
    }));
  });
}

ncclResult_t gather(const Call& call, int root) {
  return guarded([&] {
    Communicator comm = checked(call.comm, call.function).comm;
    const Buffer output =
        comm.rank() == root ? Buffer{call.output, {call.bytes(comm.size())}} : Buffer{};
    submit(collective(call, [=]() mutable {
      return comm.gather({call.input, {call.bytes()}}, output, call.elements(), type_of(call.type),
                         root, options_of(call));
    }));
  });
}

ncclResult_t scatter(const Call& call, int root) {
  return guarded([&] {
    Communicator comm = checked(call.comm, call.function).comm;
    const ConstBuffer input =
        comm.rank() == root ? ConstBuffer{call.input, {call.bytes(comm.size())}} : ConstBuffer{};
    submit(collective(call, [=]() mutable {
      return comm.scatter(input, {call.output, {call.bytes()}}, call.elements(), type_of(call.type),
                          root, options_of(call));
    }));
  });
}

/// `call.input` of a send, `call.output` of a receive; the other one is null.
ncclResult_t message(const Call& call, int peer, bool sends) {
  return guarded([&] {
    checked(call.comm, call.function);
    Message message;
    message.peer = peer;
    message.sends = sends;
    message.dtype = type_of(call.type);
    if (sends) {
      message.source = {call.input, {call.bytes()}};
    } else {
      message.target = {call.output, {call.bytes()}};
    }
    Operation operation;
    operation.comm = call.comm;
    operation.message = message;
    operation.options = options_of(call);
    operation.ends_here = !call.on_device;
    submit(std::move(operation));
  });
}

/// The Config forms: hints about CUDA's resources say nothing to host memory; what has to be obeyed
/// is refused.
struct CollConfig {
  std::size_t size;
  unsigned int magic, version;
  void* extensions;
  int min_ctas, max_ctas, nvls_ctas, cluster_size;
  const char* algorithms;
};

ncclResult_t check_config(const char* function, const CollConfig* config) {
  return guarded([&] {
    if (config == nullptr || config->size < sizeof(CollConfig)) return;
    if (config->algorithms != nullptr && *config->algorithms != '\0') {
      throw Error(ErrorCode::kInvalidArgument,
                  std::string(function) + ": algSelection \"" + config->algorithms +
                      "\" names NCCL's algorithms; shoal chooses its own (shoal plan --list)");
    }
  });
}

}  // namespace

// NOLINTBEGIN(readability-identifier-naming): the names are NCCL's

// --- communicators -----------------------------------------------------------------------------

SHOAL_NCCL_API ncclResult_t ncclGetVersion(int* version) {
  if (version == nullptr) return ncclInvalidArgument;
  *version = kVersion;
  return ncclSuccess;
}
SHOAL_NCCL_SECOND_NAME(ncclGetVersion);

SHOAL_NCCL_API ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  if (id == nullptr) return ncclInvalidArgument;
  return guarded([&] { *id = make_unique_id(); });
}
SHOAL_NCCL_SECOND_NAME(ncclGetUniqueId);

SHOAL_NCCL_API ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id,
                                                   int rank, ncclConfig_t* /*config*/) {
  if (comm == nullptr) return ncclInvalidArgument;
  *comm = nullptr;
  return guarded([&] { submit_maker([=] { *comm = join(ranks, id, rank); }); });
}
SHOAL_NCCL_SECOND_NAME(ncclCommInitRankConfig);

SHOAL_NCCL_API ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id,
                                             int rank) {
  return ncclCommInitRankConfig(comm, ranks, id, rank, nullptr);
}
SHOAL_NCCL_SECOND_NAME(ncclCommInitRank);

/// Several ids only spread NCCL's own bootstrap; ours takes O(log n) messages a rank with one.
SHOAL_NCCL_API ncclResult_t ncclCommInitRankScalable(ncclComm_t* comm, int ranks, int rank, int ids,
                                                     ncclUniqueId* id, ncclConfig_t* config) {
  if (ids < 1 || id == nullptr) return ncclInvalidArgument;
  return ncclCommInitRankConfig(comm, ranks, id[0], rank, config);
}
SHOAL_NCCL_SECOND_NAME(ncclCommInitRankScalable);

SHOAL_NCCL_API ncclResult_t ncclCommInitAll(ncclComm_t* comms, int ranks, const int* devices) {
  if (comms == nullptr || ranks < 1) return ncclInvalidArgument;
  return guarded([&] {
    const ncclUniqueId id = make_unique_id();
    start_group();
    for (int rank = 0; rank < ranks; ++rank) {
      submit_maker([=] {
        comms[rank] = join(ranks, id, rank);
        comms[rank]->device = devices == nullptr ? rank : devices[rank];
      });
    }
    end_group();
  });
}
SHOAL_NCCL_SECOND_NAME(ncclCommInitAll);

SHOAL_NCCL_API ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* made,
                                          ncclConfig_t* /*config*/) {
  if (made == nullptr) return ncclInvalidArgument;
  *made = nullptr;
  return guarded([&] {
    checked(comm, "ncclCommSplit");
    submit_maker([=] {
      Communicator part = comm->comm.split(color, key);
      if (!part) return;  // NCCL_SPLIT_NOCOLOR
      *made = new ncclComm(std::move(part));
      (*made)->device = comm->device;
    });
  });
}
SHOAL_NCCL_SECOND_NAME(ncclCommSplit);

SHOAL_NCCL_API ncclResult_t ncclCommShrink(ncclComm_t comm, int* excluded, int count,
                                           ncclComm_t* made, ncclConfig_t* /*config*/,
                                           int /*flags*/) {
  if (made == nullptr || (excluded == nullptr && count > 0)) return ncclInvalidArgument;
  *made = nullptr;
  return guarded([&] {
    const int size = checked(comm, "ncclCommShrink").comm.size();
    const std::span<const int> out(excluded, static_cast<std::size_t>(count));
    std::vector<Rank> stay;
    for (Rank rank = 0; rank < size; ++rank) {
      if (std::ranges::find(out, rank) == out.end()) stay.push_back(rank);
    }
    submit_maker([=] { *made = make_group(*comm, stay); });
  });
}
SHOAL_NCCL_SECOND_NAME(ncclCommShrink);

/// Nothing is under way between two calls on host memory.
SHOAL_NCCL_API ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  return guarded([&] {
    if (checked(comm, "ncclCommFinalize").real != nullptr) {
      call_real("ncclCommFinalize", comm->real);
    }
  });
}
SHOAL_NCCL_SECOND_NAME(ncclCommFinalize);

SHOAL_NCCL_API ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm == nullptr) return ncclSuccess;  // as NCCL
  return guarded([&] {
    const std::unique_ptr<ncclComm> owner(comm);
    if (comm->real != nullptr) call_real("ncclCommDestroy", comm->real);
  });
}
SHOAL_NCCL_SECOND_NAME(ncclCommDestroy);

SHOAL_NCCL_API ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (comm == nullptr) return ncclSuccess;
  return guarded([&] {
    const std::unique_ptr<ncclComm> owner(comm);
    comm->comm.abort("ncclCommAbort() was called");
    if (comm->real != nullptr) call_real("ncclCommAbort", comm->real);
  });
}
SHOAL_NCCL_SECOND_NAME(ncclCommAbort);

SHOAL_NCCL_API ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  if (error == nullptr) return ncclInvalidArgument;
  return guarded([&] {
    *error = result_of(checked(comm, "ncclCommGetAsyncError").comm.error());
    if (*error == ncclSuccess && comm->real != nullptr) {
      call_real("ncclCommGetAsyncError", comm->real, error);
    }
  });
}
SHOAL_NCCL_SECOND_NAME(ncclCommGetAsyncError);

SHOAL_NCCL_API ncclResult_t ncclCommCount(ncclComm_t comm, int* count) {
  if (count == nullptr) return ncclInvalidArgument;
  return guarded([&] { *count = checked(comm, "ncclCommCount").comm.size(); });
}
SHOAL_NCCL_SECOND_NAME(ncclCommCount);

SHOAL_NCCL_API ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank) {
  if (rank == nullptr) return ncclInvalidArgument;
  return guarded([&] { *rank = checked(comm, "ncclCommUserRank").comm.rank(); });
}
SHOAL_NCCL_SECOND_NAME(ncclCommUserRank);

SHOAL_NCCL_API ncclResult_t ncclCommCuDevice(ncclComm_t comm, int* device) {
  if (device == nullptr) return ncclInvalidArgument;
  return guarded([&] { *device = checked(comm, "ncclCommCuDevice").device; });
}
SHOAL_NCCL_SECOND_NAME(ncclCommCuDevice);

/// What registration saves NCCL shoal finds by itself: its pool's memory is shared, other memory is
/// staged. The handle is the buffer.
SHOAL_NCCL_API ncclResult_t ncclCommRegister(ncclComm_t comm, void* buffer, std::size_t /*size*/,
                                             void** handle) {
  if (handle == nullptr) return ncclInvalidArgument;
  return guarded([&] {
    checked(comm, "ncclCommRegister");
    *handle = buffer;
  });
}
SHOAL_NCCL_SECOND_NAME(ncclCommRegister);

SHOAL_NCCL_API ncclResult_t ncclCommDeregister(ncclComm_t comm, void* /*handle*/) {
  return guarded([&] { checked(comm, "ncclCommDeregister"); });
}
SHOAL_NCCL_SECOND_NAME(ncclCommDeregister);

SHOAL_NCCL_API const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError:
      return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage:
      return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    case ncclTimeout:
      return "operation timed out";
  }
  return "unknown result code";
}
SHOAL_NCCL_SECOND_NAME(ncclGetErrorString);

SHOAL_NCCL_API const char* ncclGetLastError(ncclComm_t /*comm*/) { return last_error().c_str(); }
SHOAL_NCCL_SECOND_NAME(ncclGetLastError);

SHOAL_NCCL_API ncclResult_t ncclGroupStart() {
  start_group();
  return ncclSuccess;
}
SHOAL_NCCL_SECOND_NAME(ncclGroupStart);

SHOAL_NCCL_API ncclResult_t ncclGroupEnd() {
  return guarded([] { end_group(); });
}
SHOAL_NCCL_SECOND_NAME(ncclGroupEnd);

// --- reductions of users -----------------------------------------------------------------------

SHOAL_NCCL_API ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void* scalar,
                                                     ncclDataType_t type,
                                                     ncclScalarResidence_t residence,
                                                     ncclComm_t comm) {
  if (op == nullptr || scalar == nullptr) return ncclInvalidArgument;
  return guarded([&] {
    checked(comm, "ncclRedOpCreatePreMulSum");
    if (residence == ncclScalarDevice && is_device_memory(scalar)) {
      throw Error(ErrorCode::kInvalidArgument,
                  "ncclRedOpCreatePreMulSum: the factor lies in CUDA memory, which shoal does not "
                  "read; give a number of the host (ncclScalarHostImmediate)");
    }
    const Factor factor = read_factor(scalar, type);
    const std::lock_guard lock(comm->mutex);
    *op = static_cast<ncclRedOp_t>(comm->next_factor);
    comm->factors[comm->next_factor++] = factor;
  });
}
SHOAL_NCCL_SECOND_NAME(ncclRedOpCreatePreMulSum);

SHOAL_NCCL_API ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t comm) {
  return guarded([&] {
    checked(comm, "ncclRedOpDestroy");
    const std::lock_guard lock(comm->mutex);
    if (comm->factors.erase(op) == 1) return;
    throw Error(ErrorCode::kInvalidArgument, "ncclRedOpDestroy: no such reduction");
  });
}
SHOAL_NCCL_SECOND_NAME(ncclRedOpDestroy);

// --- collectives and messages ------------------------------------------------------------------

SHOAL_NCCL_API ncclResult_t ncclAllReduce(const void* send, void* receive, std::size_t count,
                                          ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                                          cudaStream_t stream) {
  return all_reduce({"ncclAllReduce", comm, send, receive, count, type, stream}, op);
}
SHOAL_NCCL_SECOND_NAME(ncclAllReduce);

SHOAL_NCCL_API ncclResult_t ncclReduce(const void* send, void* receive, std::size_t count,
                                       ncclDataType_t type, ncclRedOp_t op, int root,
                                       ncclComm_t comm, cudaStream_t stream) {
  return reduce({"ncclReduce", comm, send, receive, count, type, stream}, op, root);
}
SHOAL_NCCL_SECOND_NAME(ncclReduce);

SHOAL_NCCL_API ncclResult_t ncclReduceScatter(const void* send, void* receive, std::size_t count,
                                              ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                                              cudaStream_t stream) {
  return reduce_scatter({"ncclReduceScatter", comm, send, receive, count, type, stream}, op);
}
SHOAL_NCCL_SECOND_NAME(ncclReduceScatter);

SHOAL_NCCL_API ncclResult_t ncclBroadcast(const void* send, void* receive, std::size_t count,
                                          ncclDataType_t type, int root, ncclComm_t comm,
                                          cudaStream_t stream) {
  return broadcast({"ncclBroadcast", comm, send, receive, count, type, stream}, root);
}
SHOAL_NCCL_SECOND_NAME(ncclBroadcast);

SHOAL_NCCL_API ncclResult_t ncclBcast(void* buffer, std::size_t count, ncclDataType_t type,
                                      int root, ncclComm_t comm, cudaStream_t stream) {
  return broadcast({"ncclBroadcast", comm, buffer, buffer, count, type, stream}, root);
}
SHOAL_NCCL_SECOND_NAME(ncclBcast);

SHOAL_NCCL_API ncclResult_t ncclAllGather(const void* send, void* receive, std::size_t count,
                                          ncclDataType_t type, ncclComm_t comm,
                                          cudaStream_t stream) {
  return all_gather({"ncclAllGather", comm, send, receive, count, type, stream});
}
SHOAL_NCCL_SECOND_NAME(ncclAllGather);

SHOAL_NCCL_API ncclResult_t ncclAlltoAll(const void* send, void* receive, std::size_t count,
                                         ncclDataType_t type, ncclComm_t comm,
                                         cudaStream_t stream) {
  return all_to_all({"ncclAlltoAll", comm, send, receive, count, type, stream});
}
SHOAL_NCCL_SECOND_NAME(ncclAlltoAll);

SHOAL_NCCL_API ncclResult_t ncclGather(const void* send, void* receive, std::size_t count,
                                       ncclDataType_t type, int root, ncclComm_t comm,
                                       cudaStream_t stream) {
  return gather({"ncclGather", comm, send, receive, count, type, stream}, root);
}
SHOAL_NCCL_SECOND_NAME(ncclGather);

SHOAL_NCCL_API ncclResult_t ncclScatter(const void* send, void* receive, std::size_t count,
                                        ncclDataType_t type, int root, ncclComm_t comm,
                                        cudaStream_t stream) {
  return scatter({"ncclScatter", comm, send, receive, count, type, stream}, root);
}
SHOAL_NCCL_SECOND_NAME(ncclScatter);

SHOAL_NCCL_API ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t type,
                                     int peer, ncclComm_t comm, cudaStream_t stream) {
  return message({"ncclSend", comm, data, nullptr, count, type, stream}, peer, true);
}
SHOAL_NCCL_SECOND_NAME(ncclSend);

SHOAL_NCCL_API ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t type, int peer,
                                     ncclComm_t comm, cudaStream_t stream) {
  return message({"ncclRecv", comm, nullptr, data, count, type, stream}, peer, false);
}
SHOAL_NCCL_SECOND_NAME(ncclRecv);

// The same with a configuration of the call.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define SHOAL_NCCL_WITH_CONFIG(name, parameters, ...)                          \
  SHOAL_NCCL_API ncclResult_t name##Config parameters {                        \
    const ncclResult_t checked_config = check_config(#name "Config", config);  \
    return checked_config == ncclSuccess ? name(__VA_ARGS__) : checked_config; \
  }                                                                            \
  SHOAL_NCCL_SECOND_NAME(name##Config)
// NOLINTEND(bugprone-macro-parentheses)

SHOAL_NCCL_WITH_CONFIG(ncclAllReduce,
                       (const void* send, void* receive, std::size_t count, ncclDataType_t type,
                        ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream,
                        const CollConfig* config),
                       send, receive, count, type, op, comm, stream);
SHOAL_NCCL_WITH_CONFIG(ncclBroadcast,
                       (const void* send, void* receive, std::size_t count, ncclDataType_t type,
                        int root, ncclComm_t comm, cudaStream_t stream, const CollConfig* config),
                       send, receive, count, type, root, comm, stream);
SHOAL_NCCL_WITH_CONFIG(ncclReduce,
                       (const void* send, void* receive, std::size_t count, ncclDataType_t type,
                        ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream,
                        const CollConfig* config),
                       send, receive, count, type, op, root, comm, stream);
SHOAL_NCCL_WITH_CONFIG(ncclAllGather,
                       (const void* send, void* receive, std::size_t count, ncclDataType_t type,
                        ncclComm_t comm, cudaStream_t stream, const CollConfig* config),
                       send, receive, count, type, comm, stream);
SHOAL_NCCL_WITH_CONFIG(ncclReduceScatter,
                       (const void* send, void* receive, std::size_t count, ncclDataType_t type,
                        ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream,
                        const CollConfig* config),
                       send, receive, count, type, op, comm, stream);
SHOAL_NCCL_WITH_CONFIG(ncclAlltoAll,
                       (const void* send, void* receive, std::size_t count, ncclDataType_t type,
                        ncclComm_t comm, cudaStream_t stream, const CollConfig* config),
                       send, receive, count, type, comm, stream);
SHOAL_NCCL_WITH_CONFIG(ncclGather,
                       (const void* send, void* receive, std::size_t count, ncclDataType_t type,
                        int root, ncclComm_t comm, cudaStream_t stream, const CollConfig* config),
                       send, receive, count, type, root, comm, stream);
SHOAL_NCCL_WITH_CONFIG(ncclScatter,
                       (const void* send, void* receive, std::size_t count, ncclDataType_t type,
                        int root, ncclComm_t comm, cudaStream_t stream, const CollConfig* config),
                       send, receive, count, type, root, comm, stream);

// NOLINTEND(readability-identifier-naming)

}  // namespace shoal::nccl
