/// JSON lines on standard output. One thread.
#pragma once

#include <cstdint>
#include <string>

#include "json.h"

namespace shoal::tracer {

/// A reader that does not read must not stop the tracer: what does not fit into the pipe is kept,
/// up to a bound, and lines beyond that are dropped and counted.
class Output {
 public:
  explicit Output(int fd);

  void line(const Json& json);

  /// Writes what the reader takes. False: there is no reader any more.
  bool flush();
  /// The same at the end, and gives a slow reader at most this time.
  void finish(int timeout_ms);
  [[nodiscard]] bool pending() const noexcept { return !pending_.empty(); }
  [[nodiscard]] uint64_t dropped() const noexcept { return dropped_; }
  [[nodiscard]] int fd() const noexcept { return fd_; }

 private:
  int fd_;
  std::string pending_;
  uint64_t dropped_ = 0;
};

}  // namespace shoal::tracer
