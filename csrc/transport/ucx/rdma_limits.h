/// What the system lets this process have of what RDMA devices need. For the text of an error: UCX
/// says "Input/output error" or "No such device" when a limit is met.
#pragma once

#include <filesystem>
#include <string>

namespace shoal::transport::ucx {

/// The limits in force (locked memory; rdma.max of each cgroup above this process), each with what
/// is in use and how it is raised; "" if there are none. Reads a few files below `root`.
std::string explain_rdma_limits(const std::filesystem::path& root = "/");

}  // namespace shoal::transport::ucx
