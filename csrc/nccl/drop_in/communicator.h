/// What a ncclComm_t points to.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "nccl/drop_in/api.h"
#include "nccl/drop_in/elements.h"
#include "nccl/drop_in/unique_id.h"
#include "shoal/communicator.h"

/// Any thread, as shoal::Communicator.
struct ncclComm {
  explicit ncclComm(shoal::Communicator joined) : comm(std::move(joined)) {}

  shoal::Communicator comm;
  int device = 0;

  std::mutex mutex;
  /// ncclRedOpCreatePreMulSum()'s, by the number it gave out; the same on all ranks, who make them
  /// in the same order.
  std::map<int, shoal::nccl::Factor> factors;  // mutex
  int next_factor = ncclNumOps;                // mutex
  /// A communicator of NCCL's own over the same ranks, for what shoal does not do; made when that
  /// is first asked for.
  ncclComm* real = nullptr;  // mutex
};

namespace shoal::nccl {

/// Throws Error(kInvalidArgument) for a null handle.
ncclComm& checked(ncclComm_t comm, const char* function);
/// Joins the communicator that `id` stands for. Throws Error.
ncclComm* join(int size, const ncclUniqueId& id, int rank);
/// A communicator of these ranks of `parent`, in this order, all of which call this. Messages of
/// `parent` carry what they have to tell each other.
ncclComm* make_group(ncclComm& parent, const std::vector<Rank>& ranks);
/// The CUDA device that is current for this thread; 0 where there is no CUDA.
int current_device() noexcept;

}  // namespace shoal::nccl
