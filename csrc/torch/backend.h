/// shoal as a backend of torch.distributed.
///
/// Tensors go to shoal as they lie in memory where they can; see call.h for what is
/// done to the others. A blocking call (asyncOp false) runs in the calling thread; the others are
/// driven by the job's progress thread until somebody waits. Calls on CUDA tensors are operations
/// of a stream, and return at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "shoal/communicator.h"
#include "torch/job.h"
#include "torch/streams.h"
#include "torch/work.h"

namespace shoal::torch {

inline constexpr const char* kBackendName = "shoal";

/// Users' tags; those above are of uneven exchanges.
inline constexpr std::int64_t kTags = 1 << 23;

/// What a group has done, beside shoal's own Statistics.
struct Copies {
  std::atomic<std::int64_t> tensors{0};  ///< put into, or taken out of, another tensor
  std::atomic<std::int64_t> bytes{0};
  std::atomic<std::int64_t> through_host{0};  ///< of these tensors, those of another device
};

/// Any thread; collectives of one group are issued in the same order on all ranks.
class ShoalBackend final : public c10d::Backend {
 public:
  ShoalBackend(JoinedGroup group, c10::intrusive_ptr<Options> options, std::string ucx_directory);
  ~ShoalBackend() override;

  const std::string getBackendName() const override { return kBackendName; }
  c10::intrusive_ptr<Options> getBackendOptions() override { return options_; }
  bool supportsCoalescing() const override { return true; }
  bool supportsSplitting() const override { return true; }
  void setTimeout(std::chrono::milliseconds timeout) override { options_->timeout = timeout; }
  void startCoalescing() override;
  c10::intrusive_ptr<c10d::Work> endCoalescing() override;

  using Tensors = std::vector<at::Tensor>;
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;
  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& opts) override;
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& opts) override;
  WorkPtr allreduce_sparse(Tensors& tensors, const c10d::AllreduceOptions& opts) override;
  WorkPtr allreduce_coalesced(Tensors& tensors,
                              const c10d::AllreduceCoalescedOptions& opts) override;
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& opts) override;
  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                    const c10d::AllgatherOptions& opts) override;
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input,
                          const c10d::AllgatherOptions& opts) override;
  WorkPtr allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                              const c10d::AllgatherOptions& opts) override;
  WorkPtr allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& opts) override;
  WorkPtr gather(std::vector<Tensors>& outputs, Tensors& inputs,
                 const c10d::GatherOptions& opts) override;
  WorkPtr scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                  const c10d::ScatterOptions& opts) override;
  WorkPtr reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                         const c10d::ReduceScatterOptions& opts) override;
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& opts) override;
  WorkPtr reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::ReduceScatterOptions& opts) override;
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input,
                        std::vector<std::int64_t>& output_splits,
                        std::vector<std::int64_t>& input_splits,
                        const c10d::AllToAllOptions& opts) override;
  WorkPtr alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& opts) override;
  WorkPtr send(Tensors& tensors, int to, int tag) override;
  WorkPtr recv(Tensors& tensors, int from, int tag) override;
  WorkPtr recvAnysource(Tensors& tensors, int tag) override;
  WorkPtr barrier(const c10d::BarrierOptions& opts) override;
  /// Rank 0 names who has not come; the group ends with that.
  void monitoredBarrier(const c10d::BarrierOptions& opts, bool wait_all_ranks) override;

  /// All ranks of a group count from 0, so there is nothing to agree on.
  void setSequenceNumberForGroup() override {}
  std::uint64_t getSequenceNumberForGroup() override { return sequence_; }

  c10::intrusive_ptr<Backend> split(const c10::intrusive_ptr<c10d::Store>& store,
                                    const std::vector<int>& ranks,
                                    const c10::intrusive_ptr<Options>& opts) override;
  /// The same for ranks of this group, as torch's new_group() needs it.
  c10::intrusive_ptr<ShoalBackend> make_subgroup(const c10::intrusive_ptr<c10d::Store>& store,
                                                 const std::vector<int>& ranks, int rank,
                                                 const c10::intrusive_ptr<Options>& opts);
  void abort() override;
  void shutdown() override;
  c10d::ErrorType getError() override;

  bool supportsTensorAlloc(c10::DeviceIndex device) override;
  at::Tensor allocateTensor(long size, at::TensorOptions options) override;

  [[nodiscard]] const std::shared_ptr<Job>& job() const { return job_; }
  [[nodiscard]] bool is_shut_down() const noexcept { return job_ == nullptr; }
  [[nodiscard]] Communicator& communicator();
  [[nodiscard]] const Recorder& recorder() const noexcept { return *recorder_; }
  [[nodiscard]] const Copies& copies() const noexcept { return copies_; }

 private:
  friend class Call;

  /// Of a block between startCoalescing() and endCoalescing(), what is not in its work.
  struct Coalesced {
    std::optional<c10::Stream> stream;  ///< of its operations on one
    bool has_host_parts = false;
    /// On the stream. They start together, at the block's end: on a stream operations come one
    /// after the other, and two ranks that sent first and received then would wait for each other.
    std::vector<Message> messages;
    CallOptions options;                       ///< of the messages
    std::vector<std::function<void()>> after;  ///< what the stream does then
  };

  /// Of collectives, the same on all ranks. Messages, and blocks that may hold nothing else, are
  /// counted apart: not all ranks take part in them.
  std::uint64_t next_sequence(c10d::OpType op) noexcept {
    const bool is_collective = !c10d::isP2POp(op) && op != c10d::OpType::COALESCED;
    return ++(is_collective ? sequence_ : messages_);
  }
  /// Uneven exchanges take their tags from a count of their own.
  std::int64_t next_exchange_tag() noexcept { return kTags + exchanges_++ % kTags; }
  WorkPtr allreduce_each(const Tensors& tensors, const c10d::AllreduceOptions& opts);
  WorkPtr allgather_lists(const std::vector<Tensors>& outputs, const Tensors& inputs,
                          const c10d::AllgatherOptions& opts);
  /// Runs a call; its errors become torch's.
  template <class Body>
  WorkPtr guarded(Body&& body) {
    try {
      return body();
    } catch (const Error& error) {
      std::rethrow_exception(to_torch(error.code(), error.what(), recorder_.get()));
    }
  }
  WorkPtr message(Tensors& tensors, int peer, int tag, c10d::OpType op);
  void start_coalesced_messages(Coalesced& block, BackendWork& work);
  /// Warns, the first time.
  void tell_of_host(const char* call, const std::string& why);

  std::shared_ptr<Job> job_;  ///< null: shut down
  Communicator communicator_;
  std::uint32_t communicator_id_;
  c10::intrusive_ptr<Options> options_;
  std::string ucx_directory_;
  std::atomic<std::uint64_t> sequence_{0}, messages_{0};
  std::int64_t exchanges_ = 0;
  std::shared_ptr<Recorder> recorder_;  // the job's, also after shutdown()
  Copies copies_;
  /// Between startCoalescing() and endCoalescing(): takes the parts of all calls.
  c10::intrusive_ptr<BackendWork> coalescing_;
  Coalesced coalesced_;  // of that block
  Streams streams_;
  std::once_flag told_of_host_;
};

/// Called by torch on every rank of a group.
c10::intrusive_ptr<ShoalBackend> make_backend(
    const GroupRequest& request, const c10::intrusive_ptr<c10d::Backend::Options>& opts,
    const std::string& ucx_directory);

}  // namespace shoal::torch
