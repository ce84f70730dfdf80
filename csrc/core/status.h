/// The data path's errors: small values without strings. Strings are made when one is reported.
#pragma once

#include <cstdint>
#include <utility>

#include "shoal/error.h"

namespace shoal {

/// Outcome of a data-path call: a code, the rank it concerns (-1: none), and a detail such as
/// errno.
struct [[nodiscard]] Status {
  ErrorCode code = ErrorCode::kOk;
  std::int32_t rank = -1;
  std::int64_t detail = 0;

  [[nodiscard]] constexpr bool ok() const noexcept { return code == ErrorCode::kOk; }
};

inline constexpr Status kOkStatus{};

/// A value or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) noexcept : value_(std::move(value)) {}  // NOLINT: implicit by design
  Result(Status status) noexcept : status_(status) {}     // NOLINT: implicit by design

  [[nodiscard]] bool ok() const noexcept { return status_.ok(); }
  [[nodiscard]] Status status() const noexcept { return status_; }
  [[nodiscard]] T& value() noexcept { return value_; }
  [[nodiscard]] const T& value() const noexcept { return value_; }

 private:
  T value_{};
  Status status_{};
};

}  // namespace shoal
