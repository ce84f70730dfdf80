/// What ranks tell one another besides data, over the store: fixed-size head, then text.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "shoal/types.h"

namespace shoal::comm {

enum class ControlKind : std::uint8_t {
  kQuery,     ///< "as #sequence I run `fingerprint`; and you?"
  kStanding,  ///< the answer: "I have issued up to #sequence"; shows that the rank is alive
  kMismatch,  ///< a verdict: `rank` runs `fingerprint`, `other` runs `other_fingerprint`
  kFailed,    ///< the communicator has ended: `code`, culprit `rank`, text
};

/// An answer to a query that takes longer than this is none.
inline constexpr std::int64_t kAnswerNs = 1'500'000'000;

/// Same build on all ranks (the bootstrap refuses others), so the layout is the wire format.
struct ControlHead {
  ControlKind kind = ControlKind::kQuery;
  std::uint8_t code = 0;
  std::uint16_t reserved = 0;
  std::uint32_t communicator = 0;
  std::uint64_t sequence = 0;
  std::uint64_t fingerprint = 0;
  std::uint64_t other_fingerprint = 0;
  Rank rank = -1;  ///< of the communicator
  Rank other = -1;
};
static_assert(std::is_trivially_copyable_v<ControlHead>);

inline std::string pack(const ControlHead& head, const std::string& text = {}) {
  std::string message(sizeof head, '\0');
  std::memcpy(message.data(), &head, sizeof head);
  return message + text;
}

/// False if it is not a control message.
inline bool unpack(const std::string& message, ControlHead& head, std::string& text) {
  if (message.size() < sizeof head) return false;
  std::memcpy(&head, message.data(), sizeof head);
  text = message.substr(sizeof head);
  return true;
}

}  // namespace shoal::comm
