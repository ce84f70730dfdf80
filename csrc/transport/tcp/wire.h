/// A message on the wire: this header, then its bytes. Little-endian, as every processor that shoal
/// runs on; the handshake's magic number does not match on another.
#pragma once

#include <cstdint>

#include "transport/transport.h"

namespace shoal::transport::tcp {

struct Header {
  std::uint64_t word = 0;  ///< bits 47..36: fingerprint; the others: Match::key
  std::int64_t bytes = 0;  ///< that follow
};
static_assert(sizeof(Header) == 16);

inline constexpr int kFingerprintShift = 36;
inline constexpr std::uint64_t kFingerprintBitsInWord = ((std::uint64_t{1} << kFingerprintBits) - 1)
                                                        << kFingerprintShift;
/// Up to here a message's header and content travel as one piece of memory: a copy costs less than
/// a second piece (5 % of an exchange of 8 B).
inline constexpr std::int64_t kSmallBytes = 1024;
/// No message is longer: whoever says so is not a shoal.
inline constexpr std::int64_t kMaxMessageBytes = std::int64_t{1} << 46;

constexpr Header header_of(Match match, std::int64_t bytes) noexcept {
  const std::uint64_t fingerprint = std::uint64_t{match.fingerprint} << kFingerprintShift;
  return {(match.key & ~kFingerprintBitsInWord) | (fingerprint & kFingerprintBitsInWord), bytes};
}
constexpr std::uint64_t key_of(const Header& header) noexcept {
  return header.word & ~kFingerprintBitsInWord;
}
constexpr std::uint16_t fingerprint_of(const Header& header) noexcept {
  return static_cast<std::uint16_t>((header.word & kFingerprintBitsInWord) >> kFingerprintShift);
}

}  // namespace shoal::transport::tcp
