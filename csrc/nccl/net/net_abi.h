/// What NCCL and a network plug-in say to one another: the tables ncclNetPlugin_v6 to _v12, as
/// NCCL's public headers lay them out (src/include/plugin/net/ of NVIDIA/nccl, read at v2.30).
/// Declarations of our own; the assertions at the end hold what NCCL relies on. 64-bit only.
///
/// What changed: v7 offload to the device; v8 registrations of 2 GiB and more, shared ones; v9
/// messages of 2 GiB and more, merged devices; v10 traffic class and profiler; v11 a context for
/// each communicator, finalize; v12 eight devices in a merged one, rail and plane.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace shoal::nccl::abi {

enum Result : int {
  kSuccess = 0,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
};

enum LogLine : int { kLogWarn = 2, kLogInfo = 3, kLogTrace = 5 };
inline constexpr unsigned long kSubsystemInit = 0x1;
inline constexpr unsigned long kSubsystemNet = 0x10;
using Logger = void (*)(int level, unsigned long subsystems, const char* file, int line,
                        const char* format, ...);
using Profiler = Result (*)(void** event, int type, void* parent, std::int64_t plugin, void* data);

inline constexpr std::size_t kHandleBytes = 128;
inline constexpr int kPointerHost = 0x1;
inline constexpr int kPointerCuda = 0x2;
/// Requests of one connection that may be under way, and receives in a group (NCCL's own IB).
inline constexpr int kMaxRequests = 32;
inline constexpr int kMaxReceives = 8;
/// In *request of a receive whose end NCCL need not learn. A hint, which may be passed over.
inline constexpr std::uintptr_t kCompletionIsOptional = 0x1;
inline constexpr int kUndefined = -1;
inline constexpr std::size_t kMaxMessageBytes = std::size_t{1} << 40;  ///< NCCL takes no more

// --- properties ---------------------------------------------------------------------------------

template <int kDevices>
struct MergedDevice {
  int count;
  std::array<int, kDevices> devices;
};
using MergedV9 = MergedDevice<4>;
using MergedV12 = MergedDevice<8>;

struct PropertiesV6 {
  const char* name;
  const char* pci_path;  ///< in /sys; nullptr: no PCI device
  std::uint64_t guid;    ///< of the card: its ports share it
  int pointers;          ///< kPointerHost...
  int speed_mbps;
  int port;
  float latency;
  int max_comms;
  int max_receives;
};
struct PropertiesV7 {
  const char* name;
  const char* pci_path;
  std::uint64_t guid;
  int pointers;
  int speed_mbps;
  int port;
  float latency;
  int max_comms;
  int max_receives;
  int offload;  ///< 0: none, by the host
  int offload_version;
};
struct PropertiesV8 {
  const char* name;
  const char* pci_path;
  std::uint64_t guid;
  int pointers;
  int registration_is_global;
  int speed_mbps;
  int port;
  float latency;
  int max_comms;
  int max_receives;
  int offload;
  int offload_version;
};
struct PropertiesV9 {  // v10 too
  const char* name;
  const char* pci_path;
  std::uint64_t guid;
  int pointers;
  int registration_is_global;
  int force_flush;
  int speed_mbps;
  int port;
  float latency;
  int max_comms;
  int max_receives;
  int offload;
  int offload_version;
  MergedV9 merged;
  std::size_t max_p2p_bytes;
  std::size_t max_collective_bytes;
};
struct PropertiesV11 {
  const char* name;
  const char* pci_path;
  std::uint64_t guid;
  int pointers;
  int registration_is_global;
  int force_flush;
  int speed_mbps;
  int port;
  float latency;
  int max_comms;
  int max_receives;
  int offload;
  int offload_version;
  MergedV9 merged;
  std::size_t max_p2p_bytes;
  std::size_t max_collective_bytes;
  int max_multi_request;
};
struct PropertiesV12 {
  const char* name;
  const char* pci_path;
  std::uint64_t guid;
  int pointers;
  int registration_is_global;
  int force_flush;
  int speed_mbps;
  int port;
  float latency;
  int max_comms;
  int max_receives;
  int offload;
  int offload_version;
  MergedV12 merged;
  std::size_t max_p2p_bytes;
  std::size_t max_collective_bytes;
  int max_multi_request;
  std::int16_t rail;
  std::int16_t plane;
};

struct CommConfig {
  int traffic_class;
};
struct DeviceHandle;  ///< of offload, which we do not have
struct NetAttributes;

// --- tables -------------------------------------------------------------------------------------

using InitV6 = Result (*)(Logger);
using InitV10 = Result (*)(Logger, Profiler);
using InitV11 = Result (*)(void** context, std::uint64_t comm, CommConfig*, Logger, Profiler);
using Devices = Result (*)(int* count);
template <class Properties>
using GetProperties = Result (*)(int device, Properties*);
using ListenV6 = Result (*)(int device, void* handle, void** listener);
using ListenV11 = Result (*)(void* context, int device, void* handle, void** listener);
using ConnectV6 = Result (*)(int device, void* handle, void** sender);
using ConnectV7 = Result (*)(int device, void* handle, void** sender, DeviceHandle**);
using ConnectV10 = Result (*)(int device, CommConfig*, void* handle, void** sender, DeviceHandle**);
using ConnectV11 = Result (*)(void* context, int device, void* handle, void** sender,
                              DeviceHandle**);
using AcceptV6 = Result (*)(void* listener, void** receiver);
using AcceptV7 = Result (*)(void* listener, void** receiver, DeviceHandle**);
using RegisterV6 = Result (*)(void* comm, void* data, int bytes, int type, void** memory);
using RegisterV8 = Result (*)(void* comm, void* data, std::size_t bytes, int type, void** memory);
using RegisterDmaBuf = Result (*)(void* comm, void* data, std::size_t bytes, int type,
                                  std::uint64_t offset, int fd, void** memory);
using Deregister = Result (*)(void* comm, void* memory);
using SendV6 = Result (*)(void* sender, void* data, int bytes, int tag, void* memory,
                          void** request);
using SendV9 = Result (*)(void* sender, void* data, std::size_t bytes, int tag, void* memory,
                          void** request);
using SendV10 = Result (*)(void* sender, void* data, std::size_t bytes, int tag, void* memory,
                           void* event, void** request);
using ReceiveV6 = Result (*)(void* receiver, int count, void** data, int* bytes, int* tags,
                             void** memory, void** request);
using ReceiveV9 = Result (*)(void* receiver, int count, void** data, std::size_t* bytes, int* tags,
                             void** memory, void** request);
using ReceiveV10 = Result (*)(void* receiver, int count, void** data, std::size_t* bytes, int* tags,
                              void** memory, void** events, void** request);
using Flush = Result (*)(void* receiver, int count, void** data, int* bytes, void** memory,
                         void** request);
using Test = Result (*)(void* request, int* done, int* bytes);
using Close = Result (*)(void* comm);
using GetDeviceMemory = Result (*)(void* comm, void* memory, void** device_memory);
using ReceiveConsumed = Result (*)(void* receiver, int count, void* request);
template <class Merged>
using MakeDevice = Result (*)(int* device, Merged*);
using Finalize = Result (*)(void* context);
using SetAttributes = Result (*)(void* context, NetAttributes*);

struct NetV6 {
  const char* name;
  InitV6 init;
  Devices devices;
  GetProperties<PropertiesV6> get_properties;
  ListenV6 listen;
  ConnectV6 connect;
  AcceptV6 accept;
  RegisterV6 reg_mr;
  RegisterDmaBuf reg_mr_dma_buf;
  Deregister dereg_mr;
  SendV6 isend;
  ReceiveV6 irecv;
  Flush iflush;
  Test test;
  Close close_send, close_recv, close_listen;
};
struct NetV7 {
  const char* name;
  InitV6 init;
  Devices devices;
  GetProperties<PropertiesV7> get_properties;
  ListenV6 listen;
  ConnectV7 connect;
  AcceptV7 accept;
  RegisterV6 reg_mr;
  RegisterDmaBuf reg_mr_dma_buf;
  Deregister dereg_mr;
  SendV6 isend;
  ReceiveV6 irecv;
  Flush iflush;
  Test test;
  Close close_send, close_recv, close_listen;
  GetDeviceMemory get_device_mr;
  ReceiveConsumed irecv_consumed;
};
struct NetV8 {
  const char* name;
  InitV6 init;
  Devices devices;
  GetProperties<PropertiesV8> get_properties;
  ListenV6 listen;
  ConnectV7 connect;
  AcceptV7 accept;
  RegisterV8 reg_mr;
  RegisterDmaBuf reg_mr_dma_buf;
  Deregister dereg_mr;
  SendV6 isend;
  ReceiveV6 irecv;
  Flush iflush;
  Test test;
  Close close_send, close_recv, close_listen;
  GetDeviceMemory get_device_mr;
  ReceiveConsumed irecv_consumed;
};
struct NetV9 {
  const char* name;
  InitV6 init;
  Devices devices;
  GetProperties<PropertiesV9> get_properties;
  ListenV6 listen;
  ConnectV7 connect;
  AcceptV7 accept;
  RegisterV8 reg_mr;
  RegisterDmaBuf reg_mr_dma_buf;
  Deregister dereg_mr;
  SendV9 isend;
  ReceiveV9 irecv;
  Flush iflush;
  Test test;
  Close close_send, close_recv, close_listen;
  GetDeviceMemory get_device_mr;
  ReceiveConsumed irecv_consumed;
  MakeDevice<MergedV9> make_v_device;
};
struct NetV10 {
  const char* name;
  InitV10 init;
  Devices devices;
  GetProperties<PropertiesV9> get_properties;
  ListenV6 listen;
  ConnectV10 connect;
  AcceptV7 accept;
  RegisterV8 reg_mr;
  RegisterDmaBuf reg_mr_dma_buf;
  Deregister dereg_mr;
  SendV10 isend;
  ReceiveV10 irecv;
  Flush iflush;
  Test test;
  Close close_send, close_recv, close_listen;
  GetDeviceMemory get_device_mr;
  ReceiveConsumed irecv_consumed;
  MakeDevice<MergedV9> make_v_device;
};
template <class Properties, class Merged>
struct NetWithContext {
  const char* name;
  InitV11 init;
  Devices devices;
  GetProperties<Properties> get_properties;
  ListenV11 listen;
  ConnectV11 connect;
  AcceptV7 accept;
  RegisterV8 reg_mr;
  RegisterDmaBuf reg_mr_dma_buf;
  Deregister dereg_mr;
  SendV10 isend;
  ReceiveV10 irecv;
  Flush iflush;
  Test test;
  Close close_send, close_recv, close_listen;
  GetDeviceMemory get_device_mr;
  ReceiveConsumed irecv_consumed;
  MakeDevice<Merged> make_v_device;
  Finalize finalize;
  SetAttributes set_net_attr;
};
using NetV11 = NetWithContext<PropertiesV11, MergedV9>;
using NetV12 = NetWithContext<PropertiesV12, MergedV12>;

// A table is a name and functions, so its size says how many; of the structs, what has holes.
template <class Table>
constexpr std::size_t slots_of() {
  return sizeof(Table) / sizeof(void*);
}
static_assert(slots_of<NetV6>() == 17 && slots_of<NetV7>() == 19 && slots_of<NetV8>() == 19);
static_assert(slots_of<NetV9>() == 20 && slots_of<NetV10>() == 20);
static_assert(slots_of<NetV11>() == 22 && slots_of<NetV12>() == 22);
static_assert(sizeof(MergedV9) == 20 && sizeof(MergedV12) == 36);
static_assert(sizeof(PropertiesV6) == 48 && offsetof(PropertiesV6, max_receives) == 44);
static_assert(sizeof(PropertiesV7) == 56 && offsetof(PropertiesV7, offload) == 48);
static_assert(sizeof(PropertiesV8) == 64 && offsetof(PropertiesV8, speed_mbps) == 32 &&
              offsetof(PropertiesV8, offload) == 52);
static_assert(sizeof(PropertiesV9) == 104 && offsetof(PropertiesV9, speed_mbps) == 36 &&
              offsetof(PropertiesV9, merged) == 64 && offsetof(PropertiesV9, max_p2p_bytes) == 88);
static_assert(sizeof(PropertiesV11) == 112 && offsetof(PropertiesV11, max_multi_request) == 104);
static_assert(sizeof(PropertiesV12) == 128 && offsetof(PropertiesV12, max_p2p_bytes) == 104 &&
              offsetof(PropertiesV12, max_multi_request) == 120 &&
              offsetof(PropertiesV12, rail) == 124);

}  // namespace shoal::nccl::abi
