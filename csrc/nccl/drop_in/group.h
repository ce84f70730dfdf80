/// ncclGroupStart() to ncclGroupEnd(): calls of one thread that go together, on one communicator or
/// on several. A call outside of a group is a group of its own.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nccl/drop_in/communicator.h"

namespace shoal::nccl {

/// One call that moves data.
struct Operation {
  ncclComm* comm = nullptr;
  bool ends_here = true;            ///< when its group ends; else a stream goes on with it
  std::function<Work()> start;      ///< of a collective
  std::optional<Message> message;   ///< or a message,
  CallOptions options;              ///< with these
  std::function<void()> elsewhere;  ///< or it is NCCL's own to do
  std::function<void()> finish;     ///< afterwards, if it went well
};

/// Runs it, or keeps it for the end of this thread's group.
void submit(Operation operation);
/// The same of what makes a communicator; several of one group run at the same time, because each
/// waits for the others.
void submit_maker(std::function<void()> maker);

void start_group() noexcept;
/// Throws the first Error of what the group held, when all of it has ended.
void end_group();

/// What an exported function does: its errors become NCCL's results, and their texts what
/// ncclGetLastError() says.
ncclResult_t guarded(const std::function<void()>& call) noexcept;
ncclResult_t result_of(ErrorCode code) noexcept;
/// Of this thread's last failure.
const std::string& last_error() noexcept;

}  // namespace shoal::nccl
