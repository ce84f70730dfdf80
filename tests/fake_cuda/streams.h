/// Streams of the stand-in: each a queue and a thread of its own.
#pragma once

#include <cuda.h>

#include <functional>

namespace fake {

/// Something that a stream does. It may run many times, by a graph.
using Operation = std::function<void()>;

/// Appends to the stream's queue or, while the stream is captured, to the graph. nullptr: the null
/// stream of the current context.
CUresult enqueue(CUstream stream, Operation operation);
/// enter_context(), then the same.
CUresult enqueue(const char* call, CUstream stream, Operation operation);

}  // namespace fake
