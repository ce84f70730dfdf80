/// The tables that NCCL looks for, newest first: ncclNetPlugin_v12 to ncclNetPlugin_v6. Each is a
/// thin skin over Plugin, Listener and Connection; what a version has not, is not asked of it.
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/log.h"
#include "nccl/net/connection.h"
#include "nccl/net/listener.h"
#include "nccl/net/net_abi.h"
#include "nccl/net/plugin.h"
#include "nccl/net/report.h"

namespace shoal::nccl {
namespace {

using namespace abi;

constexpr const char* kName = "shoal";
constexpr int kMaxConnections = 1 << 16;

Connection& connection(void* comm) { return *static_cast<Connection*>(comm); }

// --- starting
// --------------------------------------------------------------------------------------

Result init(Logger logger) {
  return guarded([&] { Plugin::instance().init(logger, nullptr); });
}
Result init_with_profiler(Logger logger, Profiler) { return init(logger); }
/// The context of a communicator is not needed; but NCCL may take NULL for a failure.
Result init_communicator(void** context, std::uint64_t, CommConfig* config, Logger logger,
                         Profiler) {
  *context = &Plugin::instance();
  return guarded([&] { Plugin::instance().init(logger, config); });
}
Result finalize(void*) { return kSuccess; }

// --- devices
// ---------------------------------------------------------------------------------------

Result devices(int* count) {
  *count = Plugin::instance().devices();
  return kSuccess;
}

/// What all versions have.
template <class Properties>
void describe(const Device& device, Properties& properties) {
  properties = {};
  properties.name = device.name.c_str();
  properties.pci_path = device.pci_path.empty() ? nullptr : device.pci_path.c_str();
  properties.guid = device.guid;
  properties.pointers = kPointerHost;
  properties.speed_mbps = device.speed_mbps;
  properties.port = device.port;
  properties.max_comms = kMaxConnections;
  properties.max_receives = kMaxReceives;
}

/// Since v9.
template <class Properties>
void describe_parts(const Device& device, Properties& properties) {
  auto& merged = properties.merged;
  for (const int part : device.parts) {
    if (static_cast<std::size_t>(merged.count) == merged.devices.size()) break;
    merged.devices[static_cast<std::size_t>(merged.count++)] = part;
  }
  properties.max_p2p_bytes = kMaxMessageBytes;
  properties.max_collective_bytes = kMaxMessageBytes;
}

template <class Properties>
Result get_properties(int number, Properties* properties) {
  return guarded([&] {
    const Device& device = Plugin::instance().device(number);
    describe(device, *properties);
    if constexpr (requires { properties->merged; }) describe_parts(device, *properties);
    if constexpr (requires { properties->max_multi_request; }) properties->max_multi_request = 1;
    if constexpr (requires { properties->rail; }) {
      properties->rail = kUndefined;
      properties->plane = kUndefined;
    }
  });
}

template <class Merged>
Result make_v_device(int* number, Merged* merged) {
  return guarded([&] {
    std::vector<int> parts;
    for (int i = 0; i < merged->count; ++i) {
      parts.push_back(merged->devices.at(static_cast<std::size_t>(i)));
    }
    *number = Plugin::instance().make_device(parts);
  });
}

// --- connecting
// ------------------------------------------------------------------------------------

Result listen(int device, void* handle, void** listener) {
  *listener = nullptr;
  return guarded([&] { *listener = Plugin::instance().listen(device, handle); });
}
Result listen_in(void*, int device, void* handle, void** listener) {
  return listen(device, handle, listener);
}

Result connect(int device, void* handle, void** sender) {
  *sender = nullptr;
  return guarded([&] { *sender = Plugin::instance().connect(device, handle); });
}
Result connect_v7(int device, void* handle, void** sender, DeviceHandle**) {
  return connect(device, handle, sender);
}
Result connect_v10(int device, CommConfig*, void* handle, void** sender, DeviceHandle**) {
  return connect(device, handle, sender);
}
Result connect_in(void*, int device, void* handle, void** sender, DeviceHandle**) {
  return connect(device, handle, sender);
}

Result accept(void* listener, void** receiver) {
  *receiver = nullptr;
  return guarded([&] { *receiver = static_cast<Listener*>(listener)->accept().release(); });
}
Result accept_v7(void* listener, void** receiver, DeviceHandle**) {
  return accept(listener, receiver);
}

Result close_connection(void* comm) {
  return guarded([&] { delete static_cast<Connection*>(comm); });
}
Result close_listen(void* listener) {
  return guarded([&] { delete static_cast<Listener*>(listener); });
}

// --- memory
// ----------------------------------------------------------------------------------------

Result reg_mr(void* comm, void* data, std::size_t bytes, int type, void** memory) {
  *memory = nullptr;
  return guarded([&] { *memory = connection(comm).register_memory(data, bytes, type); });
}
Result reg_mr_v6(void* comm, void* data, int bytes, int type, void** memory) {
  return reg_mr(comm, data, static_cast<std::size_t>(bytes), type, memory);
}
/// Of host memory that is a dma-buf too, `data` is where it is mapped, and that is enough.
Result reg_mr_dma_buf(void* comm, void* data, std::size_t bytes, int type, std::uint64_t, int,
                      void** memory) {
  return reg_mr(comm, data, bytes, type, memory);
}
Result dereg_mr(void* comm, void* memory) {
  return guarded(
      [&] { connection(comm).deregister_memory(static_cast<RegisteredMemory*>(memory)); });
}

// --- moving
// ----------------------------------------------------------------------------------------

Result isend(void* comm, void* data, std::size_t bytes, int tag, void*, void** request) {
  return connection(comm).send(data, bytes, tag, request);
}
Result isend_v6(void* comm, void* data, int bytes, int tag, void* memory, void** request) {
  return isend(comm, data, static_cast<std::size_t>(bytes), tag, memory, request);
}
Result isend_v10(void* comm, void* data, std::size_t bytes, int tag, void* memory, void*,
                 void** request) {
  return isend(comm, data, bytes, tag, memory, request);
}

bool is_group(int count) {
  if (count >= 1 && count <= kMaxReceives) return true;
  log(LogLevel::kWarn, "NET/shoal: irecv of %d messages; a group has 1 to %d", count, kMaxReceives);
  return false;
}

/// kCompletionIsOptional in *request is not made use of: every receive completes.
Result irecv(void* comm, int count, void** data, std::size_t* bytes, int* tags, void**,
             void** request) {
  if (!is_group(count)) return kInvalidArgument;
  return connection(comm).receive(count, data, bytes, tags, request);
}
Result irecv_v6(void* comm, int count, void** data, int* bytes, int* tags, void** memory,
                void** request) {
  if (!is_group(count)) return kInvalidArgument;
  std::array<std::size_t, kMaxReceives> sizes{};
  for (int i = 0; i < count; ++i) {
    sizes[static_cast<std::size_t>(i)] = static_cast<std::size_t>(bytes[i]);
  }
  return irecv(comm, count, data, sizes.data(), tags, memory, request);
}
Result irecv_v10(void* comm, int count, void** data, std::size_t* bytes, int* tags, void** memory,
                 void**, void** request) {
  return irecv(comm, count, data, bytes, tags, memory, request);
}

/// For device memory, which a network may have written behind the device's back. Ours write host
/// memory: when test() has said that a receive is done, it is there.
Result iflush(void*, int, void**, int*, void**, void** request) {
  *request = nullptr;
  return kSuccess;
}

Result test(void* request, int* done, int* bytes) {
  return Connection::test(*static_cast<Request*>(request), done, bytes);
}

}  // namespace
}  // namespace shoal::nccl

#define SHOAL_NCCL_EXPORT extern "C" __attribute__((visibility("default")))

using namespace shoal::nccl;  // NOLINT: the tables below are one page of names

SHOAL_NCCL_EXPORT const abi::NetV6 ncclNetPlugin_v6 = {
    .name = kName,
    .init = init,
    .devices = devices,
    .get_properties = get_properties<abi::PropertiesV6>,
    .listen = listen,
    .connect = connect,
    .accept = accept,
    .reg_mr = reg_mr_v6,
    .reg_mr_dma_buf = reg_mr_dma_buf,
    .dereg_mr = dereg_mr,
    .isend = isend_v6,
    .irecv = irecv_v6,
    .iflush = iflush,
    .test = test,
    .close_send = close_connection,
    .close_recv = close_connection,
    .close_listen = close_listen,
};

SHOAL_NCCL_EXPORT const abi::NetV7 ncclNetPlugin_v7 = {
    .name = kName,
    .init = init,
    .devices = devices,
    .get_properties = get_properties<abi::PropertiesV7>,
    .listen = listen,
    .connect = connect_v7,
    .accept = accept_v7,
    .reg_mr = reg_mr_v6,
    .reg_mr_dma_buf = reg_mr_dma_buf,
    .dereg_mr = dereg_mr,
    .isend = isend_v6,
    .irecv = irecv_v6,
    .iflush = iflush,
    .test = test,
    .close_send = close_connection,
    .close_recv = close_connection,
    .close_listen = close_listen,
};

SHOAL_NCCL_EXPORT const abi::NetV8 ncclNetPlugin_v8 = {
    .name = kName,
    .init = init,
    .devices = devices,
    .get_properties = get_properties<abi::PropertiesV8>,
    .listen = listen,
    .connect = connect_v7,
    .accept = accept_v7,
    .reg_mr = reg_mr,
    .reg_mr_dma_buf = reg_mr_dma_buf,
    .dereg_mr = dereg_mr,
    .isend = isend_v6,
    .irecv = irecv_v6,
    .iflush = iflush,
    .test = test,
    .close_send = close_connection,
    .close_recv = close_connection,
    .close_listen = close_listen,
};

SHOAL_NCCL_EXPORT const abi::NetV9 ncclNetPlugin_v9 = {
    .name = kName,
    .init = init,
    .devices = devices,
    .get_properties = get_properties<abi::PropertiesV9>,
    .listen = listen,
    .connect = connect_v7,
    .accept = accept_v7,
    .reg_mr = reg_mr,
    .reg_mr_dma_buf = reg_mr_dma_buf,
    .dereg_mr = dereg_mr,
    .isend = isend,
    .irecv = irecv,
    .iflush = iflush,
    .test = test,
    .close_send = close_connection,
    .close_recv = close_connection,
    .close_listen = close_listen,
    .make_v_device = make_v_device<abi::MergedV9>,
};

SHOAL_NCCL_EXPORT const abi::NetV10 ncclNetPlugin_v10 = {
    .name = kName,
    .init = init_with_profiler,
    .devices = devices,
    .get_properties = get_properties<abi::PropertiesV9>,
    .listen = listen,
    .connect = connect_v10,
    .accept = accept_v7,
    .reg_mr = reg_mr,
    .reg_mr_dma_buf = reg_mr_dma_buf,
    .dereg_mr = dereg_mr,
    .isend = isend_v10,
    .irecv = irecv_v10,
    .iflush = iflush,
    .test = test,
    .close_send = close_connection,
    .close_recv = close_connection,
    .close_listen = close_listen,
    .make_v_device = make_v_device<abi::MergedV9>,
};

/// v11 and v12 differ in their structs only.
template <class Table, class Properties, class Merged>
constexpr Table table_with_context() {
  return {
      .name = kName,
      .init = init_communicator,
      .devices = devices,
      .get_properties = get_properties<Properties>,
      .listen = listen_in,
      .connect = connect_in,
      .accept = accept_v7,
      .reg_mr = reg_mr,
      .reg_mr_dma_buf = reg_mr_dma_buf,
      .dereg_mr = dereg_mr,
      .isend = isend_v10,
      .irecv = irecv_v10,
      .iflush = iflush,
      .test = test,
      .close_send = close_connection,
      .close_recv = close_connection,
      .close_listen = close_listen,
      .make_v_device = make_v_device<Merged>,
      .finalize = finalize,
  };
}

SHOAL_NCCL_EXPORT const abi::NetV11 ncclNetPlugin_v11 =
    table_with_context<abi::NetV11, abi::PropertiesV11, abi::MergedV9>();
SHOAL_NCCL_EXPORT const abi::NetV12 ncclNetPlugin_v12 =
    table_with_context<abi::NetV12, abi::PropertiesV12, abi::MergedV12>();
