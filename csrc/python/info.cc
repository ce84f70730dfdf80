#include <cstddef>
#include <string>

#include "comm/networks.h"
#include "core/probes.h"
#include "cuda/loader.h"
#include "memory/placement.h"
#include "python/module.h"
#include "reduce/reduce.h"
#include "shoal/abi/progress_page.h"
#include "shoal/types.h"
#include "transport/rdma_devices.h"
#include "transport/ucx/loader.h"

namespace shoal::python {

namespace {

py::dict ucx_info(const std::string& directory) {
  const auto& found = transport::ucx::find_ucx({directory, {}});
  py::dict ucx;
  ucx["found"] = !found.path.empty();
  ucx["path"] = found.path;
  ucx["version"] = found.version;
  py::list transports;
  for (const std::string& name : found.transports) transports.append(name);
  ucx["transports"] = transports;
  ucx["verbs"] = found.verbs;
  ucx["reason"] = found.reason;
  return ucx;
}

py::dict cuda_info() {
  const cuda::Survey found = cuda::survey();
  py::dict result;
  result["found"] = found.found;
  result["path"] = found.path;
  result["reason"] = found.reason;
  py::list devices;
  for (const cuda::DeviceSurvey& device : found.devices) {
    py::dict entry;
    entry["name"] = device.name;
    entry["total_bytes"] = device.total_bytes;
    entry["export"] = device.export_kind;
    devices.append(entry);
  }
  result["devices"] = devices;
  return result;
}

py::list rdma_info() {
  // No pool here: its pages would come from the node of this thread.
  const int pool_node = memory::node_of_page(nullptr);
  py::list ports;
  for (const transport::RdmaPort& found : transport::rdma_ports()) {
    py::dict port;
    port["device"] = found.device;
    port["port"] = found.number;
    port["state"] = found.state;
    port["link_layer"] = found.link_layer;
    port["netdev"] = found.netdev();
    port["rate"] = found.rate;
    port["mtu"] = found.mtu_bytes;
    port["numa_node"] = found.numa_node;
    port["numa_distance"] = transport::numa_distance(found.numa_node, pool_node);
    py::list gids;
    for (const transport::RdmaGid& gid : found.gids) {
      py::dict entry;
      entry["index"] = gid.index;
      entry["address"] = gid.address;
      entry["type"] = gid.type;
      entry["netdev"] = gid.netdev;
      gids.append(entry);
    }
    port["gids"] = gids;
    port["text"] = transport::describe(found, pool_node);
    ports.append(port);
  }
  return ports;
}

std::string sanitizers() {
  std::string names;
#if defined(__SANITIZE_ADDRESS__)
  names += "address";
#endif
#if defined(__SANITIZE_THREAD__)
  names += "thread";
#endif
  return names;
}

py::dict info(const std::string& ucx_directory) {
  const memory::Grant huge = memory::huge_pages();
  const memory::Grant local = memory::local_pages();
  py::dict result;
  result["version"] = SHOAL_VERSION;
#if defined(__clang__)
  result["compiler"] = __VERSION__;  // "Clang 19.1.7"
#else
  result["compiler"] = std::string("g++ ") + __VERSION__;
#endif
  result["sanitizers"] = sanitizers();
  result["isa"] = reduce::instruction_set();
  result["probes"] = probes_available();
  result["huge_pages"] = huge.advice;
  result["huge_pages_granted"] = huge.granted;
  result["numa"] = local.advice;
  result["numa_granted"] = local.granted;
  result["ucx"] = ucx_info(ucx_directory);
  result["rdma_ports"] = rdma_info();
  result["cuda"] = cuda_info();
  const comm::Outlook outlook = comm::look_at_networks({}, ucx_directory);
  result["network"] = std::string(outlook.offers_ucx ? "ucx" : "tcp") + " (" + outlook.reason + ")";
  return result;
}

/// Sizes and offsets of the progress page, for readers in other languages to check themselves by.
py::dict abi_layout() {
  py::dict layout;
#define SHOAL_SIZE(type) layout[#type] = sizeof(abi::type)
#define SHOAL_OFFSET(type, member) layout[#type "." #member] = offsetof(abi::type, member)
  SHOAL_SIZE(ArenaHeader);
  SHOAL_OFFSET(ArenaHeader, magic);
  SHOAL_OFFSET(ArenaHeader, version);
  SHOAL_OFFSET(ArenaHeader, ranks);
  SHOAL_OFFSET(ArenaHeader, slice_bytes);
  SHOAL_OFFSET(ArenaHeader, job);
  SHOAL_SIZE(OperationRecord);
  SHOAL_OFFSET(OperationRecord, sequence);
  SHOAL_OFFSET(OperationRecord, communicator);
  SHOAL_OFFSET(OperationRecord, state);
  SHOAL_OFFSET(OperationRecord, collective);
  SHOAL_OFFSET(OperationRecord, algorithm);
  SHOAL_OFFSET(OperationRecord, dtype);
  SHOAL_OFFSET(OperationRecord, op);
  SHOAL_OFFSET(OperationRecord, count);
  SHOAL_OFFSET(OperationRecord, begin_ns);
  SHOAL_OFFSET(OperationRecord, step);
  SHOAL_OFFSET(OperationRecord, awaited_peer);
  SHOAL_SIZE(TransferRecord);
  SHOAL_SIZE(CommunicatorRow);
  SHOAL_SIZE(ProgressPage);
  SHOAL_OFFSET(ProgressPage, version);
  SHOAL_OFFSET(ProgressPage, pid);
  SHOAL_OFFSET(ProgressPage, rank);
  SHOAL_OFFSET(ProgressPage, ranks);
  SHOAL_OFFSET(ProgressPage, local_rank);
  SHOAL_OFFSET(ProgressPage, drivers);
  SHOAL_OFFSET(ProgressPage, host);
  SHOAL_OFFSET(ProgressPage, heartbeat_ns);
  SHOAL_OFFSET(ProgressPage, thread_id);
  SHOAL_OFFSET(ProgressPage, posted);
  SHOAL_OFFSET(ProgressPage, completed);
  SHOAL_OFFSET(ProgressPage, failed);
  SHOAL_OFFSET(ProgressPage, operations);
  SHOAL_OFFSET(ProgressPage, transfers);
  SHOAL_OFFSET(ProgressPage, communicators);
  SHOAL_OFFSET(ProgressPage, bytes);
  SHOAL_OFFSET(ProgressPage, at_once);
#undef SHOAL_SIZE
#undef SHOAL_OFFSET
  layout["page_offset"] = abi::kProgressPageOffset;
  layout["page_operations"] = abi::kPageOperations;
  layout["page_transfers"] = abi::kPageTransfers;
  layout["page_communicators"] = abi::kPageCommunicators;
  for (int i = 0; i < kDataTypes; ++i) {
    layout[("DataType." + std::string(name_of(static_cast<DataType>(i)))).c_str()] = i;
  }
  for (int i = 0; i < kCollectives; ++i) {
    layout[("Collective." + std::string(name_of(static_cast<Collective>(i)))).c_str()] = i;
  }
  return layout;
}

}  // namespace

void register_info(py::module_& module) {
  module.def("info", &info, py::arg("ucx_directory") = "");
  module.def("abi_layout", &abi_layout);
}

}  // namespace shoal::python
