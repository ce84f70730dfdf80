#include "bootstrap/store.h"

#include <pybind11/stl.h>

#include "python/module.h"

namespace shoal::python {

void register_store(py::module_& module) {
  using bootstrap::Store;
  const auto released = py::call_guard<py::gil_scoped_release>();
  py::class_<Store>(module, "Store", "The rendezvous store a launcher runs. Any thread.")
      .def(py::init([](const std::string& bind_host, std::uint16_t port, Rank ranks,
                       const std::string& job, const std::string& secret,
                       bool launcher_reports_exits) {
             bootstrap::StoreOptions options;
             options.bind_host = bind_host;
             options.port = port;
             options.ranks = ranks;
             options.job = job;
             options.secret = secret;
             options.launcher_reports_exits = launcher_reports_exits;
             return std::make_unique<Store>(options);
           }),
           py::arg("bind_host"), py::arg("port"), py::arg("ranks"), py::arg("job"),
           py::arg("secret"), py::arg("launcher_reports_exits") = false)
      .def_property_readonly("port", &Store::port)
      .def("report_exit", &Store::report_exit, released, py::arg("rank"), py::arg("cause"))
      .def("missing", &Store::missing, released);
}

}  // namespace shoal::python
