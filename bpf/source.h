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
  /// A descriptor to be waited for until it can be read, then on_ready() is called; -1: none.
  [[nodiscard]] virtual int descriptor() const { return -1; }
  virtual void on_ready() {}
  /// Puts its part into a sample.
  virtual void sample(Json& line, uint64_t now_ns) = 0;
};

}  // namespace shoal::tracer
