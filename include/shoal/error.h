/// Errors with names. Misuse and set-up failures throw at the call; failures of a running operation
/// are raised by Work::wait(). Every message says what, where and what to try.
#ifndef SHOAL_ERROR_H_
#define SHOAL_ERROR_H_

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "shoal/export.h"

namespace shoal {

enum class ErrorCode : std::uint8_t {
  kOk,
  kInvalidArgument,  ///< the caller's fault; nothing was posted
  kMismatch,         ///< ranks called different things
  kPeerFailed,       ///< a rank died
  kTimeout,          ///< the deadline passed
  kAborted,          ///< abort() was called, or an earlier error ended this communicator
  kOutOfMemory,      ///< a limit of a pool, the node or a cgroup
  kTransport,        ///< the network or its library
  kBootstrap,        ///< ranks did not find or accept one another
  kMissingLibrary,   ///< an optional library is needed and is not installed
  kSystem,           ///< a system call failed
  kBufferInUse,      ///< other ranks look at this memory; nothing was posted
  kDevice,           ///< a GPU or its driver
};

constexpr std::string_view name_of(ErrorCode code) noexcept {
  constexpr std::string_view kNames[] = {
      "Ok",          "InvalidArgument", "Mismatch",       "PeerFailed",     "Timeout",
      "Aborted",     "OutOfMemory",     "TransportError", "BootstrapError", "MissingLibrary",
      "SystemError", "BufferInUse",     "DeviceError"};
  return kNames[static_cast<int>(code)];
}

/// The one exception type of the C++ API. Python sees a subclass for each code.
class SHOAL_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace shoal

#endif  // SHOAL_ERROR_H_
