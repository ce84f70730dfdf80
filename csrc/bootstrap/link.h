/// One connection: hellos, proofs, then frames. A state machine without waits: it is pumped when
/// its socket is ready, so that one thread serves many and a silent client delays nobody.
///
///     dialler                         acceptor
///       hello (nonce, versions)  -->              nothing else is parsed before the proofs
///                                <--  hello       both compare versions; refusal names both
///       proof                    -->              the dialler proves first: who merely asks
///                                <--  proof       learns nothing that depends on the secret
///       frames                  <-->  frames
///
/// An acceptor answers a wrong proof with 32 zero bytes, so that the dialler can tell a refusal
/// from a connection that was lost or dropped (which it may try again). Frames are not
/// authenticated one by one: the network path between the hosts of a job is trusted once both ends
/// have proved themselves; a job that crosses an untrusted network needs a tunnel.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "bootstrap/auth.h"
#include "bootstrap/traffic.h"
#include "bootstrap/wire.h"
#include "core/clock.h"
#include "core/fd.h"

namespace shoal::bootstrap {

/// An acceptor drops a connection that has not become open within this time of its accept().
inline constexpr std::int64_t kHandshakeLimitMs = 2000;

/// What this end says of itself, and what it wants of the other.
struct Greeting {
  Role role;
  Rank rank;
  Rank ranks;
  Role expected;
};

enum class LinkEnd {
  kNone,      ///< not closed
  kLost,      ///< closed or reset by the other side
  kRefused,   ///< our proof was not accepted
  kVersion,   ///< another protocol or library version
  kForeign,   ///< not shoal, another role, or a proof without the secret
  kMalformed  ///< a frame that breaks the rules
};

/// one thread.
class Link {
 public:
  /// `credentials` must live as long as the link.
  Link(Fd socket, Prover end, const Greeting& mine, const Credentials& credentials,
       std::size_t max_frame_bytes);

  /// Reads and writes what is possible now. Does not wait, does not throw.
  void pump();
  void flush();  ///< the writing half of pump()
  [[nodiscard]] std::optional<Frame> next();
  void send(FrameType type, std::string_view payload);
  /// Sends `type` as the last frame: what is still queued is written by pump(), then it closes.
  void finish(FrameType type, std::string_view payload);
  void close(LinkEnd end, std::string why);

  [[nodiscard]] bool open() const noexcept { return state_ == State::kOpen; }
  [[nodiscard]] bool closed() const noexcept { return state_ == State::kClosed; }
  [[nodiscard]] bool flushed() const noexcept { return sent_ == out_.size(); }
  [[nodiscard]] std::size_t queued_bytes() const noexcept { return out_.size() - sent_; }
  [[nodiscard]] LinkEnd end() const noexcept { return end_; }
  [[nodiscard]] const std::string& why() const noexcept { return why_; }  ///< once closed
  [[nodiscard]] const Hello& theirs() const noexcept { return theirs_; }  ///< proved once open
  [[nodiscard]] int fd() const noexcept { return socket_.get(); }
  [[nodiscard]] short events() const noexcept;  ///< what to poll() for
  [[nodiscard]] std::int64_t made_ns() const noexcept { return made_ns_; }
  [[nodiscard]] const Traffic& traffic() const noexcept { return traffic_; }

 private:
  enum class State { kHello, kProof, kOpen, kClosed };

  void receive();
  void consume();
  void take_hello();
  void take_proof();
  void say(std::string_view message);
  [[nodiscard]] std::size_t wanted() const noexcept;
  [[nodiscard]] std::string prove(Prover prover) const;

  Fd socket_;
  Prover end_role_;
  Greeting mine_;
  const Credentials* credentials_;
  std::size_t max_frame_bytes_;
  std::int64_t made_ns_;
  State state_ = State::kHello;
  LinkEnd end_ = LinkEnd::kNone;
  bool finishing_ = false;
  std::string why_;
  std::string my_hello_, their_hello_;
  Hello theirs_;
  std::string in_, out_;
  std::size_t taken_ = 0;  ///< bytes of in_ already handed out
  std::size_t sent_ = 0;   ///< bytes of out_ already written
  Traffic traffic_;
};

}  // namespace shoal::bootstrap
