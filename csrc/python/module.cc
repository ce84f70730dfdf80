#include "python/module.h"

#include "python/cuda_array.h"

PYBIND11_MODULE(_core, module) {
  using namespace shoal::python;  // NOLINT(google-build-using-namespace): the module's own
  module.doc() = "shoal's C++ core; use it through the package `shoal`";
  module.attr("__version__") = SHOAL_VERSION;

  register_errors(module);
  register_work(module);
  register_communicator(module);
  register_cuda_array(module);
  register_numpy_pool(module);
  register_store(module);
  register_schedules(module);
  register_tuning(module);
  register_info(module);
}
