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

// --- starting -----------------------------------------------------------------------------------

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

// --- devices ------------------------------------------------------------------------------------

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

// --- connecting ---------------------------------------------------------------------------------

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

// --- memory -------------------------------------------------------------------------------------

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

// --- moving -------------------------------------------------------------------------------------

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

/// A version's table: what is given here is what versions differ in. What a version has not is not
/// in its table, and NCCL finds no function where one is left out.
template <class Table, class Properties>
constexpr Table table(decltype(Table::init) init_, decltype(Table::listen) listen_,
                      decltype(Table::connect) connect_, decltype(Table::accept) accept_,
                      decltype(Table::reg_mr) register_, decltype(Table::isend) send_,
                      decltype(Table::irecv) receive_) {
  Table t{};
  t.name = kName;
  t.init = init_;
  t.devices = devices;
  t.get_properties = get_properties<Properties>;
  t.listen = listen_;
  t.connect = connect_;
  t.accept = accept_;
  t.reg_mr = register_;
  t.reg_mr_dma_buf = reg_mr_dma_buf;
  t.dereg_mr = dereg_mr;
  t.isend = send_;
  t.irecv = receive_;
  t.iflush = iflush;
  t.test = test;
  t.close_send = t.close_recv = close_connection;
  t.close_listen = close_listen;
  if constexpr (requires { t.make_v_device; }) {
    t.make_v_device = make_v_device<decltype(Properties{}.merged)>;
  }
  if constexpr (requires { t.finalize; }) t.finalize = finalize;
  return t;
}

}  // namespace
}  // namespace shoal::nccl

#define SHOAL_NCCL_EXPORT extern "C" __attribute__((visibility("default")))

using namespace shoal::nccl;  // NOLINT: the tables below are one page of names

SHOAL_NCCL_EXPORT const abi::NetV6 ncclNetPlugin_v6 = table<abi::NetV6, abi::PropertiesV6>(
    init, listen, connect, accept, reg_mr_v6, isend_v6, irecv_v6);
SHOAL_NCCL_EXPORT const abi::NetV7 ncclNetPlugin_v7 = table<abi::NetV7, abi::PropertiesV7>(
    init, listen, connect_v7, accept_v7, reg_mr_v6, isend_v6, irecv_v6);
SHOAL_NCCL_EXPORT const abi::NetV8 ncclNetPlugin_v8 = table<abi::NetV8, abi::PropertiesV8>(
    init, listen, connect_v7, accept_v7, reg_mr, isend_v6, irecv_v6);
SHOAL_NCCL_EXPORT const abi::NetV9 ncclNetPlugin_v9 =
    table<abi::NetV9, abi::PropertiesV9>(init, listen, connect_v7, accept_v7, reg_mr, isend, irecv);
SHOAL_NCCL_EXPORT const abi::NetV10 ncclNetPlugin_v10 = table<abi::NetV10, abi::PropertiesV9>(
    init_with_profiler, listen, connect_v10, accept_v7, reg_mr, isend_v10, irecv_v10);
SHOAL_NCCL_EXPORT const abi::NetV11 ncclNetPlugin_v11 = table<abi::NetV11, abi::PropertiesV11>(
    init_communicator, listen_in, connect_in, accept_v7, reg_mr, isend_v10, irecv_v10);
SHOAL_NCCL_EXPORT const abi::NetV12 ncclNetPlugin_v12 = table<abi::NetV12, abi::PropertiesV12>(
    init_communicator, listen_in, connect_in, accept_v7, reg_mr, isend_v10, irecv_v10);
