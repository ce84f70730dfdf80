/// One communicator's operations on CUDA memory, at one rank: enqueued on the user's stream, and
/// over when the stream has passed them. The host waits for nothing.
///
///   host     writes its record; issued = n
///   stream   [ready[me] = n; wait for ready[*]] [kernel] [done[me] = n; wait for done[*];
///             completed[me] = n]
///
/// The brackets are one batch of stream memory operations, one launch, one batch. Nothing spins on
/// the device, so ranks may share a GPU that is given to them in turns: a kernel is launched when
/// all inputs are there.
///
/// Where the ranks are threads of one process (Members::spins) their kernels run side by side: they
/// do the waiting themselves, through device memory, and the batches fall away (kernel_meeting.h);
/// what is small takes one round instead of two (kernel_one_shot.h).
///
/// Operations of one communicator run in the order of their calls, whatever their streams: where
/// the stream changes, the new one first waits for completed[me]. No event, for the old stream may
/// be gone.
///
/// A captured operation has flags of its own (control_block.h) and no host behind it when it runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "cuda/control_block.h"
#include "cuda/device_group.h"
#include "cuda/handles.h"
#include "cuda/kernels.h"
#include "cuda/stream_batch.h"
#include "cuda/workspace.h"

namespace shoal::cuda {

/// Where a buffer lies: a local rank's slice, and how far into it. -1: no buffer.
struct Location {
  int owner = -1;
  std::int64_t offset = 0;
};

/// Who takes part.
struct Members {
  int self = 0;
  int ranks = 1;
  /// The kernel waits for the others: all of them can run beside it. The same for all ranks, as
  /// whether they are threads of one process is.
  bool spins = false;
  int blocks_limit = 0;  ///< of one launch, where kernels must fit side by side; 0: none
  /// Where it spins: WorkspaceLayout::bytes() of zeroed device memory in reach of all ranks.
  std::uint64_t workspace = 0;
};

struct StreamCall {
  Collective collective = Collective::kBarrier;
  DataType dtype = DataType::kUint8;
  ReduceOp op = ReduceOp::kSum;
  int root = 0;
  std::int64_t count = 0;  ///< elements of one block
  std::uint64_t sequence = 0;
  std::uint64_t fingerprint = 0;
  Location input, output;
  std::uint64_t input_address = 0, output_address = 0;  ///< of the same, for kernels that spin
  CUstream stream = nullptr;
  /// Something of the operation follows on the stream, a copy out of staging: finish() is to come.
  bool ends_later = false;
};

/// One thread at a time, but for what says any thread.
class StreamGroup {
 public:
  /// `block`: ControlLayout::bytes() of zeroed host memory. `bases`: what KernelParameters::bases
  /// says, an address of the device, which outlives the group. Throws Error.
  StreamGroup(const PrimaryContext& context, const Kernels& kernels, const Members& members,
              std::shared_ptr<const MappedMemory> block, const std::uint64_t* bases);
  ~StreamGroup();
  StreamGroup(const StreamGroup&) = delete;
  StreamGroup& operator=(const StreamGroup&) = delete;

  /// What the host can still issue without overwriting a record that a kernel may read: false after
  /// kRecords operations that the GPU has not passed. Any thread.
  [[nodiscard]] bool has_room() const noexcept;
  /// It goes one-shot unless it is captured: neither its input nor its output is touched by others,
  /// so `input` and `output` say nothing then. The same for all ranks.
  [[nodiscard]] bool is_one_shot(Collective collective, std::int64_t block_bytes) const noexcept;
  /// Enqueues an operation; there is room. An error in the midst of it leaves the others waiting:
  /// abort() is due.
  Outcome enqueue(const StreamCall& call) noexcept;
  /// Of a call that ends later: here, on its stream.
  Outcome finish(CUstream stream) noexcept;
  /// Captures an operation into the graph of its stream; captures_left() > 0.
  Outcome capture(const StreamCall& call) noexcept;
  [[nodiscard]] int captures() const noexcept { return control_.layout().captures(); }
  [[nodiscard]] int captures_left() const noexcept {
    return control_.layout().captures() - captured_.load(std::memory_order_relaxed);
  }

  /// What comes next on the stream waits until operation `number` is over. Any thread.
  Outcome order_after(std::uint32_t number, CUstream stream) const noexcept;

  // --- looking at it; any thread

  /// A rank whose group has not been made; -1: none, or nothing waits for it. A kernel that waits
  /// for the others in itself has to wait until all are: making one takes calls of the driver that
  /// may wait for the kernel.
  [[nodiscard]] int absent() const noexcept;
  /// Of the last operation that was enqueued, from 1.
  [[nodiscard]] std::uint32_t issued() const noexcept {
    return control_.load(control_.layout().flag(ControlLayout::kIssued, members_.self));
  }
  /// The stream has passed operation `number`: nobody touches its buffers any more.
  [[nodiscard]] bool is_over(std::uint32_t number) const noexcept {
    return has_reached(flag(ControlLayout::kCompleted, members_.self), number);
  }
  /// This rank's stream has come to it.
  [[nodiscard]] bool is_reached(std::uint32_t number) const noexcept {
    return is_reached_by(members_.self, number);
  }
  [[nodiscard]] bool is_reached_by(int rank, std::uint32_t number) const noexcept {
    return has_reached(flag(ControlLayout::kReady, rank), number);
  }
  /// Whom operation `number` waits for; -1: nobody.
  [[nodiscard]] int awaited(std::uint32_t number) const noexcept;
  /// The rank that has called something else, by a kernel's word; -1: none.
  [[nodiscard]] int complained_of() const noexcept;

  using Stuck = DeviceGroup::Stuck;
  /// Of all that were captured; to be asked now and then, by one thread.
  Stuck stuck_capture(std::int64_t now_ns) noexcept;
  [[nodiscard]] bool has_captures() const noexcept {
    return captured_.load(std::memory_order_relaxed) > 0;
  }

  // --- the end; any thread but for leave()

  /// The communicator has ended: no kernel writes any more, and whatever waits is let go. To be
  /// repeated until is_drained(): streams that are let go set flags back.
  void abort() noexcept;
  [[nodiscard]] bool is_aborted() const noexcept {
    return control_.load(ControlLayout::abort()) != 0;
  }
  /// A rank's streams have passed all that its host has enqueued.
  [[nodiscard]] bool is_drained(int rank) const noexcept {
    return has_reached(flag(ControlLayout::kCompleted, rank), flag(ControlLayout::kIssued, rank));
  }
  /// Nothing is enqueued any more, nor is abort() called. True: nor does anything store to this
  /// rank's workspace from now on. To be asked again if it matters.
  bool leave() noexcept;

 private:
  [[nodiscard]] std::uint32_t flag(ControlLayout::Flag which, int rank) const noexcept {
    return control_.load(control_.layout().flag(which, rank));
  }
  [[nodiscard]] CUdeviceptr device(std::int64_t offset) const noexcept {
    return mapped_->on_device(control_.memory() + offset);
  }
  template <class T>
  [[nodiscard]] T* pointer(std::int64_t offset) const noexcept {
    return reinterpret_cast<T*>(device(offset));
  }
  void write(std::int64_t offset, std::uint32_t value) noexcept;
  void wait(std::int64_t offset, std::uint32_t value, unsigned condition) noexcept;
  Outcome flush(CUstream stream) noexcept;
  void fill(Record& record, const StreamCall& call) const noexcept;
  [[nodiscard]] KernelParameters parameters(const StreamCall& call) const noexcept;
  [[nodiscard]] int blocks_for(const StreamCall& call) const noexcept;
  Outcome launch(const StreamCall& call, const KernelParameters& parameters, bool spins) noexcept;
  void wait_for_all(ControlLayout::Flag phase) noexcept;
  [[nodiscard]] bool has_one_left() const noexcept;
  Outcome launch_one_shot(const StreamCall& call, const KernelParameters& parameters) noexcept;
  Outcome clear(std::int64_t offset, std::int64_t bytes, CUstream stream) noexcept;
  Outcome sweep(CUstream stream) noexcept;
  [[nodiscard]] bool can_send() noexcept;
  void fill(Spin& spin, const StreamCall& call) const noexcept;
  Outcome enqueue_nothing(const StreamCall& call) noexcept;
  Outcome enqueue_spinning(const StreamCall& call) noexcept;
  void tell_device() noexcept;
  [[nodiscard]] bool has_told() const noexcept;
  const PrimaryContext* context_;
  const Kernels* kernels_;
  Members members_;
  ControlBlock control_;
  const std::uint64_t* bases_;
  std::shared_ptr<const MappedMemory> mapped_;  ///< the block
  std::uint32_t number_;                        ///< of the last operation
  std::optional<CUstream> last_stream_;
  StreamBatch batch_;
  // Where kernels spin:
  WorkspaceLayout workspace_;
  std::vector<std::uint64_t> workspaces_;  ///< of all ranks ...
  bool knows_all_ = false;                 ///< ... which it has once all are present
  std::atomic<bool> told_{false};          ///< the device, that the communicator has ended ...
  Stream telling_;                         ///< ... on this stream

  std::atomic<int> captured_{0};
  struct Watch {
    std::uint32_t runs = 0;
    int awaited = -1;
    std::int64_t since_ns = 0;
  };
  std::vector<Watch> watches_;
};

}  // namespace shoal::cuda
