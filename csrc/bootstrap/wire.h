/// What travels: one fixed-size hello from each side, then a proof from each (see link.h), then
/// frames. Numbers are little-endian. Nothing but the hello is parsed before the proofs.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "shoal/types.h"

namespace shoal::bootstrap {

inline constexpr std::uint16_t kProtocolVersion = 1;
extern const std::uint32_t kLibraryVersion;  ///< major << 16 | minor << 8 | patch

inline constexpr std::size_t kNonceBytes = 32;
inline constexpr std::size_t kHelloBytes = 64;
inline constexpr std::size_t kFrameHeaderBytes = 5;  ///< length u32, type u8
inline constexpr std::size_t kMaxControlFrameBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMaxExchangeFrameBytes = std::size_t{64} << 20;

/// What the sender of a hello is, and which answer it expects: part of what the proofs cover.
enum class Role : std::uint8_t { kRank = 1, kStore = 2, kDiallingPeer = 3, kAcceptingPeer = 4 };

/// magic "SHOL", protocol u16, role u8, 0, library u32, rank i32, ranks i32, nonce, 12 zero bytes.
/// Magic, protocol and library version keep their places in every protocol to come.
struct Hello {
  std::uint16_t protocol = kProtocolVersion;
  Role role = Role::kRank;
  std::uint32_t library = kLibraryVersion;
  Rank rank = -1;  ///< a claim; the store's is -1
  Rank ranks = 0;
  std::array<char, kNonceBytes> nonce{};
};

[[nodiscard]] std::string encode(const Hello& hello);
/// Nothing if `bytes` does not begin with the magic; `bytes` holds at least kHelloBytes.
[[nodiscard]] std::optional<Hello> decode_hello(std::string_view bytes);
/// "shoal 0.1.0 (protocol 1)"
[[nodiscard]] std::string version_text(std::uint16_t protocol, std::uint32_t library);

enum class FrameType : std::uint8_t {
  // rank to store
  kJoin = 1,  ///< listener address, who (host and pid), timeout_ms i64
  kGoodbye,   ///< nothing; answered by kFarewell
  kEnded,     ///< rank i32, cause: its process has ended; answered by kLost or kLeft
  kPublish,   ///< count u32, ranks i32..., text
  // store to rank
  kWelcome,   ///< count u32, addresses of ranks r - 2^k
  kRefused,   ///< error code u8, text
  kLost,      ///< rank i32, cause
  kLeft,      ///< rank i32: it had said goodbye
  kMessage,   ///< from i32, text
  kFarewell,  ///< nothing
  kClosing,   ///< nothing: the store ends in order
  // rank to rank
  kBlocks,  ///< call u64, count u32, blocks
  kAbort,   ///< error code u8, text
};

struct Frame {
  FrameType type;
  std::string payload;
};

/// Appends numbers and length-prefixed texts.
class Writer {
 public:
  template <class T>
    requires std::is_integral_v<T>
  Writer& number(T value) {
    const auto bits = static_cast<std::make_unsigned_t<T>>(value);
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      bytes_.push_back(static_cast<char>(bits >> (8 * i) & 0xff));
    }
    return *this;
  }
  Writer& text(std::string_view value) {
    number(static_cast<std::uint32_t>(value.size()));
    bytes_.append(value);
    return *this;
  }
  [[nodiscard]] const std::string& bytes() const noexcept { return bytes_; }

 private:
  std::string bytes_;
};

/// Reads what Writer wrote. Past the end it yields zeros and empty texts, and ok() is false.
class Reader {
 public:
  explicit Reader(std::string_view bytes) noexcept : rest_(bytes) {}  ///< which outlive this
  explicit Reader(std::string&& temporary) = delete;
  template <class T>
    requires std::is_integral_v<T>
  T number() noexcept {
    const std::string_view bytes = take(sizeof(T));
    std::make_unsigned_t<T> bits = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bits |= static_cast<std::make_unsigned_t<T>>(
          static_cast<std::make_unsigned_t<T>>(static_cast<unsigned char>(bytes[i])) << (8 * i));
    }
    return static_cast<T>(bits);
  }
  std::string text() { return std::string(take(number<std::uint32_t>())); }
  [[nodiscard]] bool ok() const noexcept { return ok_; }
  /// Everything was read and nothing was missing.
  [[nodiscard]] bool done() const noexcept { return ok_ && rest_.empty(); }

 private:
  std::string_view take(std::size_t count) noexcept {
    if (count > rest_.size()) ok_ = false;
    if (!ok_) return {};
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace shoal::bootstrap
