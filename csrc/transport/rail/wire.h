/// What two ranks say to each other over their rails. One stream of packets in each direction
/// carries everything but the parts of large messages, which go straight from memory to memory.
///
///   sender                                receiver
///   kMessage: 8 KiB at most, content in it
///   kAnnounce: message 7, 4 MiB     ->    matches a receive, decides who carries what
///                                   <-    kPull: bytes 0.. of message 7, over rail 0, as part 12
///                                   <-    kPull: bytes 3M.. of it, over rail 1, as part 13
///   parts 12 and 13, on their rails ->
///                                   <-    kDone: message 7
///
/// Beside the stream, on every rail by itself: kQuestion, and kAnswer to it (probe.h).
///
/// Little-endian, as every processor that shoal runs on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "transport/transport.h"

namespace shoal::transport::rail {

/// More make no sense: a rank has one adapter or two, a node eight.
inline constexpr int kMaxRails = 8;
/// Up to here a message is copied on both sides; beyond, a question and its answer cost less.
inline constexpr std::int64_t kEagerBytes = 8 << 10;
/// Packets of one direction that are sent and not acknowledged yet. The receiver acknowledges at
/// half of it, so a stream of small messages costs one packet in 16 more.
inline constexpr int kWindow = 32;

enum class Kind : std::uint8_t {
  kAck,       ///< says `received` only; not numbered
  kMessage,   ///< a whole message: content
  kAnnounce,  ///< a large message can be pulled
  kPull,      ///< send this part of it
  kDone,      ///< of it nothing more will be pulled
  kWithdraw,  ///< its sender has cancelled it
  kDropped,   ///< this side uses a rail no more
  kRestored,  ///< this side uses it again
  kQuestion,  ///< does this rail carry anything? Not numbered: `message` tells one from the next
  kAnswer,    ///< not numbered: the question's `message`
};
constexpr bool is_numbered(Kind kind) noexcept {
  return kind != Kind::kAck && kind < Kind::kQuestion;
}

struct Header {
  Kind kind = Kind::kAck;
  std::uint8_t rail = 0;  ///< kPull, kDropped, kRestored
  std::uint16_t fingerprint = 0;
  std::uint32_t content_bytes = 0;  ///< that follow
  std::uint64_t sequence = 0;       ///< of this packet
  std::uint64_t received = 0;       ///< all below it have come from the other side
  std::uint64_t key = 0;            ///< Match::key of a message, or a part's on its rail
  std::uint64_t message = 0;        ///< number that its sender gave it
  std::int64_t offset = 0;          ///< kPull
  std::int64_t bytes = 0;           ///< of the message, or of the part
};
static_assert(sizeof(Header) == 56);

struct Frame {
  Header header;
  std::array<std::byte, kEagerBytes> content;
};
static_assert(sizeof(Frame) == sizeof(Header) + kEagerBytes);

/// The rails are ours alone, so all their keys are: one for packets, the others for parts.
inline constexpr Match kPacketMatch{p2p_key(0, 0), 0};
constexpr Match part_match(std::uint64_t part) noexcept {
  return {collective_key(static_cast<std::uint32_t>(part >> 24) % kMaxCommunicators, part), 0};
}

/// Of a frame of which `bytes` have come. A rank of this job says nothing else.
constexpr bool is_well_formed(const Header& header, std::int64_t bytes, int rails) noexcept {
  return bytes >= std::int64_t{sizeof(Header)} && header.kind <= Kind::kAnswer &&
         header.rail < rails && header.bytes >= 0 && header.offset >= 0 &&
         bytes == std::int64_t{sizeof(Header)} + header.content_bytes;
}

}  // namespace shoal::transport::rail
