/// One point-to-point message in flight. Matching (order per peer, tag and communicator) is the
/// transport's, once it has the transfer. Receives from any source, which transports do not know,
/// look for a message at each peer in turn and become receives from that peer.
///
/// Receives match in the order in which they were started. So one that finds an earlier one of its
/// communicator and tag without a transport, since that has found no message yet, stands in line
/// behind it: the next message, whoever sends it, belongs to the earlier one. Sends to one peer
/// stand in line likewise behind one that its transport had no room for.
#pragma once

#include <cstdint>

#include "exec/group.h"
#include "exec/task.h"
#include "shoal/abi/progress_page.h"
#include "transport/shm/fifo_map.h"

namespace shoal::exec {

struct TransferCall {
  Rank peer = 0;  ///< of the communicator; of a receive also kAnySource, until it has found one
  std::uint32_t tag = 0;
  DataType dtype = DataType::kUint8;
  std::int64_t bytes = 0;
  bool sends = true;
  const void* source = nullptr;  ///< of a send
  void* target = nullptr;        ///< of a receive
  std::int64_t deadline_ns = 0;
};

class Transfer;
/// Transfers of a process that no transport has taken, in the order of their start. In one line
/// stand receives of one communicator and tag, or sends that have the peer in common as well.
using TransferLines = transport::shm::FifoMap<Transfer>;

class Transfer final : public Task, public transport::shm::Element<Transfer> {
 public:
  Transfer(TaskPool<Transfer>& home, int number) noexcept : home_(&home), number_(number) {}

  void start(Group& group, const TransferCall& call, TransferLines& lines) noexcept;
  /// It is not over within its call: the progress page shows it from here on.
  void set_begin(std::int64_t now_ns) noexcept;
  bool poll(std::int64_t now_ns) noexcept override;
  void recycle() noexcept override { home_->release(*this); }
  [[nodiscard]] bool waits_for_network() const noexcept override {
    if (is_from_any()) return !group_->binding().one_node();
    return group_->binding().routes[call_.peer].node_index < 0;
  }
  [[nodiscard]] Rank source() const noexcept override;

  [[nodiscard]] const TransferCall& call() const noexcept { return call_; }
  /// Of a received message, for reports: its size and its sender's dtype.
  [[nodiscard]] const transport::Operation& operation() const noexcept { return operation_; }

 private:
  /// The message it gets, or waits to be allowed to look for, may come from any rank.
  [[nodiscard]] bool is_from_any() const noexcept {
    return !call_.sends && (call_.peer == kAnySource || in_line_);
  }
  bool post() noexcept;
  bool offer() noexcept;
  [[nodiscard]] Rank find_source(transport::Match match) const noexcept;
  void enter_line() noexcept;
  void leave_line() noexcept;
  bool awaits_cause(std::int64_t now_ns) noexcept;
  bool is_abandoned(std::int64_t now_ns) noexcept;
  void end() noexcept;
  void stop() noexcept;
  void clear_record() noexcept;

  TaskPool<Transfer>* home_;
  int number_;                             ///< the place of its record on the progress page
  abi::TransferRecord* record_ = nullptr;  ///< nullptr: it has none
  Group* group_ = nullptr;
  TransferLines* lines_ = nullptr;
  TransferCall call_{};
  bool posted_ = false;  ///< a transport has it
  bool in_line_ = false;
  std::int64_t left_ns_ = 0;  ///< when the peer was seen to have left
  std::int64_t lost_ns_ = 0;  ///< when the transport's error was seen
  transport::Operation operation_;
};

}  // namespace shoal::exec
