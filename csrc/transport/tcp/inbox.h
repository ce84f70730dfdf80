/// What comes from one peer: a stream of messages, and the receives they belong to. No sockets:
/// it says where the next bytes should be put, and is told how many have come.
///
/// Bytes go straight to where the user wants them. The header of a message and its content are
/// read by one call, on the guess that it belongs to the receive that was posted first; a wrong
/// guess is mended by a move, and what it has overwritten is the memory of a receive that is not
/// done. A small message is copied once instead: two pieces of memory cost more than that.
/// A message nobody has asked for stays where it is, in the kernel, and holds the sender
/// back, unless a receive is posted that may be waiting for one behind it: then it is kept aside.
/// Of a message that is sought, the header is read; its content waits for a receive like any other.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "transport/tcp/wire.h"
#include "transport/transport.h"

namespace shoal::transport::tcp {

/// One thread.
class Inbox {
 public:
  static constexpr int kSpaces = 2;
  using Spaces = std::array<iovec, kSpaces>;

  /// Ends at once if the message is here.
  void receive(Match match, void* data, std::int64_t capacity, Operation& operation) noexcept;
  /// The message is here, or its header. If not, the inbox wants the next headers, up to the first
  /// of a message that nobody has asked for: it may be the one.
  [[nodiscard]] bool seek(Match match) noexcept;
  void stop_seeking() noexcept { seeks_ = false; }
  /// False: it is none of this inbox's. Nothing is written to its memory any more.
  bool cancel(const Operation& operation) noexcept;
  /// Every receive that is waiting ends with this status.
  void fail(Status status) noexcept;

  /// Something is waiting for bytes. Otherwise they had better stay in the kernel.
  [[nodiscard]] bool wants() const noexcept {
    return !posted_.empty() || sink_ == Sink::kReceive || sink_ == Sink::kDropped || seeks_;
  }
  /// Where the next bytes go, in this order; how many spaces. 0: out of memory.
  int spaces(Spaces& spaces) noexcept;
  /// `bytes` have been put there. False: this is no stream of ours.
  [[nodiscard]] bool arrived(std::int64_t bytes) noexcept;

 private:
  struct Receive {
    Operation* operation;
    std::uint64_t key;
    std::byte* data;
    std::int64_t capacity;
  };
  /// A message that came before its receive.
  struct Kept {
    Header header;
    std::unique_ptr<std::byte[]> data;
  };
  enum class Sink : std::uint8_t {
    kNone,     ///< between messages, or within a header
    kReceive,  ///< receiving_
    kNobody,   ///< not known yet; in kept_, as far as it has been read
    kDropped,
  };

  using Place = std::vector<Kept>::iterator;
  [[nodiscard]] Place find_kept(std::uint64_t key) noexcept;
  [[nodiscard]] bool is_receiving() const noexcept { return sink_ == Sink::kReceive; }
  /// Of bytes that lie at `from`, e.g. in the memory of the receive that was guessed.
  bool feed(const std::byte* from, std::int64_t bytes) noexcept;
  bool begin_message() noexcept;
  void end_message() noexcept;
  /// The message goes to this receive, if it fits.
  void assign(const Receive& receive) noexcept;
  bool keep() noexcept;
  [[nodiscard]] std::byte* target() noexcept;

  std::vector<Receive> posted_;   ///< in the order of their calls
  std::vector<Kept> unexpected_;  ///< whole messages, in the order of their coming
  Sink sink_ = Sink::kNone;
  bool seeks_ = false;
  /// The header of the message that is coming and, if it is small, what came with it.
  struct Beginning {
    Header header;
    std::array<std::byte, kSmallBytes> content;
  } beginning_;
  std::int64_t header_bytes_ = 0;  ///< of which have come
  std::int64_t content_bytes_ = 0;
  Receive receiving_{};
  std::unique_ptr<std::byte[]> kept_;
  std::unique_ptr<std::byte[]> dropped_;  ///< kDropBytes, where bytes go that nobody wants
};

}  // namespace shoal::transport::tcp
