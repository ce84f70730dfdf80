#include "nccl/drop_in/group.h"

#include <strings.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "nccl/drop_in/real.h"
#include "shoal/error.h"

namespace shoal::nccl {

namespace {

/// How long one of several operations is waited for before the next gets its turn.
constexpr std::int64_t kTurnMs = 1;

struct Group {
  int depth = 0;
  std::vector<Operation> operations;
  std::vector<std::function<void()>> makers;
};

thread_local Group group;
thread_local std::string error_text;

/// The first error of several.
class FirstError {
 public:
  template <class Action>
  void watch(Action&& action) noexcept {
    try {
      action();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (error_ == nullptr) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;  // mutex_
};

void run_makers(const std::vector<std::function<void()>>& makers) {
  if (makers.size() == 1) return makers[0]();
  FirstError first;
  std::vector<std::thread> threads;
  for (const auto& maker : makers) threads.emplace_back([&] { first.watch(maker); });
  for (std::thread& thread : threads) thread.join();
  first.rethrow();
}

struct Started {
  Work work;
  const Operation* operation;
};

/// Messages of one communicator that start together, so that they cannot wait for each other; those
/// of host memory and those of CUDA memory are two batches.
struct Batch {
  CallOptions options;
  std::vector<Message> messages;
};

void add(Batch& batch, const Operation& operation) {
  const bool is_first = batch.messages.empty();
  if (!is_first && batch.options.stream != operation.options.stream) {
    throw Error(ErrorCode::kInvalidArgument,
                "the sends and receives of a group are on several streams of one communicator; "
                "shoal starts them together, on one");
  }
  batch.options = operation.options;
  batch.messages.push_back(*operation.message);
}

/// Throws Error if nothing has been started.
void start_messages(const std::vector<Operation>& operations, std::vector<Started>& started,
                    FirstError& first) {
  std::map<std::pair<ncclComm*, bool>, Batch> batches;
  for (const Operation& operation : operations) {
    if (!operation.message) continue;
    Batch& batch = batches[{operation.comm, operation.options.on_stream}];
    add(batch, operation);
  }
  for (auto& [key, batch] : batches) {
    first.watch([&, comm = key.first, &batch = batch] {
      for (Work& work : comm->comm.batch(batch.messages, batch.options)) {
        if (!batch.options.on_stream) started.push_back({std::move(work), nullptr});
      }
    });
  }
}

/// A wait drives the operations of one rank only, and this thread may have several ranks.
void wait_for_all(std::vector<Started>& started) {
  std::size_t left = started.size();
  std::vector<bool> done(left, false);
  while (left > 0) {  // each operation has a deadline
    for (std::size_t i = 0; i < started.size(); ++i) {
      if (done[i] || !(left == 1 ? started[i].work.wait_for(1000 * kTurnMs)
                                 : started[i].work.test() || started[i].work.wait_for(kTurnMs))) {
        continue;
      }
      done[i] = true;
      --left;
    }
  }
}

void run(const std::vector<Operation>& operations) {
  FirstError first;
  std::vector<Started> started;
  start_messages(operations, started, first);
  bool elsewhere = false;
  for (const Operation& operation : operations) {
    elsewhere |= operation.elsewhere != nullptr;
    if (operation.start == nullptr) continue;
    first.watch([&] {
      Work work = operation.start();
      if (operation.ends_here) started.push_back({std::move(work), &operation});
    });
  }
  if (elsewhere) {
    first.watch([&] {
      const RealGroup together;
      for (const Operation& operation : operations) {
        if (operation.elsewhere != nullptr) operation.elsewhere();
      }
    });
  }
  wait_for_all(started);
  for (Started& one : started) {
    first.watch([&] {
      one.work.wait();
      if (one.operation != nullptr && one.operation->finish) one.operation->finish();
    });
  }
  first.rethrow();
}

/// As NCCL does, at its level WARN and above.
bool prints_errors() {
  const char* level = std::getenv("NCCL_DEBUG");
  return level != nullptr && *level != '\0' && ::strcasecmp(level, "version") != 0;
}

ncclResult_t failed(ncclResult_t result, const char* text) noexcept {
  try {
    error_text = text;
    if (prints_errors()) {
      std::fprintf(stderr, "%d NCCL WARN (shoal) %s\n", static_cast<int>(::getpid()), text);
    }
  } catch (...) {  // no memory for the text
  }
  return result;
}

}  // namespace

void submit(Operation operation) {
  group.operations.push_back(std::move(operation));
  if (group.depth == 0) end_group();
}

void submit_maker(std::function<void()> maker) {
  group.makers.push_back(std::move(maker));
  if (group.depth == 0) end_group();
}

void start_group() noexcept { ++group.depth; }

void end_group() {
  if (group.depth > 1) {
    --group.depth;
    return;
  }
  group.depth = 0;
  // Whatever comes of it, the next group begins empty.
  const auto makers = std::exchange(group.makers, {});
  const auto operations = std::exchange(group.operations, {});
  if (!makers.empty()) run_makers(makers);
  if (!operations.empty()) run(operations);
}

ncclResult_t result_of(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kOk:
      return ncclSuccess;
    case ErrorCode::kInvalidArgument:
      return ncclInvalidArgument;
    case ErrorCode::kMismatch:
    case ErrorCode::kAborted:
    case ErrorCode::kBufferInUse:
    case ErrorCode::kMissingLibrary:
      return ncclInvalidUsage;
    case ErrorCode::kPeerFailed:
    case ErrorCode::kTimeout:
      return ncclRemoteError;
    default:
      return ncclSystemError;
  }
}

ncclResult_t guarded(const std::function<void()>& call) noexcept {
  try {
    call();
    return ncclSuccess;
  } catch (const RealError& error) {
    return failed(error.result(), error.what());
  } catch (const Error& error) {
    return failed(result_of(error.code()), error.what());
  } catch (const std::exception& error) {
    return failed(ncclInternalError, error.what());
  }
}

const std::string& last_error() noexcept { return error_text; }

}  // namespace shoal::nccl
