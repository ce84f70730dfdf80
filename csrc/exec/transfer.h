/// One point-to-point message in flight. Matching (order per peer, tag and communicator) is the
/// transport's.
#pragma once

#include <cstdint>

#include "exec/group.h"
#include "exec/task.h"

namespace shoal::exec {

struct TransferCall {
  Rank peer = 0;  ///< of the communicator
  std::uint32_t tag = 0;
  DataType dtype = DataType::kUint8;
  std::int64_t bytes = 0;
  bool sends = true;
  const void* source = nullptr;  ///< of a send
  void* target = nullptr;        ///< of a receive
  std::int64_t deadline_ns = 0;
};

class Transfer final : public Task {
 public:
  explicit Transfer(TaskPool<Transfer>& home) noexcept : home_(&home) {}

  void start(Group& group, const TransferCall& call) noexcept;
  bool poll(std::int64_t now_ns) noexcept override;
  void recycle() noexcept override { home_->release(*this); }
  [[nodiscard]] bool waits_for_network() const noexcept override {
    return group_->binding().routes[call_.peer].node_index < 0;
  }

  [[nodiscard]] const TransferCall& call() const noexcept { return call_; }
  /// Of a received message, for reports: its size and its sender's dtype.
  [[nodiscard]] const transport::Operation& operation() const noexcept { return operation_; }

 private:
  bool post() noexcept;
  bool awaits_cause(std::int64_t now_ns) noexcept;
  void end() noexcept;
  void stop() noexcept;

  TaskPool<Transfer>* home_;
  Group* group_ = nullptr;
  TransferCall call_{};
  bool posted_ = false;
  std::int64_t lost_ns_ = 0;  ///< when the transport's error was seen
  transport::Operation operation_;
};

}  // namespace shoal::exec
