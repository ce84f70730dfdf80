/// Who is at the other end of a new connection: both sides prove that they belong to the job.
///
///   dialler                                acceptor
///   hello: magic, version, ranks, nonce ->
///                                       <- hello, proof over both hellos
///   proof over both hellos              ->
///
/// From here on messages follow. A proof is a keyed hash of the job's secret, so a recorded one is
/// of no use later (nonces), nor is one that is sent back (labels).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "core/clock.h"
#include "core/fd.h"

namespace shoal::transport::tcp {

/// A hash of `message` that only ranks of the job can make: kProofBytes.
using Authenticate = std::function<std::string(std::string_view message)>;
inline constexpr std::size_t kProofBytes = 32;

struct Hello {
  std::uint64_t magic = 0;
  std::uint32_t version = 0;
  std::int32_t from = -1;  ///< rank
  std::int32_t to = -1;
  std::uint32_t unused = 0;
  std::array<std::byte, 16> nonce{};
};
static_assert(sizeof(Hello) == 40);

/// One connection until it is open. One thread. Nothing blocks.
class Handshake {
 public:
  enum class State : std::uint8_t {
    kConnecting,     ///< dialler
    kAwaitsHello,    ///< both
    kAwaitsConsent,  ///< acceptor: peer() is known, the owner has to call consent() or drop this
    kAwaitsProof,    ///< acceptor
    kOpen,
    kRefused,  ///< closed or lost; see error()
  };

  static Handshake dial(Fd socket, int self, int peer, const Authenticate& authenticate) noexcept {
    return {std::move(socket), self, peer, authenticate};
  }
  static Handshake accept(Fd socket, int self, const Authenticate& authenticate) noexcept {
    return {std::move(socket), self, -1, authenticate};
  }

  /// Goes as far as it can. True if anything moved.
  bool progress() noexcept;
  /// The owner wants a connection with peer().
  void consent() noexcept;
  /// The owner wants none.
  void drop() noexcept { refuse(0, false); }

  [[nodiscard]] State state() const noexcept { return state_; }
  /// Its socket is somebody else's, or nobody's.
  [[nodiscard]] bool over() const noexcept { return !socket_.valid(); }
  [[nodiscard]] bool dials() const noexcept { return dials_; }
  /// The rank at the other end; of an acceptor, what it claims to be until kOpen. -1: unknown.
  [[nodiscard]] int peer() const noexcept { return dials_ ? mine_.to : theirs_.from; }
  [[nodiscard]] int socket() const noexcept { return socket_.get(); }
  /// What to poll for: it cannot go on before.
  [[nodiscard]] short events() const noexcept;
  [[nodiscard]] bool is_older_than(std::int64_t ns) const noexcept {
    return now_ns() - begin_ns_ > ns;
  }
  /// Of kRefused: errno, or 0 where the other side has closed or is no rank of this job.
  [[nodiscard]] int error() const noexcept { return error_; }
  [[nodiscard]] bool is_stranger() const noexcept { return stranger_; }
  /// Of kOpen.
  [[nodiscard]] Fd take_socket() noexcept { return std::move(socket_); }

 private:
  Handshake(Fd socket, int self, int peer, const Authenticate& authenticate) noexcept;
  bool finish_connecting() noexcept;
  bool read_answer() noexcept;
  bool take_answer() noexcept;
  bool accept_hello() noexcept;
  bool check_proof(const char* label, std::string_view proof) noexcept;
  [[nodiscard]] std::string proof(const char* label) const;
  bool send(std::string_view bytes) noexcept;
  bool refuse(int error, bool stranger) noexcept;
  [[nodiscard]] std::size_t awaited_bytes() const noexcept;

  Fd socket_;
  const Authenticate* authenticate_;
  bool dials_;
  bool stranger_ = false;
  State state_;
  int error_ = 0;
  std::int64_t begin_ns_;
  Hello mine_;
  Hello theirs_;
  std::array<char, sizeof(Hello) + kProofBytes> answer_{};
  std::size_t answer_bytes_ = 0;
};

}  // namespace shoal::transport::tcp
