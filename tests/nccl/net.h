/// One table of the plug-in behind one face, the newest: what NCCL's own src/plugin/net/net_vN.cc
/// does with an older one, so that every test runs through every table as NCCL would call it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "nccl/net/net_abi.h"

namespace shoal::nccl::test {

inline constexpr int kVersions[] = {6, 7, 8, 9, 10, 11, 12};

/// What NCCL reads of a device.
struct Properties {
  std::string name, pci_path;
  std::uint64_t guid = 0;
  int pointers = 0, speed_mbps = 0, port = 0, max_comms = 0, max_receives = 0;
  int offload = 0, offload_version = 0, force_flush = 0, registration_is_global = 0;
  std::vector<int> parts;         ///< since v9
  std::size_t max_p2p_bytes = 0;  ///< since v9
  int max_multi_request = 1;      ///< since v11
  int rail = abi::kUndefined;     ///< since v12
};

/// Functions that do not exist in a version are empty.
struct Net {
  std::string name;
  std::function<abi::Result(abi::Logger)> init;
  std::function<abi::Result(int*)> devices;
  std::function<abi::Result(int, Properties*)> get_properties;
  std::function<abi::Result(int, void*, void**)> listen, connect;
  std::function<abi::Result(void*, void**)> accept;
  std::function<abi::Result(void*, void*, std::size_t, int, void**)> reg_mr;
  std::function<abi::Result(void*, void*, std::size_t, int, std::uint64_t, int, void**)>
      reg_mr_dma_buf;
  std::function<abi::Result(void*, void*)> dereg_mr;
  std::function<abi::Result(void*, void*, std::size_t, int, void*, void**)> isend;
  std::function<abi::Result(void*, int, void**, std::size_t*, int*, void**, void**)> irecv;
  std::function<abi::Result(void*, int, void**, int*, void**, void**)> iflush;
  std::function<abi::Result(void*, int*, int*)> test;
  std::function<abi::Result(void*)> close_send, close_recv, close_listen;
  std::function<abi::Result(int*, std::vector<int>)> make_v_device;
  std::function<abi::Result()> finalize;
};

/// Loads the plug-in as NCCL does (dlopen of SHOAL_NCCL_NET, dlsym of ncclNetPlugin_vN). Throws
/// std::runtime_error.
Net open_net(int version);

/// NCCL's log: what the plug-in has said.
class Log {
 public:
  static void write(int level, unsigned long subsystems, const char* file, int line,
                    const char* format, ...);
  static void clear();
  /// Warnings only, joined by newlines.
  [[nodiscard]] static std::string warnings();
};

}  // namespace shoal::nccl::test
