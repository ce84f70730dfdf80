/// How another process of this host ended, without being its parent.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "core/fd.h"

namespace shoal::bootstrap {

/// "killed by signal 9", "exited with code 1": from a status as wait() gives it.
[[nodiscard]] std::string describe_exit(int wait_status);

/// A pidfd, readable when the process has ended. Invalid if there is no such process.
[[nodiscard]] Fd open_process(pid_t pid);

/// Its wait status, if the kernel tells (6.15 or later) and its parent has reaped it.
[[nodiscard]] std::optional<int> exit_status(int pidfd);

}  // namespace shoal::bootstrap
