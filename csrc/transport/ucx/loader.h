/// Finds UCX and makes the transport over it. Links no UCX: a job that never comes here neither
/// needs one nor pays for it.
///
/// Order of search:
///   1. one that this process has loaded already (an MPI, torch): a second one would not load;
///   2. the directory named by SHOAL_UCX_DIR;
///   3. where the node has an RDMA device: the system's, which has verbs (the wheel has not);
///   4. the wheel libucx-cu13: where the caller has found it, else beside our own library, in
///      ../libucx/lib or ../../libucx/lib;
///   5. the system's, by soname.
///
/// Memory hooks and signal handlers of UCX stay off (UCX_MEM_MMAP_HOOK_MODE=none, 1.3 instead of
/// 402 ms; UCX_ERROR_SIGNALS empty): both are read while the library loads, so these variables
/// stand in the environment during that time, unless the user has set them. Load before other
/// threads read the environment. Libraries stay loaded until the process ends.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "shoal/export.h"
#include "transport/ucx/ucx_transport.h"

namespace shoal::transport::ucx {

struct UcxSearch {
  std::string wheel_directory;  ///< of the wheel's libucp.so.0, where the caller knows of one
  std::string
      module;  ///< path of libshoal_ucx.so; empty: SHOAL_UCX_MODULE, else beside our library
};

/// What `shoal info` prints.
struct UcxFound {
  std::string path;                     ///< of libucp; empty: none was found
  std::string version;                  ///< "1.22.0"
  std::vector<std::string> transports;  ///< that the library has; not all need have a device here
  bool verbs = false;
  std::string reason;  ///< why this one; or what was tried and what to install
};

/// This node has one, of whatever make.
[[nodiscard]] bool has_rdma_device() noexcept;

/// Loads UCX (once in a process) and says which. Any thread; never throws for a missing UCX.
SHOAL_API const UcxFound& find_ucx(const UcxSearch& search = {});

/// Throws Error: kMissingLibrary when UCX or our module is missing, kTransport when UCX will not
/// start.
std::unique_ptr<UcxTransport> make_ucx(const UcxOptions& options, const UcxSearch& search = {});

}  // namespace shoal::transport::ucx
