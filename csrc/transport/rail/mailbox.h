/// Brings the messages of one peer and the receives for them together. No network: it sees messages
/// in the order of their sending, so those of one key go to their receives in that order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "transport/rail/wire.h"
#include "transport/transport.h"

namespace shoal::transport::rail {

/// A receive that has been started.
struct Wanted {
  Operation* operation = nullptr;
  std::uint64_t key = 0;
  std::byte* data = nullptr;
  std::int64_t capacity = 0;
  std::uint64_t number = 0;  ///< the mailbox's own
};

/// A message before its receive: with its content, or announced.
struct Arrived {
  Header header;
  std::unique_ptr<std::byte[]> content;
};

/// One thread.
class Mailbox {
 public:
  [[nodiscard]] bool has(std::uint64_t key) const noexcept;
  /// A number of the receive that has waited longest, no other's while it waits.
  [[nodiscard]] std::optional<std::uint64_t> oldest_wanted() const noexcept;
  /// The first of that key.
  std::optional<Arrived> take_arrived(std::uint64_t key) noexcept;
  std::optional<Wanted> take_wanted(std::uint64_t key) noexcept;

  void want(const Wanted& wanted) {
    wanted_.push_back(wanted);
    wanted_.back().number = next_number_++;
  }
  /// Copies the content. False: out of memory.
  [[nodiscard]] bool keep(const Header& header, const std::byte* content) noexcept;

  /// False: it does not wait here.
  bool cancel(const Operation& operation) noexcept;
  /// The sender has taken an announced message back. False: it is not here.
  bool withdraw(std::uint64_t message) noexcept;
  /// Every receive that waits ends with this status.
  void fail(Status status) noexcept;

 private:
  std::vector<Wanted> wanted_;
  std::vector<Arrived> arrived_;
  std::uint64_t next_number_ = 0;
};

}  // namespace shoal::transport::rail
