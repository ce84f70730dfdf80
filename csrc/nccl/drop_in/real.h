/// NCCL itself, where there is one: for what shoal does not do.
#pragma once

#include <stdexcept>
#include <string>

#include "nccl/drop_in/communicator.h"

namespace shoal::nccl {

/// What one of NCCL's own functions has returned.
class RealError : public std::runtime_error {
 public:
  RealError(ncclResult_t result, const std::string& text)
      : std::runtime_error(text), result_(result) {}
  [[nodiscard]] ncclResult_t result() const noexcept { return result_; }

 private:
  ncclResult_t result_;
};

/// A function of the library that SHOAL_REAL_NCCL names (`shoal run --nccl` sets it where it finds
/// one). Throws Error(kMissingLibrary) that says `function` is not done here and why NCCL cannot do
/// it either.
void* real_function(const char* function);

/// Calls NCCL's own function of this name. Throws as above, and RealError.
template <class... Arguments>
void call_real(const char* function, Arguments... arguments) {
  using Function = ncclResult_t (*)(Arguments...);
  const ncclResult_t result = reinterpret_cast<Function>(real_function(function))(arguments...);
  if (result != ncclSuccess && result != ncclInProgress) {
    throw RealError(result, std::string(function) + ": NCCL itself has failed, result " +
                                std::to_string(static_cast<int>(result)));
  }
}

/// A communicator of NCCL's own for the same ranks. Collective where there is none yet: `function`
/// is called by all of them.
ncclComm* real_communicator(ncclComm& comm, const char* function);

/// Between its construction and its end NCCL's calls of this thread are one group.
class RealGroup {
 public:
  RealGroup() { call_real("ncclGroupStart"); }
  ~RealGroup();
  RealGroup(const RealGroup&) = delete;
  RealGroup& operator=(const RealGroup&) = delete;
};

}  // namespace shoal::nccl
