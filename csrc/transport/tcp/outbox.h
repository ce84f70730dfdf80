/// What goes to one peer: messages in the order of their sends, straight out of the user's memory.
/// No sockets: it says what the next bytes are, and is told how many have left.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <vector>

#include "transport/tcp/wire.h"
#include "transport/transport.h"

namespace shoal::transport::tcp {

/// One thread.
class Outbox {
 public:
  static constexpr int kSpaces = 16;
  using Spaces = std::array<iovec, kSpaces>;

  void send(Match match, const void* data, std::int64_t bytes, Operation& operation) noexcept {
    messages_.push_back({&operation, header_of(match, bytes), data});
  }
  [[nodiscard]] bool empty() const noexcept { return messages_.empty(); }

  /// What the next bytes are: of several messages, where they are short. How many spaces.
  [[nodiscard]] int spaces(Spaces& spaces) noexcept;
  /// So many of them have left.
  void left(std::int64_t bytes) noexcept;

  enum class Cancelled : std::uint8_t { kNotMine, kWhole, kInTheMiddle };
  /// kInTheMiddle: a part of it has left, and is of no use to the peer without the rest.
  Cancelled cancel(const Operation& operation) noexcept;
  void fail(Status status) noexcept;

 private:
  struct Message {
    Operation* operation;
    Header header;
    const void* data;

    [[nodiscard]] std::int64_t bytes() const noexcept {
      return std::int64_t{sizeof header} + header.bytes;
    }
  };

  /// The only message, as one piece.
  struct Packed {
    Header header;
    std::array<std::byte, kSmallBytes> content;
  };

  std::vector<Message> messages_;  ///< few, and used again without a new allocation
  std::int64_t left_ = 0;          ///< of the first message, its header included
  Packed packed_;
};

}  // namespace shoal::transport::tcp
