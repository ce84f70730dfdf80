/// Where a job's secret comes from (see identity.h). Never logged, never in a message.
#pragma once

#include <string>

namespace shoal::bootstrap {

/// From SHOAL_SECRET_FD, SHOAL_SECRET or SHOAL_SECRET_FILE; empty if none is set. A pipe can be
/// read once only, so what it held is kept for later calls in this process. Throws
/// Error(kBootstrap): unreadable, empty, or a file that others can read.
[[nodiscard]] std::string secret_from_environment();

/// HMAC(key of the user, job), in hex. Makes the key file if there is none yet.
/// Throws Error(kBootstrap) saying to set SHOAL_SECRET_FILE if there is no safe place for it.
[[nodiscard]] std::string secret_of_user(const std::string& job);

}  // namespace shoal::bootstrap
