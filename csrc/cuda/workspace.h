/// Where kernels that wait for one another meet: a block of device memory of each rank, into which
/// the others store.
///
///   finished   blocks of the running kernel that are over, 0 between kernels
///   ended      not 0: this rank's host knows that the communicator has ended
///   done[r]    rank r's kernel is over, of an operation that reads and writes others' buffers
///   inbox      two slots; in each an area for each rank, into which only that rank stores:
///              a header, and a message of at most message_limit() bytes, in packets
///
/// A packet's flag says which operation it belongs to, so nothing is ever reset. Operation n uses
/// slot n % 2. Why nothing is overwritten that has yet to be read: a rank stores for operation n
/// when its operation n - 1 is over, and that has awaited a header of every rank for n - 1; they
/// sent those when their n - 2 was over, which was the last to read that slot.
/// And nobody who has seen all headers of n waits for anything of an earlier operation, so done[r]
/// can be overwritten too: rank r ends n + 1 only after this rank has sent its header of n + 1.
///
/// Flags go round after 2^31 operations, and a packet far behind in an area may be that old. So
/// every kSweep operations a rank clears, on the stream, before its kernel of operation n, what
/// nobody can be storing to then: slot (n + 1) % 2 (whoever stores for n + 1 has seen this rank's
/// header of n) and done (of n: likewise). 0 is no flag.
#pragma once

#include <cstdint>

#include "cuda/kernel_parameters.h"

namespace shoal::cuda {

/// The flag of operation `number`.
constexpr std::uint32_t flag_of(std::uint32_t number) noexcept { return number << 1 | 1; }

/// A power of two, far less than 2^31.
inline constexpr std::uint32_t kSweep = 1u << 20;

/// Offsets in the block of a rank in a group of so many. Immutable.
class WorkspaceLayout {
 public:
  explicit constexpr WorkspaceLayout(int ranks) noexcept : ranks_(ranks) {}

  static constexpr std::int64_t kPacketBytes = 16;
  static constexpr std::int64_t kDataBytes = 8;  ///< of a packet

  static constexpr std::int64_t finished() noexcept { return 0; }
  static constexpr std::int64_t ended() noexcept { return kLine; }
  static constexpr std::int64_t done(int rank) noexcept {
    return 2 * kLine + rank * std::int64_t{sizeof(std::uint32_t)};
  }
  static constexpr std::int64_t done_bytes() noexcept { return kInbox - done(0); }
  [[nodiscard]] constexpr std::int64_t slot(std::uint32_t number) const noexcept {
    return kInbox + number % 2 * slot_bytes();
  }
  [[nodiscard]] constexpr std::int64_t slot_bytes() const noexcept { return ranks_ * area_bytes(); }
  /// What `rank` stores for operation `number`.
  [[nodiscard]] constexpr std::int64_t area(std::uint32_t number, int rank) const noexcept {
    return slot(number) + rank * area_bytes();
  }
  /// Of a packet of the message in an area.
  [[nodiscard]] static constexpr std::int64_t packet(std::int64_t i) noexcept {
    return (kHeaderPackets + i) * kPacketBytes;
  }
  [[nodiscard]] constexpr std::int64_t bytes() const noexcept { return kInbox + 2 * slot_bytes(); }

  /// Of what one rank sends to another. A message costs each rank 4 bytes stored and read for each
  /// byte and rank (packets are half flags), the other way 2 for each byte, and two rounds more;
  /// and the block would grow with the square of the ranks.
  [[nodiscard]] constexpr std::int64_t message_limit() const noexcept {
    const std::int64_t share = kMessagesBytes / ranks_ / kDataBytes * kDataBytes;
    return share < kMessageLimit ? share : kMessageLimit;
  }

 private:
  static constexpr std::int64_t kLine = 128;
  static constexpr std::int64_t kInbox = 512;
  static constexpr std::int64_t kHeaderPackets = 3;  // tag, input, output; see kernel_meeting.h
  static constexpr std::int64_t kMessageLimit = 16 << 10;
  static constexpr std::int64_t kMessagesBytes = 64 << 10;  ///< of all ranks

  [[nodiscard]] constexpr std::int64_t area_bytes() const noexcept {
    return packet(message_limit() / kDataBytes);
  }

  int ranks_;
};
static_assert(WorkspaceLayout::done(kMaxKernelRanks) <= WorkspaceLayout(1).slot(0));

}  // namespace shoal::cuda
