/// What comm/ sees of one communicator's collectives on CUDA memory, without cuda.h; see
/// stream_group.h for how they run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/control_block.h"
#include "shoal/types.h"

namespace shoal::cuda {

struct GroupOptions {
  int self = 0;                  ///< place among the ranks of the node
  std::vector<int> local_ranks;  ///< of all of them, by place
  /// ControlLayout::bytes() of memory that they share, whole pages, zeroed. The driver knows it
  /// until the end of the DeviceMemory: others of the same size may follow at the same address
  /// only.
  std::byte* control = nullptr;
  /// Kernels wait for one another themselves: the ranks are threads of one process, or each has a
  /// GPU of its own.
  bool spins = false;
  int ranks_on_device = 1;  ///< whose kernels then have to fit side by side
};

struct GroupCall {
  Collective collective = Collective::kBarrier;
  DataType dtype = DataType::kUint8;
  ReduceOp op = ReduceOp::kSum;
  int root = 0;
  std::int64_t count = 0;               ///< elements of one block
  std::uint64_t input = 0, output = 0;  ///< addresses; looked at where there are bytes
  std::int64_t input_bytes = 0, output_bytes = 0;
  void* stream = nullptr;  ///< a CUstream
};

/// One thread at a time calls prepare() and submit(); the rest is for any thread.
class DeviceGroup {
 public:
  virtual ~DeviceGroup() = default;

  /// How prepare() will have it run.
  enum class Way : std::uint8_t {
    kOrdered,   ///< an operation with a number
    kCaptured,  ///< part of a graph: it runs when that is launched, and has none
  };
  /// Finds out where the buffers lie and takes what has to be taken. Throws Error; nothing has been
  /// enqueued then.
  virtual Way prepare(const GroupCall& call) = 0;
  /// Enqueues what was prepared. Throws Error: others may wait for what is missing now, so the
  /// communicator has to end.
  virtual void submit(std::uint64_t sequence, std::uint64_t fingerprint) = 0;
  /// The place of a rank for which submit() has to wait; -1: none.
  [[nodiscard]] virtual int absent() const noexcept = 0;
  /// Operations are numbered from 1, in the order of submit().
  [[nodiscard]] virtual std::uint32_t issued() const noexcept = 0;
  /// False after kRecords operations that the GPU has not passed.
  [[nodiscard]] virtual bool has_room() const noexcept = 0;

  /// Nobody touches its buffers any more.
  [[nodiscard]] virtual bool is_over(std::uint32_t number) const noexcept = 0;
  /// The stream of the rank at that place has come to it.
  [[nodiscard]] virtual bool is_reached(int place, std::uint32_t number) const noexcept = 0;
  /// The place of whom it waits for; -1: nobody.
  [[nodiscard]] virtual int awaited(std::uint32_t number) const noexcept = 0;
  /// The place of the rank that has called something else, by a kernel's word; -1: none.
  [[nodiscard]] virtual int complained_of() const noexcept = 0;
  [[nodiscard]] virtual bool has_captures() const noexcept = 0;
  /// Whom a captured operation waits for, and since when; by one thread, now and then.
  struct Stuck {
    int awaited = -1;  ///< -1: none
    std::int64_t since_ns = 0;
  };
  virtual Stuck stuck_capture(std::int64_t now_ns) noexcept = 0;

  /// Ends all waits, and kernels write nothing any more. To be repeated until all is_drained().
  virtual void abort() noexcept = 0;
  /// A rank has called abort(): what is over now may have been let go only.
  [[nodiscard]] virtual bool is_aborted() const noexcept = 0;
  /// The rank's streams have passed all that its host has enqueued.
  [[nodiscard]] virtual bool is_drained(int place) const noexcept = 0;
};

}  // namespace shoal::cuda
