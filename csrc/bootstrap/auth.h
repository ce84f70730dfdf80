/// Proof of knowing the job's secret, without showing it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace shoal::bootstrap {

inline constexpr std::size_t kProofBytes = 32;

/// What both sides of every connection of a job share.
struct Credentials {
  std::string job;
  std::string secret;
};

/// `count` bytes from the kernel's generator. Throws Error(kSystem) if it has none.
[[nodiscard]] std::string random_bytes(std::size_t count);
[[nodiscard]] std::string to_hex(std::string_view bytes);
[[nodiscard]] std::string hmac_sha256(std::string_view key, std::string_view message);
/// Takes the same time wherever the two differ.
[[nodiscard]] bool equal_in_constant_time(std::string_view a, std::string_view b);

enum class Prover { kDialler, kAcceptor };

/// HMAC-SHA256(secret, label of the prover, both hellos, job). The hellos hold both nonces, so a
/// recorded proof is of no use later (replay); the labels differ, so a proof sent back is none
/// (reflection); versions, roles, ranks and sizes stand in the hellos and so cannot be altered.
[[nodiscard]] std::string proof_of(Prover prover, const Credentials& credentials,
                                   std::string_view dialler_hello, std::string_view acceptor_hello);

}  // namespace shoal::bootstrap
