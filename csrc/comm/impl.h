/// Behind the public handles.
#pragma once

#include <array>
#include <atomic>
#include <forward_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/context.h"
#include "comm/device_calls.h"
#include "comm/host_calls.h"
#include "comm/selector.h"
#include "exec/plan.h"
#include "shoal/communicator.h"

namespace shoal {

/// One communicator of this rank. Any thread.
struct CommunicatorImpl final : comm::ControlReceiver {
  /// `members`: world ranks, in rank order. `control`: the node group's control memory.
  CommunicatorImpl(std::shared_ptr<comm::Context> context, std::uint32_t id,
                   std::vector<Rank> members, memory::Offset control);
  ~CommunicatorImpl() override;

  const exec::Plan& plan(const exec::PlanKey& key) {
    const std::uint64_t fingerprint = exec::fingerprint(key);  // all of the key
    PlanBucket& bucket = plans_[fingerprint * 0x9e3779b97f4a7c15 >> (64 - kPlanBucketBits)];
    const exec::Plan* plan = find_plan(bucket, fingerprint);
    return plan != nullptr ? *plan : make_plan(bucket, key);
  }
  [[nodiscard]] comm::Choice choose(const exec::PlanKey& key) const noexcept;
  /// Without collective, root and count.
  [[nodiscard]] schedule::Shape shape() const noexcept;
  /// From now on, until called with nullopt, for all calls of the collective that are not
  /// deterministic. Between calls; no other thread uses the communicator meanwhile.
  void use_algorithm(Collective collective, std::optional<schedule::Algorithm> algorithm);
  void require_running() const {
    if (!context->in_its_process() || group->ended()) refuse_to_run();
  }
  void require_own_process() const;
  /// The GPUs carry out collectives on CUDA memory; else the host does. The same on all ranks.
  [[nodiscard]] bool has_kernels() const noexcept;
  /// Collectives on CUDA memory, and messages; what they need is set up by the first call. Throw
  /// Error. Each is a line of its own: a collective may have to wait for what a message brings.
  [[nodiscard]] comm::StreamCalls& stream_calls();
  [[nodiscard]] comm::HostCalls& stream_messages();
  /// "all_reduce(...) #5 has not finished after 2 s: rank 1 ...". `status`: the rank that is waited
  /// for, and nanoseconds. Engine's lock.
  std::string explain_timeout(const exec::PlanKey& key, std::uint64_t sequence, Status status);
  [[nodiscard]] std::string describe_self() const;
  [[nodiscard]] std::vector<Rank> others() const;
  /// A pool block that the node's other ranks may look at as long as they use the communicator.
  void keep(comm::Context::DeviceBlock block) { device_blocks_.push_back(block); }

  void receive(Rank from_world, const comm::ControlHead& head, const std::string& text) override;
  void lose_device(const std::string& text) override;

  // shared_ptr: works, pool blocks and sub-communicators keep the one context alive
  std::shared_ptr<comm::Context> context;
  std::vector<Rank> members;
  Rank rank = 0;
  std::unique_ptr<exec::Group> group;

 private:
  struct KnownPlan {
    exec::Plan plan;
    KnownPlan* next;  ///< in the same bucket, or dropped
  };
  using PlanBucket = std::atomic<KnownPlan*>;
  static const exec::Plan* find_plan(const PlanBucket& bucket, std::uint64_t fingerprint) noexcept {
    // acquire: pairs with the release in make_plan()
    const KnownPlan* known = bucket.load(std::memory_order_acquire);
    while (known != nullptr && known->plan.fingerprint != fingerprint) known = known->next;
    return known == nullptr ? nullptr : &known->plan;
  }
  [[noreturn]] void refuse_to_run() const;
  const exec::Plan& make_plan(PlanBucket& bucket, const exec::PlanKey& key);
  KnownPlan& known_or_new(const exec::PlanKey& key, schedule::Algorithm algorithm);
  void drop_plans(PlanBucket& bucket, Collective collective) noexcept;
  exec::Binding bind(std::uint32_t id, memory::Offset control);
  exec::GroupEvents events();
  std::string explain(const exec::Run* run, Status status);
  std::string explain_mismatch(std::uint64_t sequence, Status status) const;
  template <class Calls>
  void set_up(std::once_flag& made, std::unique_ptr<Calls>& calls);
  std::string standing(const exec::PlanKey& key, std::uint64_t sequence, Rank rank);
  [[nodiscard]] std::string describe_current() const;
  void ask(const exec::Run& run);
  void answer(Rank from_world, const comm::ControlHead& query);

  memory::Offset control_;  ///< of the node group; its first rank has made it
  /// By fingerprint. A plan stays, and does not change, once it is linked (but for
  /// use_algorithm(), which nobody calls beside others): so a repeated call takes no lock. 1024
  /// buckets of one word: chains are short up to some thousand shapes.
  static constexpr int kPlanBucketBits = 10;
  std::array<PlanBucket, 1 << kPlanBucketBits> plans_{};
  std::mutex plans_mutex_;                  // to add one
  std::forward_list<KnownPlan> own_plans_;  // plans_mutex_
  /// Of algorithms that are not in use any more. They are kept: works may still run by them, and a
  /// tuner returns to each of them.
  KnownPlan* dropped_plans_ = nullptr;  // plans_mutex_
  std::array<std::optional<schedule::Algorithm>, kCollectives> forced_;
  // What ranks of other nodes have last said of themselves; engine's lock.
  struct Heard {
    std::int64_t at_ns = 0;
    std::uint64_t issued = 0;
  };
  std::vector<Heard> heard_;
  std::int64_t asked_ns_ = 0;
  // To set one, the engine's lock.
  std::once_flag stream_calls_made_, stream_messages_made_;
  std::unique_ptr<comm::DeviceCalls> device_calls_;  ///< the collectives, with has_kernels() ...
  std::unique_ptr<comm::HostCalls> host_calls_;      ///< ... and without
  std::unique_ptr<comm::HostCalls> stream_messages_;
  std::vector<comm::Context::DeviceBlock> device_blocks_;
};

}  // namespace shoal
