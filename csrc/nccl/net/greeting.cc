#include "nccl/net/greeting.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "bootstrap/socket.h"
#include "bootstrap/wire.h"
#include "core/clock.h"
#include "transport/tcp/socket.h"

namespace shoal::nccl {
namespace {

using bootstrap::Prover;

constexpr std::size_t kLengthBytes = 4;
constexpr std::size_t kMaxOfferBytes = 64 << 10;  // rails of a few hundred bytes each

/// Of a device, for small messages of one peer: UCX lets 512 be under way to it. UCX's own length
/// is for thousands of peers, and would pin 64 MiB a connection instead of 8.
constexpr int kReceiveQueue = 512;

std::string new_hello(bool sends) {
  bootstrap::Hello hello;
  hello.role = sends ? bootstrap::Role::kDiallingPeer : bootstrap::Role::kAcceptingPeer;
  hello.rank = sends ? kSender : kReceiver;
  hello.ranks = 2;
  const std::string nonce = bootstrap::random_bytes(hello.nonce.size());
  std::memcpy(hello.nonce.data(), nonce.data(), nonce.size());
  return bootstrap::encode(hello);
}

/// -1: not connected yet; else errno.
int connected(int socket) noexcept {
  pollfd entry{socket, POLLOUT, 0};
  if (::poll(&entry, 1, 0) <= 0) return -1;
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length);
  return error;
}

}  // namespace

Greeting::Greeting(Fd socket, bool sends, const Handle& handle, const Device& device,
                   Registration registration)
    : socket_(std::move(socket)),
      sends_(sends),
      handle_(handle),
      device_(device),
      registration_(std::move(registration)),
      begin_ns_(now_ns()),
      mine_(new_hello(sends)) {}

Greeting Greeting::to(const Handle& handle, const Device& device, Registration registration) {
  const transport::tcp::Endpoint endpoint = endpoint_of(handle);
  Fd socket = transport::tcp::start_connecting(endpoint);
  if (!socket.valid()) {
    throw Error(ErrorCode::kSystem, "NET/shoal: connect to " + to_text(endpoint) + " by " +
                                        device.name + ": " + std::strerror(errno));
  }
  Greeting greeting(std::move(socket), true, handle, device, std::move(registration));
  greeting.out_ = greeting.mine_;
  return greeting;
}

Greeting Greeting::from(Fd socket, const Handle& handle, const Device& device,
                        Registration registration) {
  return {std::move(socket), false, handle, device, std::move(registration)};
}

std::string Greeting::who() const {
  const std::string at = sends_ ? to_text(endpoint_of(handle_))
                                : bootstrap::to_text(bootstrap::remote_address(socket_.get()));
  return link_.peer.empty() ? at : link_.peer + ", at " + at;
}

void Greeting::fail(ErrorCode code, const std::string& why) const {
  throw Error(code, std::string("NET/shoal: ") + (sends_ ? "connect to " : "accept from ") + who() +
                        " by " + device_.name + ": " + why);
}

bool Greeting::progress() {
  if (sends_ && theirs_.empty() && !out_.empty()) {
    const int error = connected(socket_.get());
    if (error < 0) return false;
    if (error != 0) {
      fail(ErrorCode::kPeerFailed, std::string(std::strerror(error)) +
                                       "; has that rank ended, or does a firewall stand between? "
                                       "NCCL_SOCKET_IFNAME or SHOAL_TCP_DEVICE choose another "
                                       "interface");
    }
  }
  flush();
  while (step_ != Step::kDone && fill()) {  // bounded: at most one round a step
    switch (step_) {
      case Step::kHello:
        take_hello();
        break;
      case Step::kProof:
        take_proof();
        break;
      default:
        take_offer();
    }
    flush();
  }
  return step_ == Step::kDone && out_.empty();
}

void Greeting::flush() {
  while (!out_.empty()) {
    const iovec space{out_.data(), out_.size()};
    const auto sent = transport::tcp::send_some(socket_.get(), {&space, 1});
    if (sent.outcome == transport::tcp::Outcome::kNothingYet) return;
    if (sent.outcome == transport::tcp::Outcome::kLost) {
      fail(ErrorCode::kPeerFailed, std::string("the connection is lost: ") +
                                       (sent.error == 0 ? "closed" : std::strerror(sent.error)));
    }
    out_.erase(0, static_cast<std::size_t>(sent.bytes));
  }
}

/// What has to be there before the next step; of an offer, its length first.
std::size_t Greeting::awaited_bytes() const {
  switch (step_) {
    case Step::kHello:
      return bootstrap::kHelloBytes + (sends_ ? bootstrap::kProofBytes : 0);
    case Step::kProof:
      return bootstrap::kProofBytes;
    default:
      break;
  }
  if (in_.size() < kLengthBytes) return kLengthBytes;
  bootstrap::Reader reader(in_);
  const std::size_t bytes = reader.number<std::uint32_t>();
  if (bytes > kMaxOfferBytes) fail(ErrorCode::kBootstrap, "an offer of absurd length");
  return kLengthBytes + bytes + bootstrap::kProofBytes;
}

/// Reads exactly what the next step needs: what follows is the control connection's.
bool Greeting::fill() {
  for (;;) {  // bounded: each round reads or returns, and awaited_bytes() is bounded
    const std::size_t awaited = awaited_bytes();
    if (in_.size() == awaited) return true;
    const std::size_t had = in_.size();
    in_.resize(awaited);
    const iovec space{in_.data() + had, awaited - had};
    const auto came = transport::tcp::receive_some(socket_.get(), {&space, 1});
    in_.resize(had + static_cast<std::size_t>(came.bytes));
    if (came.outcome == transport::tcp::Outcome::kNothingYet) return false;
    if (came.outcome == transport::tcp::Outcome::kLost) {
      fail(ErrorCode::kPeerFailed,
           std::string("the connection is lost: ") +
               (came.error == 0 ? "closed by the other side, whose log says why"
                                : std::strerror(came.error)));
    }
  }
}

void Greeting::take_hello() {
  theirs_ = in_.substr(0, bootstrap::kHelloBytes);
  const std::optional<bootstrap::Hello> hello = bootstrap::decode_hello(theirs_);
  const bootstrap::Hello ours = *bootstrap::decode_hello(mine_);
  if (!hello.has_value()) fail(ErrorCode::kBootstrap, "who is there speaks another language");
  if (hello->protocol != ours.protocol || hello->library != ours.library) {
    fail(ErrorCode::kBootstrap,
         "it has " + bootstrap::version_text(hello->protocol, hello->library) + ", this process " +
             bootstrap::version_text(ours.protocol, ours.library) +
             "; install the same everywhere");
  }
  if (sends_) {
    check_proof(Prover::kAcceptor, std::string_view(in_).substr(bootstrap::kHelloBytes));
    out_ += proof(Prover::kDialler);
    open_networks();
    offer();
    step_ = Step::kOffer;
  } else {
    out_ = mine_ + proof(Prover::kAcceptor);
    step_ = Step::kProof;
  }
  in_.clear();
}

void Greeting::take_proof() {
  check_proof(Prover::kDialler, in_);
  in_.clear();
  step_ = Step::kOffer;
}

/// Both hellos and the handle's name are in it: see bootstrap/auth.h.
std::string Greeting::proof(Prover prover) const {
  const bootstrap::Credentials credentials{"nccl " + bootstrap::to_hex(handle_.name()),
                                           std::string(handle_.key())};
  return bootstrap::proof_of(prover, credentials, sends_ ? mine_ : theirs_,
                             sends_ ? theirs_ : mine_);
}

void Greeting::check_proof(Prover prover, std::string_view theirs) const {
  if (bootstrap::equal_in_constant_time(proof(prover), theirs)) return;
  fail(ErrorCode::kBootstrap, "who is there does not know the handle's secret: refused");
}

/// Data's own connections over TCP prove themselves by a key that only this pair has.
void Greeting::open_networks() {
  comm::NetworkOptions options;
  options.self = sends_ ? kSender : kReceiver;
  options.peers = 2;
  options.network = device_.rdma ? "ucx" : "tcp";
  options.host = device_.host;
  options.devices = device_.ports;
  options.ucx_receive_queue = kReceiveQueue;
  options.registration = registration_;
  const std::string hellos = sends_ ? mine_ + theirs_ : theirs_ + mine_;
  options.authenticate = [key = bootstrap::hmac_sha256(handle_.key(), "shoal nccl data" + hellos)](
                             std::string_view message) {
    return bootstrap::hmac_sha256(key, message);
  };
  networks_ = std::make_unique<comm::Networks>(std::move(options));
}

void Greeting::offer() {
  offer_ = networks_->offer();
  const std::string text =
      bootstrap::Writer()
          .text("host " + bootstrap::host_name() + ", pid " + std::to_string(::getpid()))
          .text(offer_)
          .bytes();
  out_ +=
      bootstrap::Writer().text(text).bytes() + bootstrap::hmac_sha256(handle_.key(), mine_ + text);
}

void Greeting::take_offer() {
  bootstrap::Reader outer(in_);
  const std::string text = outer.text();
  const std::string signature = bootstrap::hmac_sha256(handle_.key(), theirs_ + text);
  if (!bootstrap::equal_in_constant_time(
          signature, std::string_view(in_).substr(kLengthBytes + text.size()))) {
    fail(ErrorCode::kBootstrap, "its offer is not signed with the handle's secret: refused");
  }
  in_.clear();
  bootstrap::Reader reader(text);
  link_.peer = reader.text();
  const std::string theirs = reader.text();
  if (!reader.done()) fail(ErrorCode::kBootstrap, "its offer is no offer");
  if (!sends_) {
    open_networks();
    offer();
  }
  choose(theirs);
  step_ = Step::kDone;
}

void Greeting::choose(const std::string& theirs) {
  std::vector<std::string> offers(2);
  offers[sends_ ? kSender : kReceiver] = offer_;
  offers[sends_ ? kReceiver : kSender] = theirs;
  try {
    link_.network = networks_->choose(offers);
  } catch (const Error& error) {
    fail(error.code(), error.what());
  }
  link_.registrar = networks_->registrar();
  link_.tcp = !device_.rdma;
}

Link Greeting::take() {
  link_.control = std::move(socket_);
  return std::move(link_);
}

}  // namespace shoal::nccl
