/// How much ranks say to find one another.
#pragma once

namespace shoal::bootstrap {

/// Messages: hellos, proofs, frames; and over the unix socket a request and its answer.
struct Traffic {
  int sent = 0;
  int received = 0;

  Traffic& operator+=(const Traffic& other) noexcept {
    sent += other.sent;
    received += other.received;
    return *this;
  }
};

}  // namespace shoal::bootstrap
