/// How a Match and its sender fill the 64-bit tag of a network that matches tags.
///
///   63   62..52        51..36   35..24        23..0
///   p2p  communicator  sender   fingerprint   sequence or tag
///
/// All of it is matched but the fingerprint, which the receiver reads from the tag that has come.
#pragma once

#include <bit>
#include <cstdint>

#include "transport/transport.h"

namespace shoal::transport::ucx {

inline constexpr int kTagBits = std::bit_width(kMaxTag);
inline constexpr int kSenderBits = std::bit_width(static_cast<std::uint32_t>(kMaxPeers - 1));
inline constexpr int kCommunicatorBits = std::bit_width(kMaxCommunicators - 1);
static_assert(1 + kCommunicatorBits + kSenderBits + kFingerprintBits + kTagBits == 64);

inline constexpr int kSenderShift = kTagBits + kFingerprintBits;
inline constexpr int kCommunicatorShift = kSenderShift + kSenderBits;
inline constexpr std::uint64_t kFingerprintMask = (std::uint64_t{1} << kFingerprintBits) - 1;
/// The bits that a receive compares.
inline constexpr std::uint64_t kMatchedBits = ~(kFingerprintMask << kTagBits);

constexpr std::uint64_t wire_tag(int sender, Match match) noexcept {
  const std::uint64_t p2p = match.key & (std::uint64_t{1} << 63);
  const std::uint64_t communicator = (match.key >> kTagBits) & (kMaxCommunicators - 1);
  return p2p | communicator << kCommunicatorShift |
         static_cast<std::uint64_t>(sender) << kSenderShift |
         (match.fingerprint & kFingerprintMask) << kTagBits | (match.key & kMaxTag);
}

constexpr std::uint16_t fingerprint_of(std::uint64_t wire_tag) noexcept {
  return static_cast<std::uint16_t>((wire_tag >> kTagBits) & kFingerprintMask);
}

}  // namespace shoal::transport::ucx
