/// numpy's `writeable` flag of arrays that other ranks look at, and arrays that look at others'.
#pragma once

#include <vector>

#include "python/array.h"

namespace shoal::python {

/// An array over a view, which it owns; not writeable, and numpy refuses to make it so.
py::array look(View view, const py::dtype& dtype, const std::vector<py::ssize_t>& shape);

/// Takes the flag from the array that the user gave, until nobody holds a view of it any more. Does
/// nothing where nobody does, or where it is not a numpy array or not writeable anyway.
void mark_lent(const Communicator& comm, const Array& array);

/// Gives the flag back if nobody holds a view of the array any more. True: its flag is or was
/// missing because it is lent.
bool was_lent(const py::array& array);

}  // namespace shoal::python
