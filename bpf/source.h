#pragma once

#include <cstdint>

#include "json.h"

namespace shoal::tracer {

/// Something that is watched: programs in the kernel and what they have counted.
class Source {
 public:
  virtual ~Source() = default;
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  /// A process was added to those that are watched.
  virtual void added(int /*pid*/) {}
  /// Puts its part into a sample.
  virtual void sample(Json& line, uint64_t now_ns) = 0;
};

}  // namespace shoal::tracer
