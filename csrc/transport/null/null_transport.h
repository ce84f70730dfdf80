/// A transport that moves nothing: what remains of an operation's time is the cost of its steps.
#pragma once

#include <cstdint>
#include <string>

#include "transport/transport.h"

namespace shoal::transport::null {

/// Every operation is done when its call returns. A receive leaves its memory as it was and claims
/// `capacity` bytes with the fingerprint of its own match. Any thread: it has no state.
class NullTransport final : public Transport {
 public:
  bool send(int, Match, const void*, std::int64_t, Operation& operation) noexcept override {
    operation.status = kOkStatus;
    operation.state = Operation::State::kDone;
    return true;
  }

  bool receive(int, Match match, void*, std::int64_t capacity,
               Operation& operation) noexcept override {
    operation.status = kOkStatus;
    operation.bytes = capacity;
    operation.fingerprint = match.fingerprint;
    operation.state = Operation::State::kDone;
    return true;
  }

  bool probe(int, Match) noexcept override { return true; }
  bool progress() noexcept override { return false; }
  void cancel(Operation&) noexcept override {}
  [[nodiscard]] std::string describe() const override { return "null"; }
};

}  // namespace shoal::transport::null
