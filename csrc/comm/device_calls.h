/// Collectives on CUDA memory in one node: between the communicator, which numbers, compares and
/// ends, and the streams, which do the work (cuda/stream_group.h).
///
/// A call takes a number and shows its line like any other, so that the ranks can compare what they
/// have called, and has then ended as far as the engine's window is concerned: the stream goes on
/// by itself. What happens there a thread of the context looks at (DeviceWatch): operations that
/// are over, deadlines, the communicator's end.
///
/// After an error: every wait of every stream is let go, kernels write nothing any more, and the
/// error is raised when the streams of all ranks have passed what had been enqueued, or after
/// kFenceNs: a stream that has not come to an operation by then will not write either.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm/stream_calls.h"
#include "cuda/device_group.h"
#include "exec/plan.h"
#include "exec/task.h"

namespace shoal {
struct CommunicatorImpl;
}

namespace shoal::comm {

class Context;
class DeviceCalls;

/// An operation on a stream. Under the engine's lock.
class DeviceTask final : public exec::Task {
 public:
  explicit DeviceTask(DeviceCalls& home) noexcept : home_(&home) {}

  void start(const exec::Plan& plan, std::uint64_t sequence, std::uint32_t number,
             std::int64_t timeout_ns) noexcept;
  bool poll(std::int64_t now_ns) noexcept override;
  /// Nobody waits for it any more.
  void recycle() noexcept override;
  [[nodiscard]] bool waits_for_network() const noexcept override { return false; }
  [[nodiscard]] bool is_detached() const noexcept override { return true; }

 private:
  friend class DeviceCalls;
  DeviceCalls* home_;
  const exec::Plan* plan_ = nullptr;
  std::uint64_t sequence_ = 0;
  std::uint32_t number_ = 0;  ///< among the operations on streams
  std::int64_t timeout_ns_ = 0;
  std::int64_t begin_ns_ = 0;  ///< when the stream was first seen to have come to it; 0: not yet
  std::int64_t left_ns_ = 0;   ///< when whom it waits for was first seen to have left the job
  bool held_ = false;          ///< by a Work
};

/// Of one communicator. call() any thread; the rest under the engine's lock.
class DeviceCalls final : public StreamCalls {
 public:
  /// Throws Error: MissingLibrary, OutOfMemory, DeviceError.
  explicit DeviceCalls(CommunicatorImpl& impl);
  /// Waits until the streams have passed all operations, as long as one may take.
  ~DeviceCalls() override;
  DeviceCalls(const DeviceCalls&) = delete;
  DeviceCalls& operator=(const DeviceCalls&) = delete;

  exec::Task* call(const exec::Plan& plan, const void* input, void* output, void* stream,
                   std::int64_t timeout_ms) override;

  /// What has changed on the streams. True: look again soon.
  bool watch(std::int64_t now_ns) noexcept;
  /// Operations that have ended since this was last asked.
  bool take_ended() noexcept { return std::exchange(ended_some_, false); }
  [[nodiscard]] std::string describe_current() const override;
  /// The stream of a rank has come to an operation that is not over here.
  [[nodiscard]] bool is_reached(std::uint64_t sequence, int rank) const noexcept;

 private:
  friend class DeviceTask;
  struct Entered {
    std::uint64_t sequence = 0;
    DeviceTask* task = nullptr;
  };
  std::byte* share_block();
  bool try_enter(const exec::Plan& plan, bool is_captured, std::int64_t timeout_ns,
                 Entered& entered);
  void enter(const exec::Plan& plan, bool is_captured, std::int64_t timeout_ms, Entered& entered);
  void meet(const exec::Plan& plan, std::uint64_t sequence, std::int64_t timeout_ms);
  void finish_over() noexcept;
  void finish(DeviceTask& task, Status status, const std::string& text) noexcept;
  void look_for_trouble(std::int64_t now_ns);
  void look_at_oldest(std::int64_t now_ns);
  void end(std::int64_t now_ns) noexcept;
  [[nodiscard]] bool is_quiet() const noexcept;
  void fail(Status status, std::string text);
  void show(const DeviceTask& task, std::uint32_t state, int awaited) noexcept;

  CommunicatorImpl& impl_;
  std::unique_ptr<cuda::DeviceGroup> group_;
  std::mutex calls_mutex_;  ///< held by a call until it is enqueued: order on the streams
  std::uint64_t last_sequence_ = 0;
  std::int64_t capture_timeout_ns_ = 0;  ///< of what was captured last
  std::deque<DeviceTask*> pending_;      ///< in the order of their numbers
  std::vector<std::unique_ptr<DeviceTask>> all_;
  std::vector<DeviceTask*> free_;
  bool ended_some_ = false;
};

/// Looks at the streams of all communicators of a rank.
class DeviceWatch {
 public:
  explicit DeviceWatch(Context& context);
  ~DeviceWatch();
  DeviceWatch(const DeviceWatch&) = delete;
  DeviceWatch& operator=(const DeviceWatch&) = delete;

  void add(DeviceCalls& calls);
  void remove(DeviceCalls& calls);

 private:
  void run();

  Context& context_;
  std::vector<DeviceCalls*> calls_;  // engine's lock
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace shoal::comm
