#include "nccl/net/report.h"

#include <atomic>

namespace shoal::nccl {
namespace {

std::atomic<abi::Logger> nccl_logger{nullptr};

int level_of(LogLevel level) noexcept {
  switch (level) {
    case LogLevel::kError:
    case LogLevel::kWarn:
      return abi::kLogWarn;
    case LogLevel::kInfo:
      return abi::kLogInfo;
    default:
      return abi::kLogTrace;
  }
}

void to_nccl(LogLevel level, const char* line) noexcept {
  const abi::Logger logger = nccl_logger.load(std::memory_order_acquire);  // pairs with log_to()
  if (logger == nullptr) return;
  logger(level_of(level), abi::kSubsystemInit | abi::kSubsystemNet, "shoal", 0, "%s", line);
}

}  // namespace

void log_to(abi::Logger logger) noexcept {
  nccl_logger.store(logger, std::memory_order_release);  // pairs with the acquire in to_nccl()
  set_log_sink(logger == nullptr ? nullptr : to_nccl);
}

abi::Result result_of(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kOk:
      return abi::kSuccess;
    case ErrorCode::kInvalidArgument:
      return abi::kInvalidArgument;
    case ErrorCode::kMismatch:
    case ErrorCode::kMissingLibrary:
      return abi::kInvalidUsage;
    case ErrorCode::kPeerFailed:
    case ErrorCode::kTimeout:
    case ErrorCode::kBootstrap:
      return abi::kRemoteError;
    case ErrorCode::kAborted:
    case ErrorCode::kBufferInUse:
      return abi::kInternalError;
    case ErrorCode::kOutOfMemory:
    case ErrorCode::kTransport:
    case ErrorCode::kDevice:
    case ErrorCode::kSystem:
      return abi::kSystemError;
  }
  return abi::kInternalError;
}

}  // namespace shoal::nccl
