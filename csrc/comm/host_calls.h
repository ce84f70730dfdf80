/// What the host does with CUDA memory on behalf of a stream: collectives between nodes, and
/// messages.
///
/// The buffers are staged in a block of the rank's pool of host memory, pinned for the device. The
/// stream copies the input there, says so, and waits (cuda/host_stream_group.h); the engine then
/// does what it does for any call on host memory: a Run by the same schedules, or Transfers. When
/// that is over the stream is let go, and copies the output back. A collective has taken its
/// sequence number when it was called.
///
/// So long as anything is under way this is a task of the engine: whoever waits drives it, and
/// where nobody does, a thread of the context (HostDriver).
///
/// A communicator has one for its collectives and one for its messages. In each, operations run one
/// after the other, in the order of the calls: so one block, as large as the largest of them,
/// serves all.
///
/// After an error: all streams are let go, and no output is copied to the device any more. The
/// error is raised when the streams have passed what had been enqueued, or after exec::kFenceNs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "comm/stream_calls.h"
#include "core/clock.h"
#include "cuda/host_group.h"
#include "exec/run.h"
#include "exec/task.h"
#include "exec/transfer.h"
#include "memory/arena.h"

namespace shoal {
struct CommunicatorImpl;
}

namespace shoal::comm {

class Context;
class HostCalls;

/// A collective, or a message, as its Work sees it. Under the engine's lock.
class HostTask final : public exec::Task {
 public:
  explicit HostTask(HostCalls& home) noexcept : home_(&home) {}

  /// Its HostCalls is polled.
  bool poll(std::int64_t /*now_ns*/) noexcept override { return false; }
  void recycle() noexcept override;
  [[nodiscard]] bool waits_for_network() const noexcept override {
    return inner_ != nullptr && inner_->waits_for_network();
  }
  [[nodiscard]] bool is_detached() const noexcept override { return true; }
  [[nodiscard]] Rank source() const noexcept override { return source_; }

 private:
  friend class HostCalls;
  HostCalls* home_;
  exec::Task* inner_ = nullptr;  ///< the run or transfer, while it is the host's turn
  int output_ = -1;              ///< which of the operation's outputs it brings; -1: none
  Rank source_ = kAnySource;
  bool held_ = false;  ///< by a Work
};

/// Of one communicator: call() for its collectives, or batch() for its messages; both any thread,
/// the rest under the engine's lock.
class HostCalls final : public StreamCalls, private exec::Task {
 public:
  /// Throws Error: MissingLibrary, OutOfMemory, DeviceError.
  explicit HostCalls(CommunicatorImpl& impl);
  /// Waits until the streams have passed all operations, as long as one may take.
  ~HostCalls() override;
  HostCalls(const HostCalls&) = delete;
  HostCalls& operator=(const HostCalls&) = delete;

  exec::Task* call(const exec::Plan& plan, const void* input, void* output, void* stream,
                   std::int64_t timeout_ms) override;
  /// Messages that are under way together; `calls` with addresses of the device, and without
  /// deadlines. `tasks`: one for each. Throws Error if nothing has been enqueued.
  void batch(std::span<const exec::TransferCall> calls, void* stream, std::int64_t timeout_ms,
             std::span<exec::Task*> tasks);

  [[nodiscard]] std::string describe_current() const override;

 private:
  friend class HostTask;
  /// kStream: the stream has not come to it. kHost: runs or transfers are under way. kCopying: the
  /// stream goes on.
  enum class Stage : std::uint8_t { kStream, kHost, kCopying };
  /// What is enqueued as one. Kept and used again.
  struct Operation {
    std::uint32_t number = 0;  ///< among the operations on streams
    Stage stage = Stage::kStream;
    std::int64_t timeout_ns = 0;
    exec::Call collective;  ///< without a plan: messages
    std::uint64_t sequence = 0;
    std::vector<exec::TransferCall> messages;
    std::vector<HostTask*> tasks;  ///< one, or one for each message
  };
  /// Pool memory that is pinned.
  struct Block {
    memory::Offset offset = memory::kNoOffset;
    std::int64_t bytes = 0;
  };
  class Places;

  std::byte* reserve(const std::string& call, std::int64_t bytes, Deadline deadline);
  void drop_blocks() noexcept;
  void drive_until(Deadline deadline, const std::function<bool()>& is_there);
  void copy_in(const void* device, std::byte* host, std::int64_t bytes);
  void copy_out(void* device, std::byte* host, std::int64_t bytes);
  Operation& new_operation();
  HostTask& new_task();
  void enqueue(const std::string& call, Operation& operation, void* stream,
               std::span<exec::Task*> tasks);
  void show(Operation& operation, std::span<exec::Task*> tasks);

  bool poll(std::int64_t now_ns) noexcept override;
  void recycle() noexcept override {}
  [[nodiscard]] bool waits_for_network() const noexcept override { return false; }
  [[nodiscard]] bool is_detached() const noexcept override { return true; }
  [[nodiscard]] bool is_silent() const noexcept override;
  bool go_on(Operation& operation) noexcept;
  void begin(Operation& operation) noexcept;
  bool collect(Operation& operation) noexcept;
  bool end(std::int64_t now_ns) noexcept;
  void finish_front(Status status, const std::string& text) noexcept;

  CommunicatorImpl& impl_;
  std::unique_ptr<cuda::HostGroup> group_;
  std::mutex calls_mutex_;  ///< held by a call until it is enqueued: order on the streams
  // Under calls_mutex_:
  std::vector<Block> blocks_;  ///< the last one is in use; the streams may still use others
  std::vector<cuda::HostCopy> inputs_, outputs_;
  // Under the engine's lock:
  std::deque<Operation*> pending_;  ///< in the order of their numbers
  std::vector<std::unique_ptr<Operation>> all_operations_;
  std::vector<Operation*> free_operations_;
  std::vector<std::unique_ptr<HostTask>> all_tasks_;
  std::vector<HostTask*> free_tasks_;
  std::vector<exec::Transfer*> transfers_;
};

/// Drives the engine while any HostCalls of a rank has something under way.
class HostDriver {
 public:
  explicit HostDriver(Context& context);
  ~HostDriver();
  HostDriver(const HostDriver&) = delete;
  HostDriver& operator=(const HostDriver&) = delete;

  /// One more has begun, or come to its end. Any thread.
  void begin();
  void end() noexcept;

 private:
  void run();

  Context& context_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<int> busy_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace shoal::comm
