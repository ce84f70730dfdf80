/// How the plug-in speaks to NCCL: lines for its log, results for its calls. Any thread.
#pragma once

#include <new>

#include "core/log.h"
#include "nccl/net/net_abi.h"
#include "shoal/error.h"

namespace shoal::nccl {

/// From now on what shoal logs goes to NCCL's log (NCCL_DEBUG, NCCL_DEBUG_FILE decide what is
/// seen). nullptr: to stderr.
void log_to(abi::Logger logger) noexcept;

[[nodiscard]] abi::Result result_of(ErrorCode code) noexcept;

/// Runs what may throw; NCCL gets a result, its log the reason.
template <class Call>
abi::Result guarded(Call&& call) noexcept {
  try {
    call();
    return abi::kSuccess;
  } catch (const Error& error) {
    log(LogLevel::kWarn, "%s", error.what());
    return result_of(error.code());
  } catch (const std::bad_alloc&) {
    log(LogLevel::kWarn, "NET/shoal: out of memory");
    return abi::kSystemError;
  } catch (const std::exception& error) {
    log(LogLevel::kWarn, "NET/shoal: %s", error.what());
    return abi::kInternalError;
  }
}

}  // namespace shoal::nccl
