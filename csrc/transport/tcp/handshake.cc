#include "transport/tcp/handshake.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "transport/tcp/socket.h"

namespace shoal::transport::tcp {

namespace {

constexpr std::uint64_t kMagic = 0x7063742d6c616f68;  // "hoal-tcp" where integers are little-endian
constexpr std::uint32_t kVersion = 1;
constexpr const char* kDialler = "shoal tcp dialler";
constexpr const char* kAcceptor = "shoal tcp acceptor";

std::string_view bytes_of(const Hello& hello) noexcept {
  return {reinterpret_cast<const char*>(&hello), sizeof hello};
}

/// Takes the same time wherever the two differ.
bool equal(std::string_view a, std::string_view b) noexcept {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  }
  return difference == 0;
}

}  // namespace

Handshake::Handshake(Fd socket, int self, int peer, const Authenticate& authenticate) noexcept
    : socket_(std::move(socket)),
      authenticate_(&authenticate),
      dials_(peer >= 0),
      state_(peer >= 0 ? State::kConnecting : State::kAwaitsHello),
      begin_ns_(now_ns()) {
  mine_ = {.magic = kMagic, .version = kVersion, .from = self, .to = peer};
  if (::getrandom(mine_.nonce.data(), mine_.nonce.size(), 0) !=
      static_cast<ssize_t>(mine_.nonce.size())) {
    refuse(errno, false);
  }
}

bool Handshake::progress() noexcept {
  switch (state_) {
    case State::kConnecting:
      return finish_connecting();
    case State::kAwaitsHello:
    case State::kAwaitsProof:
      return read_answer();
    default:
      return false;
  }
}

short Handshake::events() const noexcept { return state_ == State::kConnecting ? POLLOUT : POLLIN; }

bool Handshake::refuse(int error, bool stranger) noexcept {
  state_ = State::kRefused;
  error_ = error;
  stranger_ = stranger;
  socket_.reset();
  return false;
}

bool Handshake::finish_connecting() noexcept {
  pollfd entry{socket_.get(), POLLOUT, 0};
  if (::poll(&entry, 1, 0) <= 0) return false;
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) return refuse(error, false), true;
  state_ = State::kAwaitsHello;
  send(bytes_of(mine_));
  return true;
}

/// What is said here is shorter than any socket's buffer: if it does not fit, the peer is gone.
bool Handshake::send(std::string_view bytes) noexcept {
  const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  if (sent == static_cast<ssize_t>(bytes.size())) return true;
  return refuse(sent < 0 ? errno : EMSGSIZE, false);
}

std::size_t Handshake::awaited_bytes() const noexcept {
  if (state_ == State::kAwaitsProof) return kProofBytes;
  return dials_ ? sizeof(Hello) + kProofBytes : sizeof(Hello);
}

/// No more than that: messages follow.
bool Handshake::read_answer() noexcept {
  const iovec space{answer_.data() + answer_bytes_, awaited_bytes() - answer_bytes_};
  const Moved moved = receive_some(socket_.get(), {&space, 1});
  if (moved.outcome == Outcome::kNothingYet) return false;
  if (moved.outcome == Outcome::kLost) return refuse(moved.error, false), true;
  answer_bytes_ += static_cast<std::size_t>(moved.bytes);
  if (answer_bytes_ == awaited_bytes()) take_answer();
  return true;
}

bool Handshake::take_answer() noexcept {
  answer_bytes_ = 0;
  const std::string_view proof_of_dialler(answer_.data(), kProofBytes);
  if (state_ == State::kAwaitsProof) return check_proof(kDialler, proof_of_dialler);
  if (!accept_hello()) return false;
  if (!dials_) {
    state_ = State::kAwaitsConsent;
    return true;
  }
  const std::string_view proof_of_acceptor(answer_.data() + sizeof(Hello), kProofBytes);
  return check_proof(kAcceptor, proof_of_acceptor) && send(proof(kDialler));
}

bool Handshake::accept_hello() noexcept {
  std::memcpy(&theirs_, answer_.data(), sizeof theirs_);
  const bool is_ours = theirs_.magic == kMagic && theirs_.version == kVersion &&
                       theirs_.to == mine_.from && (!dials_ || theirs_.from == mine_.to);
  return is_ours || refuse(0, true);
}

void Handshake::consent() noexcept {
  mine_.to = theirs_.from;
  state_ = State::kAwaitsProof;
  std::string answer(bytes_of(mine_));
  answer += proof(kAcceptor);
  send(answer);
}

bool Handshake::check_proof(const char* label, std::string_view given) noexcept {
  if (!equal(given, proof(label))) return refuse(0, true);
  state_ = State::kOpen;
  return true;
}

std::string Handshake::proof(const char* label) const {
  std::string message(label);
  message += bytes_of(dials_ ? mine_ : theirs_);
  message += bytes_of(dials_ ? theirs_ : mine_);
  return (*authenticate_)(message);
}

}  // namespace shoal::transport::tcp
