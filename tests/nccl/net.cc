#include "net.h"

#include <dlfcn.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace shoal::nccl::test {
namespace {

using namespace abi;

std::mutex log_mutex;
std::string log_warnings;

template <class Raw>
Properties read(const Raw& raw) {
  Properties properties;
  properties.name = raw.name;
  properties.pci_path = raw.pci_path == nullptr ? "" : raw.pci_path;
  properties.guid = raw.guid;
  properties.pointers = raw.pointers;
  properties.speed_mbps = raw.speed_mbps;
  properties.port = raw.port;
  properties.max_comms = raw.max_comms;
  properties.max_receives = raw.max_receives;
  if constexpr (requires { raw.offload; }) {
    properties.offload = raw.offload;
    properties.offload_version = raw.offload_version;
  }
  if constexpr (requires { raw.merged; }) {
    properties.force_flush = raw.force_flush;
    properties.parts.assign(raw.merged.devices.begin(),
                            raw.merged.devices.begin() + raw.merged.count);
    properties.max_p2p_bytes = raw.max_p2p_bytes;
  }
  if constexpr (requires { raw.max_multi_request; }) {
    properties.max_multi_request = raw.max_multi_request;
  }
  if constexpr (requires { raw.rail; }) properties.rail = raw.rail;
  return properties;
}

/// Garbage where a version says nothing: nothing of it may come through.
template <class Raw, class Table>
auto properties_by(const Table& table) {
  return [&table](int device, Properties* properties) {
    Raw raw;
    std::memset(static_cast<void*>(&raw), 0xa5, sizeof raw);
    const Result result = table.get_properties(device, &raw);
    if (result == kSuccess) *properties = read(raw);
    return result;
  };
}

template <class Table>
void take_common(const Table& table, Net& net) {
  net.name = table.name;
  net.devices = table.devices;
  net.reg_mr_dma_buf = table.reg_mr_dma_buf;
  net.dereg_mr = table.dereg_mr;
  net.iflush = table.iflush;
  net.test = table.test;
  net.close_send = table.close_send;
  net.close_recv = table.close_recv;
  net.close_listen = table.close_listen;
  net.finalize = [] { return kSuccess; };
}

std::array<int, kMaxReceives> as_ints(int count, const std::size_t* bytes) {
  std::array<int, kMaxReceives> ints{};
  for (int i = 0; i < count; ++i) {
    ints[static_cast<std::size_t>(i)] = static_cast<int>(bytes[i]);
  }
  return ints;
}

/// v6 to v8: sizes are ints.
template <class Table>
void take_int_messages(const Table& table, Net& net) {
  net.isend = [&table](void* comm, void* data, std::size_t bytes, int tag, void* memory,
                       void** request) {
    return table.isend(comm, data, static_cast<int>(bytes), tag, memory, request);
  };
  net.irecv = [&table](void* comm, int n, void** data, std::size_t* bytes, int* tags, void** memory,
                       void** request) {
    auto ints = as_ints(n, bytes);
    return table.irecv(comm, n, data, ints.data(), tags, memory, request);
  };
}

/// v10 and later: with the profiler's events.
template <class Table>
void take_profiled_messages(const Table& table, Net& net) {
  net.isend = [&table](void* comm, void* data, std::size_t bytes, int tag, void* memory,
                       void** request) {
    return table.isend(comm, data, bytes, tag, memory, nullptr, request);
  };
  net.irecv = [&table](void* comm, int n, void** data, std::size_t* bytes, int* tags, void** memory,
                       void** request) {
    std::array<void*, kMaxReceives> events{};
    return table.irecv(comm, n, data, bytes, tags, memory, events.data(), request);
  };
}

template <class Table>
void take_v7_connecting(const Table& table, Net& net) {
  net.listen = table.listen;
  net.connect = [&table](int device, void* handle, void** comm) {
    DeviceHandle* none = nullptr;
    return table.connect(device, handle, comm, &none);
  };
}
template <class Table>
void take_v7_accept(const Table& table, Net& net) {
  net.accept = [&table](void* listener, void** comm) {
    DeviceHandle* none = nullptr;
    return table.accept(listener, comm, &none);
  };
}

template <class Merged, class Table>
void take_merging(const Table& table, Net& net) {
  net.make_v_device = [&table](int* device, const std::vector<int>& parts) {
    Merged merged{};
    merged.count = static_cast<int>(parts.size());
    for (std::size_t i = 0; i < parts.size(); ++i) merged.devices.at(i) = parts[i];
    return table.make_v_device(device, &merged);
  };
}

template <class T>
const T& symbol(void* library, const char* name) {
  const void* found = ::dlsym(library, name);
  if (found == nullptr) throw std::runtime_error(std::string("no symbol ") + name);
  return *static_cast<const T*>(found);
}

Net open_v6(void* library) {
  const auto& table = symbol<NetV6>(library, "ncclNetPlugin_v6");
  Net net;
  take_common(table, net);
  take_int_messages(table, net);
  net.init = table.init;
  net.get_properties = properties_by<PropertiesV6>(table);
  net.listen = table.listen;
  net.connect = table.connect;
  net.accept = table.accept;
  net.reg_mr = [&table](void* comm, void* data, std::size_t bytes, int type, void** memory) {
    return table.reg_mr(comm, data, static_cast<int>(bytes), type, memory);
  };
  return net;
}

Net open_v7(void* library) {
  const auto& table = symbol<NetV7>(library, "ncclNetPlugin_v7");
  Net net;
  take_common(table, net);
  take_int_messages(table, net);
  take_v7_connecting(table, net);
  take_v7_accept(table, net);
  net.init = table.init;
  net.get_properties = properties_by<PropertiesV7>(table);
  net.reg_mr = [&table](void* comm, void* data, std::size_t bytes, int type, void** memory) {
    return table.reg_mr(comm, data, static_cast<int>(bytes), type, memory);
  };
  return net;
}

Net open_v8(void* library) {
  const auto& table = symbol<NetV8>(library, "ncclNetPlugin_v8");
  Net net;
  take_common(table, net);
  take_int_messages(table, net);
  take_v7_connecting(table, net);
  take_v7_accept(table, net);
  net.init = table.init;
  net.get_properties = properties_by<PropertiesV8>(table);
  net.reg_mr = table.reg_mr;
  return net;
}

Net open_v9(void* library) {
  const auto& table = symbol<NetV9>(library, "ncclNetPlugin_v9");
  Net net;
  take_common(table, net);
  take_v7_connecting(table, net);
  take_v7_accept(table, net);
  take_merging<MergedV9>(table, net);
  net.init = table.init;
  net.get_properties = properties_by<PropertiesV9>(table);
  net.reg_mr = table.reg_mr;
  net.isend = table.isend;
  net.irecv = table.irecv;
  return net;
}

Net open_v10(void* library) {
  const auto& table = symbol<NetV10>(library, "ncclNetPlugin_v10");
  Net net;
  take_common(table, net);
  take_profiled_messages(table, net);
  take_v7_accept(table, net);
  take_merging<MergedV9>(table, net);
  net.init = [&table](Logger logger) { return table.init(logger, nullptr); };
  net.get_properties = properties_by<PropertiesV9>(table);
  net.listen = table.listen;
  net.connect = [&table](int device, void* handle, void** comm) {
    CommConfig config{kUndefined};
    DeviceHandle* none = nullptr;
    return table.connect(device, &config, handle, comm, &none);
  };
  net.reg_mr = table.reg_mr;
  return net;
}

template <class Table, class Raw, class Merged>
Net open_with_context(void* library, const char* name) {
  const auto& table = symbol<Table>(library, name);
  Net net;
  take_common(table, net);
  take_profiled_messages(table, net);
  take_v7_accept(table, net);
  take_merging<Merged>(table, net);
  const auto context = std::make_shared<void*>(nullptr);
  net.init = [&table, context](Logger logger) {
    CommConfig config{kUndefined};
    return table.init(context.get(), 0x1234, &config, logger, nullptr);
  };
  net.get_properties = properties_by<Raw>(table);
  net.listen = [&table, context](int device, void* handle, void** comm) {
    return table.listen(*context, device, handle, comm);
  };
  net.connect = [&table, context](int device, void* handle, void** comm) {
    DeviceHandle* none = nullptr;
    return table.connect(*context, device, handle, comm, &none);
  };
  net.reg_mr = table.reg_mr;
  net.finalize = [&table, context] { return table.finalize(*context); };
  return net;
}

}  // namespace

Net open_net(int version) {
  const char* path = std::getenv("SHOAL_NCCL_NET");
  void* const library = ::dlopen(path != nullptr ? path : "libnccl-net-shoal.so", RTLD_NOW);
  if (library == nullptr) throw std::runtime_error(::dlerror());
  switch (version) {
    case 6:
      return open_v6(library);
    case 7:
      return open_v7(library);
    case 8:
      return open_v8(library);
    case 9:
      return open_v9(library);
    case 10:
      return open_v10(library);
    case 11:
      return open_with_context<NetV11, PropertiesV11, MergedV9>(library, "ncclNetPlugin_v11");
    case 12:
      return open_with_context<NetV12, PropertiesV12, MergedV12>(library, "ncclNetPlugin_v12");
    default:
      throw std::runtime_error("no version " + std::to_string(version));
  }
}

void Log::write(int level, unsigned long, const char*, int, const char* format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const std::lock_guard lock(log_mutex);
  if (std::getenv("SHOAL_TEST_VERBOSE") != nullptr) std::fprintf(stderr, "  %d %s\n", level, text);
  if (level == kLogWarn) log_warnings += std::string(text) + "\n";
}

void Log::clear() {
  const std::lock_guard lock(log_mutex);
  log_warnings.clear();
}

std::string Log::warnings() {
  const std::lock_guard lock(log_mutex);
  return log_warnings;
}

}  // namespace shoal::nccl::test
