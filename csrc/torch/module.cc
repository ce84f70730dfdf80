/// The extension shoal.torch._C: built with torch's own pybind11, for one version of torch. With
/// shoal._core it shares libshoal only.
#include <pybind11/chrono.h>
#include <torch/csrc/utils/pybind.h>

#include "torch/backend.h"
#include "torch/large_blocks.h"
#include "torch/pool.h"

namespace py = pybind11;

namespace shoal::torch {

namespace {

using Options = c10d::Backend::Options;

c10::intrusive_ptr<Options> make_options(std::chrono::milliseconds timeout,
                                         const std::string& group_name,
                                         const std::vector<std::uint64_t>& global_ranks) {
  auto options = c10::make_intrusive<Options>(kBackendName, timeout);
  options->group_name = group_name;
  options->global_ranks_in_group = global_ranks;
  return options;
}

c10::intrusive_ptr<ShoalBackend> create(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                        int size, std::chrono::milliseconds timeout,
                                        const std::string& name,
                                        const std::vector<std::uint64_t>& global_ranks,
                                        const std::string& ucx_directory) {
  return make_backend({store, rank, size, timeout, "group " + name},
                      make_options(timeout, name, global_ranks), ucx_directory);
}

c10::intrusive_ptr<ShoalBackend> create_subgroup(const c10::intrusive_ptr<ShoalBackend>& parent,
                                                 const c10::intrusive_ptr<c10d::Store>& store,
                                                 const std::vector<int>& ranks, int rank,
                                                 std::chrono::milliseconds timeout,
                                                 const std::string& name,
                                                 const std::vector<std::uint64_t>& global_ranks) {
  return parent->make_subgroup(store, ranks, rank, make_options(timeout, name, global_ranks));
}

py::dict statistics(ShoalBackend& backend) {
  const Statistics job = backend.communicator().statistics();
  const PoolStatistics pool = backend.communicator().pool();
  const LargeBlocks::Totals adopted = LargeBlocks::instance().adopted();
  py::dict result;
  result["operations"] = job.operations;
  result["staged"] = job.staged;
  result["staged_bytes"] = job.staged_bytes.value;
  result["copied_tensors"] = backend.copies().tensors.load();
  result["copied_bytes"] = backend.copies().bytes.load();
  result["copied_through_host"] = backend.copies().through_host.load();
  result["adopted_tensors"] = adopted.blocks;
  result["adopted_bytes"] = adopted.bytes;
  result["pool_bytes"] = pool.used.value;
  return result;
}

py::list last_operations(const ShoalBackend& backend) {
  py::list result;
  for (const Recorder::Entry& entry : backend.recorder().entries()) {
    py::dict one;
    one["number"] = entry.number;
    one["group"] = entry.group;
    one["sequence"] = entry.sequence;
    one["operation"] = entry.operation;
    one["elements"] = entry.elements;
    one["dtype"] = entry.dtype;
    one["timeout_ms"] = entry.timeout_ms;
    one["begin_ns"] = entry.begin_ns;
    one["end_ns"] = entry.end_ns;
    one["state"] = name_of(entry.state);
    result.append(one);
  }
  return result;
}

/// What leave_pool() needs.
class Scope {
 public:
  explicit Scope(PoolScope before) : before_(std::move(before)) {}
  void leave() { leave_pool(std::exchange(before_, {})); }

 private:
  PoolScope before_;
};

bool in_pool(ShoalBackend& backend, const at::Tensor& tensor) {
  if (!tensor.is_cpu()) return false;
  const at::Storage& storage = tensor.storage();
  return backend.communicator().in_pool(
      LargeBlocks::instance().pool_address(const_cast<void*>(storage.data())),
      {static_cast<std::int64_t>(storage.nbytes())});
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  py::class_<ShoalBackend, c10d::Backend, c10::intrusive_ptr<ShoalBackend>>(
      module, "ProcessGroupShoal", "A process group's backend; made by torch.distributed.")
      .def("statistics", &statistics, "Operations of this process, and what was copied for them.")
      .def("in_pool", &in_pool, py::arg("tensor"),
           "True if the tensor's memory is the pool's: collectives copy nothing.")
      .def("last_operations", &last_operations)
      .def_property_readonly("is_shut_down", &ShoalBackend::is_shut_down);
  module.def("create", &create, py::call_guard<py::gil_scoped_release>());
  module.def("create_subgroup", &create_subgroup, py::call_guard<py::gil_scoped_release>());
  py::class_<Scope>(module, "PoolScope").def("leave", &Scope::leave);
  module.def("enter_pool", [](ShoalBackend& backend, std::size_t smallest) {
    TORCH_CHECK(backend.job() != nullptr, "pool: the process group has been shut down");
    return Scope(enter_pool({backend.job(), smallest}));
  });
  module.def("leave_all_jobs", &leave_all_jobs, py::call_guard<py::gil_scoped_release>());
}

}  // namespace shoal::torch
