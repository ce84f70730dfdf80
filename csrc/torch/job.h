/// What all process groups of a job share: one context (pool, transports, control connections) and
/// one progress thread, so that hundreds of groups cost little more than one.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "shoal/communicator.h"
#include "torch/progress.h"
#include "torch/recorder.h"

namespace shoal::torch {

/// How a process group is to be made, on each of its ranks.
struct GroupRequest {
  c10::intrusive_ptr<c10d::Store> store;  ///< of this group alone
  int rank = 0;
  int size = 1;
  std::chrono::milliseconds timeout{};
  std::string name;  ///< for messages
};

/// Any thread. Lives as long as one of its groups, or a tensor's memory, does.
class Job {
 public:
  Job(Communicator communicator, std::string name)
      : world(std::move(communicator)), id(std::move(name)), progress(world) {}

  /// What is to be left of the pool: one of so many parts of it, but not more than that.
  struct Reserve {
    std::int64_t parts = 1;
    std::int64_t most = std::numeric_limits<std::int64_t>::max();
  };
  /// A block of the pool; none where it has no room, and in a forked child.
  std::optional<PoolBlock> take(std::size_t bytes, Reserve reserve);

  Communicator world;
  const std::string id;  ///< the same on all ranks, and no other job's
  /// shared_ptr: works may be held longer than their group
  const std::shared_ptr<Recorder> recorder = std::make_shared<Recorder>(world.rank(), world.size());
  Progress progress;
};

struct JoinedGroup {
  std::shared_ptr<Job> job;
  Communicator communicator;
};

/// Collective over the ranks of the group. Whoever has no job that holds them all yet starts one:
/// rank 0 then serves shoal's store, and tells its address and secret over torch's.
JoinedGroup join_group(const GroupRequest& request, const std::string& ucx_directory);

/// A group of some ranks of another one, in this order. Collective over them.
JoinedGroup join_subgroup(const std::shared_ptr<Job>& job, Communicator& parent,
                          const std::vector<Rank>& ranks, const GroupRequest& request);

/// At exit: leaves all jobs in order, whatever still holds them.
void leave_all_jobs();

}  // namespace shoal::torch
