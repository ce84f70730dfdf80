/// Arrays in CUDA memory: shape, dtype and how other libraries get at them; no arithmetic.
#pragma once

#include <memory>
#include <vector>

#include "python/module.h"
#include "shoal/communicator.h"

namespace shoal::python {

/// Shape and dtype of memory that the host cannot read: the base keeps numpy from copying it.
py::array shadow(const py::dtype& dtype, const std::vector<py::ssize_t>& shape, std::uintptr_t data,
                 bool read_only = false);

/// C-contiguous. Its memory goes with the last holder: this, or what __dlpack__ has made of it.
class CudaArray {
 public:
  CudaArray(CudaBlock block, py::dtype dtype, std::vector<py::ssize_t> shape);

  [[nodiscard]] const py::dtype& dtype() const noexcept { return dtype_; }
  [[nodiscard]] const std::vector<py::ssize_t>& shape() const noexcept { return shape_; }
  [[nodiscard]] CudaBlock& block() const noexcept { return *block_; }
  [[nodiscard]] const py::array& as_shadow() const noexcept { return shadow_; }

  [[nodiscard]] py::dict cuda_array_interface() const;
  [[nodiscard]] py::tuple dlpack_device() const;
  [[nodiscard]] py::capsule dlpack(const py::object& stream, const py::object& max_version,
                                   const py::object& device, const py::object& copy) const;
  [[nodiscard]] py::array copy_to_host() const;
  void copy_from_host(const py::object& source);
  [[nodiscard]] std::string repr() const;

 private:
  std::shared_ptr<CudaBlock> block_;  // shared_ptr: a capsule's consumer may keep it longer
  py::dtype dtype_;
  std::vector<py::ssize_t> shape_;
  py::array shadow_;  // made once: calls take it as their argument
};

/// A new array in the communicator's CUDA memory; `device` is "cuda" or "cuda:1".
CudaArray empty_cuda(Communicator& comm, const std::vector<py::ssize_t>& shape,
                     const py::dtype& dtype, const std::string& device);

void register_cuda_array(py::module_& module);

}  // namespace shoal::python
