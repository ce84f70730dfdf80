#include "streams.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "state.h"

namespace fake {
namespace {

using std::chrono::microseconds;

/// A memory operation that waits longer is a test that hangs.
constexpr int kWaitSeconds = 100;

/// Something that happens once.
class Completion {
 public:
  void complete() {
    const std::lock_guard lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }
  [[nodiscard]] bool done() {
    const std::lock_guard lock(mutex_);
    return done_;
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
};

struct Capture {
  std::vector<Operation> nodes;
  std::set<CUstream> streams;
};

}  // namespace
}  // namespace fake

/// Alive while its handle or its thread is.
struct CUstream_st {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<fake::Operation> queue;
  bool busy = false;
  bool closing = false;
  std::shared_ptr<fake::Capture> capture;  // of this stream's work, now
};

struct CUevent_st {
  std::mutex mutex;
  std::shared_ptr<fake::Completion> recorded;  // nullptr: never, which counts as completed
  std::weak_ptr<fake::Capture> capture;        // it was recorded in this one
};

struct CUgraph_st {
  std::vector<fake::Operation> nodes;
};
struct CUgraphExec_st {
  std::vector<fake::Operation> nodes;
};

namespace fake {
namespace {

/// Never destroyed: threads use it until the process has ended.
struct Registry {
  std::mutex mutex;
  std::map<CUstream, std::shared_ptr<CUstream_st>> streams;
  /// By context; of the threads' own default streams, by thread too.
  std::map<std::pair<CUcontext, std::thread::id>, CUstream> null_streams;
  std::mutex capture_mutex;
};

Registry& registry() {
  static Registry* const registry = new Registry;
  return *registry;
}

void run_one(const Operation& operation) {
  if (settings().delay_us > 0) std::this_thread::sleep_for(microseconds(settings().delay_us));
  // On a lost context nothing runs any more, but what waits for it is let go.
  if (sticky() == CUDA_SUCCESS) (void)fail_if_asked("stream");
  operation();
}

void work(const std::shared_ptr<CUstream_st>& stream) {
  std::unique_lock lock(stream->mutex);
  for (;;) {
    stream->changed.wait(lock, [&] { return stream->closing || !stream->queue.empty(); });
    if (stream->queue.empty()) return;
    const Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    stream->busy = true;
    lock.unlock();
    run_one(operation);
    lock.lock();
    stream->busy = false;
    stream->changed.notify_all();
  }
}

CUstream open_stream() {
  auto stream = std::make_shared<CUstream_st>();
  std::thread([stream] { work(stream); }).detach();
  registry().streams.emplace(stream.get(), stream);
  return stream.get();
}

/// nullptr: no such stream.
std::shared_ptr<CUstream_st> find(CUstream handle) {
  const std::lock_guard lock(registry().mutex);
  if (handle == nullptr || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
    const bool of_thread = handle == CU_STREAM_PER_THREAD;
    const auto owner = of_thread ? std::this_thread::get_id() : std::thread::id();
    CUstream& stream = registry().null_streams[{current(), owner}];
    if (stream == nullptr) stream = open_stream();
    handle = stream;
  }
  const auto found = registry().streams.find(handle);
  return found == registry().streams.end() ? nullptr : found->second;
}

void push(const std::shared_ptr<CUstream_st>& stream, Operation operation) {
  const std::lock_guard lock(stream->mutex);
  stream->queue.push_back(std::move(operation));
  stream->changed.notify_all();
}

bool satisfied(std::uint64_t value, std::uint64_t wanted, unsigned flags, bool wide) {
  const std::uint64_t mask = wide ? ~std::uint64_t{0} : 0xffffffff;
  switch (flags & 3) {
    case CU_STREAM_WAIT_VALUE_GEQ:
      return wide ? static_cast<std::int64_t>(value - wanted) >= 0
                  : static_cast<std::int32_t>(value - wanted) >= 0;
    case CU_STREAM_WAIT_VALUE_EQ:
      return ((value ^ wanted) & mask) == 0;
    case CU_STREAM_WAIT_VALUE_AND:
      return (value & wanted & mask) != 0;
    default:
      return (~(value | wanted) & mask) != 0;
  }
}

template <class Word>
Word load(CUdeviceptr address) {
  return std::atomic_ref(*reinterpret_cast<Word*>(address)).load(std::memory_order_acquire);
}
template <class Word>
void store(CUdeviceptr address, Word value) {
  std::atomic_ref(*reinterpret_cast<Word*>(address)).store(value, std::memory_order_release);
}

void wait_value(CUdeviceptr address, std::uint64_t wanted, unsigned flags, bool wide) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(kWaitSeconds);
  while (!satisfied(wide ? load<std::uint64_t>(address) : load<std::uint32_t>(address), wanted,
                    flags, wide)) {
    if (sticky() != CUDA_SUCCESS) return;
    if (std::chrono::steady_clock::now() > give_up) {
      std::fprintf(stderr, "fake_cuda: a stream has waited %d s for a value at %p\n", kWaitSeconds,
                   reinterpret_cast<void*>(address));
      std::abort();
    }
    std::this_thread::sleep_for(microseconds(20));
  }
}

void run_memory_operation(const CUstreamBatchMemOpParams& op) {
  switch (op.operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
      return wait_value(op.waitValue.address, op.waitValue.value, op.waitValue.flags, false);
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
      return wait_value(op.waitValue.address, op.waitValue.value64, op.waitValue.flags, true);
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
      return store<std::uint32_t>(op.writeValue.address, op.writeValue.value);
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
      return store<std::uint64_t>(op.writeValue.address, op.writeValue.value64);
    default:
      return;  // barriers: all is in order here
  }
}

bool is_known(CUstreamBatchMemOpType operation) {
  return operation == CU_STREAM_MEM_OP_WAIT_VALUE_32 ||
         operation == CU_STREAM_MEM_OP_WAIT_VALUE_64 ||
         operation == CU_STREAM_MEM_OP_WRITE_VALUE_32 ||
         operation == CU_STREAM_MEM_OP_WRITE_VALUE_64 || operation == CU_STREAM_MEM_OP_BARRIER ||
         operation == CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES;
}

std::shared_ptr<Capture> capture_of(CUstream_st& stream) {
  const std::lock_guard lock(registry().capture_mutex);
  return stream.capture;
}

CUresult synchronize(const std::shared_ptr<CUstream_st>& stream) {
  if (capture_of(*stream) != nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  std::unique_lock lock(stream->mutex);
  stream->changed.wait(lock, [&] { return stream->queue.empty() && !stream->busy; });
  return sticky();
}

}  // namespace

CUresult enqueue(CUstream handle, Operation operation) {
  const auto stream = find(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (const auto capture = capture_of(*stream)) {
    const std::lock_guard lock(registry().capture_mutex);
    capture->nodes.push_back(std::move(operation));
    return CUDA_SUCCESS;
  }
  push(stream, [operation = std::move(operation)] {
    if (sticky() == CUDA_SUCCESS) operation();
  });
  return CUDA_SUCCESS;
}

CUresult enqueue(const char* call, CUstream stream, Operation operation) {
  if (const CUresult r = enter_context(call); r != CUDA_SUCCESS) return r;
  return enqueue(stream, std::move(operation));
}

}  // namespace fake

using fake::enter;
using fake::enter_context;
using fake::find;
using fake::registry;

extern "C" {

CUresult CUDAAPI cuStreamCreate(CUstream* stream, unsigned int) {
  if (const CUresult r = enter_context("cuStreamCreate"); r != CUDA_SUCCESS) return r;
  const std::lock_guard lock(registry().mutex);
  *stream = fake::open_stream();
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamDestroy(CUstream handle) {
  const auto stream = find(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  {
    const std::lock_guard lock(registry().mutex);
    registry().streams.erase(handle);
  }
  const std::lock_guard lock(stream->mutex);
  stream->closing = true;  // its thread ends when the queue is empty
  stream->changed.notify_all();
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamSynchronize(CUstream handle) {
  if (const CUresult r = enter_context("cuStreamSynchronize"); r != CUDA_SUCCESS) return r;
  const auto stream = find(handle);
  return stream == nullptr ? CUDA_ERROR_INVALID_HANDLE : fake::synchronize(stream);
}

CUresult CUDAAPI cuStreamQuery(CUstream handle) {
  if (const CUresult r = enter_context("cuStreamQuery"); r != CUDA_SUCCESS) return r;
  const auto stream = find(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (fake::capture_of(*stream) != nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  const std::lock_guard lock(stream->mutex);
  return stream->queue.empty() && !stream->busy ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult CUDAAPI cuEventCreate(CUevent* event, unsigned int) {
  if (const CUresult r = enter_context("cuEventCreate"); r != CUDA_SUCCESS) return r;
  *event = new CUevent_st;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventDestroy(CUevent event) {
  delete event;  // what waits for it holds the completion itself
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventRecord(CUevent event, CUstream handle) {
  if (const CUresult r = enter_context("cuEventRecord"); r != CUDA_SUCCESS) return r;
  const auto stream = find(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const std::lock_guard lock(event->mutex);
  if (const auto capture = fake::capture_of(*stream)) {
    event->capture = capture;
    return CUDA_SUCCESS;
  }
  auto completion = std::make_shared<fake::Completion>();
  event->recorded = completion;
  event->capture.reset();
  fake::push(stream, [completion] { completion->complete(); });
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventQuery(CUevent event) {
  if (const CUresult r = enter("cuEventQuery"); r != CUDA_SUCCESS) return r;
  const std::lock_guard lock(event->mutex);
  if (event->capture.lock() != nullptr) return CUDA_ERROR_CAPTURED_EVENT;
  const bool done = event->recorded == nullptr || event->recorded->done();
  return done ? fake::sticky() : CUDA_ERROR_NOT_READY;
}

CUresult CUDAAPI cuEventSynchronize(CUevent event) {
  if (const CUresult r = enter("cuEventSynchronize"); r != CUDA_SUCCESS) return r;
  std::shared_ptr<fake::Completion> recorded;
  {
    const std::lock_guard lock(event->mutex);
    if (event->capture.lock() != nullptr) return CUDA_ERROR_CAPTURED_EVENT;
    recorded = event->recorded;
  }
  if (recorded != nullptr) recorded->wait();
  return fake::sticky();
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream handle, CUevent event, unsigned int) {
  if (const CUresult r = enter_context("cuStreamWaitEvent"); r != CUDA_SUCCESS) return r;
  const auto stream = find(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  std::shared_ptr<fake::Completion> recorded;
  std::shared_ptr<fake::Capture> capture;
  {
    const std::lock_guard lock(event->mutex);
    recorded = event->recorded;
    capture = event->capture.lock();
  }
  if (capture != nullptr) {  // a fork: this stream's work belongs to the graph from now on
    const std::lock_guard lock(registry().capture_mutex);
    if (stream->capture != nullptr && stream->capture != capture) {
      return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    stream->capture = capture;
    capture->streams.insert(stream.get());
    return CUDA_SUCCESS;
  }
  if (fake::capture_of(*stream) != nullptr) return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  if (recorded != nullptr) fake::push(stream, [recorded] { recorded->wait(); });
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamBatchMemOp(CUstream stream, unsigned int count,
                                    CUstreamBatchMemOpParams* operations, unsigned int flags) {
  if (count > 256 || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  std::vector<CUstreamBatchMemOpParams> copy(operations, operations + count);
  for (const auto& operation : copy) {
    if (!fake::is_known(operation.operation)) return CUDA_ERROR_INVALID_VALUE;
  }
  return fake::enqueue("cuStreamBatchMemOp", stream, [copy = std::move(copy)] {
    for (const auto& operation : copy) fake::run_memory_operation(operation);
  });
}

CUresult CUDAAPI cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
  return fake::enqueue("cuLaunchHostFunc", stream, [function, data] { function(data); });
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  if (const CUresult r = enter("cuStreamIsCapturing"); r != CUDA_SUCCESS) return r;
  const auto stream = find(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *status = fake::capture_of(*stream) != nullptr ? CU_STREAM_CAPTURE_STATUS_ACTIVE
                                                 : CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode) {
  if (const CUresult r = enter_context("cuStreamBeginCapture"); r != CUDA_SUCCESS) return r;
  const auto stream = handle == nullptr ? nullptr : find(handle);
  if (stream == nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  const std::lock_guard lock(registry().capture_mutex);
  if (stream->capture != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capture = std::make_shared<fake::Capture>();
  stream->capture->streams.insert(stream.get());
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamEndCapture(CUstream handle, CUgraph* graph) {
  const auto stream = find(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const std::lock_guard lock(registry().capture_mutex);
  const std::shared_ptr<fake::Capture> capture = stream->capture;
  if (capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  for (CUstream captured : capture->streams) captured->capture.reset();
  *graph = new CUgraph_st{capture->nodes};
  return CUDA_SUCCESS;
}

/// Calls that are unsafe during another thread's capture are not refused here.
CUresult CUDAAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  thread_local CUstreamCaptureMode current = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::swap(*mode, current);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphInstantiate(CUgraphExec* exec, CUgraph graph, unsigned long long) {
  if (const CUresult r = enter("cuGraphInstantiate"); r != CUDA_SUCCESS) return r;
  *exec = new CUgraphExec_st{graph->nodes};
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  return fake::enqueue("cuGraphLaunch", stream, [nodes = exec->nodes] {
    for (const auto& node : nodes) node();
  });
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec exec) {
  delete exec;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphDestroy(CUgraph graph) {
  delete graph;
  return CUDA_SUCCESS;
}

}  // extern "C"
