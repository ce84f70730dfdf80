#pragma once

#include <array>
#include <optional>

#include "python/module.h"
#include "shoal/communicator.h"

namespace shoal::python {

/// A Work with the arrays it reads and writes: they live as long as it is not done.
class PyWork {
 public:
  /// Whose memory the operation works on.
  using Held = std::array<py::object, 2>;

  PyWork(Work work, py::object result, Held held)
      : work_(std::move(work)), result_(std::move(result)), held_(std::move(held)) {}
  PyWork(PyWork&&) noexcept = default;
  PyWork& operator=(PyWork&&) noexcept = default;
  ~PyWork();

  /// Returns the result. GIL is released while waiting; signals are handled.
  py::object wait();
  bool test();
  py::object exception();
  /// Whose message it received; none if there is none (yet).
  [[nodiscard]] std::optional<Rank> source() const noexcept {
    const Rank rank = work_.peer();
    return rank == kAnySource ? std::nullopt : std::optional(rank);
  }

 private:
  Work work_;
  py::object result_;
  Held held_;
  bool waited_ = false;  ///< done, and without an error
};

/// For waits without the GIL: looks for signals now and then.
Interrupt check_signals();

/// Waits here and now, or hands out the Work.
py::object complete(PyWork work, bool async_op);

}  // namespace shoal::python
