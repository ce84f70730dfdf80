#include "python/module.h"
#include "tune/load.h"
#include "tune/text.h"

namespace shoal::python {

void register_tuning(py::module_& module) {
  using py::arg;
  module.def("tuning_path", &tune::usual_path);
  module.def("merge_tuning", &tune::merge, arg("kept"), arg("name"), arg("newer"));
}

}  // namespace shoal::python
