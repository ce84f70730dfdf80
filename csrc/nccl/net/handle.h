/// The 128 bytes that a receiver hands to a sender by way of NCCL: where it listens, and a secret
/// that only the two of them and NCCL have seen. (No address of UCX's: a worker's does not fit.)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "nccl/net/net_abi.h"
#include "transport/tcp/socket.h"

namespace shoal::nccl {

/// Goes over the wire as it is, between machines of one kind.
struct Handle {
  static constexpr std::uint64_t kMagic = 0x6c6e636c616f6873;  // "shoalncl", little-endian

  std::uint64_t magic = kMagic;
  std::uint32_t version = 1;
  std::uint16_t family = 0;
  std::uint16_t port = 0;  ///< in network order
  std::array<std::byte, 16> address{};
  std::array<char, 16> listener{};  ///< which of a process
  std::array<char, 32> secret{};
  /// The connecting process's own: NCCL calls connect() again with the same bytes until there is a
  /// connection, and this is how the call finds what it has begun. 0: nothing.
  std::uint64_t attempt = 0;

  [[nodiscard]] std::string_view name() const noexcept { return {listener.data(), 16}; }
  [[nodiscard]] std::string_view key() const noexcept { return {secret.data(), 32}; }
};
static_assert(sizeof(Handle) <= abi::kHandleBytes);

[[nodiscard]] Handle make_handle(const transport::tcp::Endpoint& listens_at);
/// Throws Error(kInvalidArgument): it is none of ours.
[[nodiscard]] Handle read_handle(const void* bytes);
void write_handle(const Handle& handle, void* bytes) noexcept;
[[nodiscard]] transport::tcp::Endpoint endpoint_of(const Handle& handle) noexcept;

}  // namespace shoal::nccl
