#include "bootstrap/link.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace shoal::bootstrap {
namespace {

constexpr std::size_t kReadBytes = std::size_t{64} << 10;
constexpr int kReadsPerPump = 64;  // one busy peer must not starve the others
const std::string kRefusal(kProofBytes, '\0');

}  // namespace

Link::Link(Fd socket, Prover end, const Greeting& mine, const Credentials& credentials,
           std::size_t max_frame_bytes)
    : socket_(std::move(socket)),
      end_role_(end),
      mine_(mine),
      credentials_(&credentials),
      max_frame_bytes_(max_frame_bytes),
      made_ns_(now_ns()) {
  Hello hello{.role = mine.role, .rank = mine.rank, .ranks = mine.ranks};
  random_bytes(kNonceBytes).copy(hello.nonce.data(), kNonceBytes);
  my_hello_ = encode(hello);
  if (end == Prover::kDialler) say(my_hello_);
}

void Link::pump() {
  flush();
  receive();
  flush();
}

short Link::events() const noexcept {
  if (closed()) return 0;
  return static_cast<short>(flushed() ? POLLIN : POLLIN | POLLOUT);
}

void Link::close(LinkEnd end, std::string why) {
  if (closed()) return;
  state_ = State::kClosed;
  end_ = end;
  why_ = std::move(why);
  socket_.reset();
}

void Link::say(std::string_view message) {
  out_.append(message);
  ++traffic_.sent;
}

void Link::send(FrameType type, std::string_view payload) {
  if (!open() || finishing_) return;
  Writer header;
  header.number(static_cast<std::uint32_t>(payload.size()));
  header.number(static_cast<std::uint8_t>(type));
  say(header.bytes());
  out_.append(payload);
}

void Link::finish(FrameType type, std::string_view payload) {
  send(type, payload);
  finishing_ = true;
  flush();
}

void Link::flush() {
  while (!closed() && !flushed()) {
    const ssize_t count =
        ::send(socket_.get(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count < 0) return close(LinkEnd::kLost, std::strerror(errno));
    sent_ += static_cast<std::size_t>(count);
  }
  out_.clear();
  sent_ = 0;
  if (finishing_) close(LinkEnd::kLost, "finished");
}

// Before the proofs never more is read than the next fixed-size part.
std::size_t Link::wanted() const noexcept {
  switch (state_) {
    case State::kHello:
      return kHelloBytes - in_.size();
    case State::kProof:
      return kProofBytes - in_.size();
    case State::kOpen:
      return kReadBytes;
    case State::kClosed:
      break;
  }
  return 0;
}

void Link::receive() {
  std::array<char, kReadBytes> buffer;  // not cleared: most reads are a few bytes
  for (int reads = 0; reads < kReadsPerPump && !closed(); ++reads) {
    const std::size_t limit = wanted();
    const ssize_t count = ::recv(socket_.get(), buffer.data(), limit, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
      return close(LinkEnd::kLost, count == 0 ? "closed by the other side" : std::strerror(errno));
    }
    in_.append(buffer.data(), static_cast<std::size_t>(count));
    consume();
    if (open() && static_cast<std::size_t>(count) < limit) return;
  }
}

void Link::consume() {
  if (state_ == State::kHello && in_.size() == kHelloBytes) return take_hello();
  if (state_ == State::kProof && in_.size() == kProofBytes) return take_proof();
  // A stranger is shown the door at his first wrong byte, not after 64 of them.
  if (state_ == State::kHello && !std::string_view("SHOL").starts_with(in_.substr(0, 4))) {
    close(LinkEnd::kForeign, "what is there does not speak shoal's protocol");
  }
}

void Link::take_hello() {
  const auto hello = decode_hello(in_);
  if (!hello) return close(LinkEnd::kForeign, "what is there does not speak shoal's protocol");
  ++traffic_.received;
  theirs_ = *hello;
  their_hello_ = std::exchange(in_, {});
  if (end_role_ == Prover::kAcceptor) {
    say(my_hello_);
    flush();
  }
  if (theirs_.protocol != kProtocolVersion || theirs_.library != kLibraryVersion) {
    return close(LinkEnd::kVersion,
                 "this side is " + version_text(kProtocolVersion, kLibraryVersion) +
                     ", the other is " + version_text(theirs_.protocol, theirs_.library) +
                     "; install the same version on every host");
  }
  if (theirs_.role != mine_.expected) {
    return close(LinkEnd::kForeign, "it is another part of shoal than was expected there");
  }
  if (end_role_ == Prover::kDialler) say(prove(Prover::kDialler));
  if (!closed()) state_ = State::kProof;
}

void Link::take_proof() {
  const Prover other = end_role_ == Prover::kDialler ? Prover::kAcceptor : Prover::kDialler;
  const std::string proof = std::exchange(in_, {});
  if (other == Prover::kAcceptor && proof == kRefusal) {
    return close(LinkEnd::kRefused,
                 "it refused our proof: the secret or the job name differs "
                 "(SHOAL_SECRET, SHOAL_JOB)");
  }
  if (!equal_in_constant_time(proof, prove(other))) {
    if (other == Prover::kDialler) say(kRefusal);
    flush();
    return close(LinkEnd::kForeign, "its proof is wrong: the secret or the job name differs");
  }
  if (other == Prover::kDialler) say(prove(Prover::kAcceptor));
  ++traffic_.received;
  state_ = State::kOpen;
}

std::string Link::prove(Prover prover) const {
  const bool dialled = end_role_ == Prover::kDialler;
  return proof_of(prover, *credentials_, dialled ? my_hello_ : their_hello_,
                  dialled ? their_hello_ : my_hello_);
}

std::optional<Frame> Link::next() {
  // Frames that came before the connection was lost are still handed out.
  if (their_hello_.empty() || state_ == State::kHello || state_ == State::kProof) return {};
  const std::string_view rest = std::string_view(in_).substr(taken_);
  if (rest.size() < kFrameHeaderBytes) return {};
  Reader header(rest);
  const std::size_t length = header.number<std::uint32_t>();
  const auto type = static_cast<FrameType>(header.number<std::uint8_t>());
  if (length > max_frame_bytes_) {
    in_.clear();
    taken_ = 0;
    close(LinkEnd::kMalformed, "a frame of " + std::to_string(length) + " bytes; the limit is " +
                                   std::to_string(max_frame_bytes_));
    return {};
  }
  if (rest.size() < kFrameHeaderBytes + length) return {};
  Frame frame{type, std::string(rest.substr(kFrameHeaderBytes, length))};
  ++traffic_.received;
  taken_ += kFrameHeaderBytes + length;
  if (taken_ == in_.size()) {
    in_.clear();
    taken_ = 0;
  }
  return frame;
}

}  // namespace shoal::bootstrap
