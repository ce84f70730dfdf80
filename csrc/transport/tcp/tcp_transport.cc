#include "transport/tcp/tcp_transport.h"

#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/assert.h"
#include "core/clock.h"
#include "core/log.h"
#include "shoal/error.h"
#include "transport/tcp/inbox.h"
#include "transport/tcp/outbox.h"
#include "transport/tcp/socket.h"

namespace shoal::transport::tcp {
namespace {

/// What one progress() reads from one peer at most, so that the others get their turn.
constexpr std::int64_t kReadBytes = 1 << 20;
/// So many busy peers are simply tried; of more, the kernel is asked which are ready.
constexpr std::size_t kTriedPeers = 8;
constexpr int kEvents = 64;
/// Connections that have not proved yet whose they are; later ones wait in the kernel's queue.
constexpr std::size_t kMaxHandshakes = 256;
constexpr std::int64_t kHandshakeNs = 60'000 * kNsPerMs;
/// A peer that closes a new connection may be making one itself.
constexpr std::int64_t kRedialNs = 20 * kNsPerMs;
constexpr int kMaxDials = 100;
/// For what has been sent just before the transport is closed.
constexpr std::int64_t kFlushMs = 1000;

/// One peer that something has been sent to or received from.
struct Link {
  int peer = -1;
  Fd socket;  ///< invalid: not connected yet, or failed
  Inbox inbox;
  Outbox outbox;
  bool failed = false;  ///< nothing can be sent any more
  bool active = false;  ///< in active_
  int error = 0;
  int dials = 0;
  std::int64_t redial_ns = 0;
  std::uint32_t watched = 0;  ///< epoll's events

  [[nodiscard]] bool connected() const noexcept { return socket.valid(); }
  [[nodiscard]] bool lost() const noexcept { return failed && !connected(); }
  [[nodiscard]] bool busy() const noexcept { return !outbox.empty() || inbox.wants(); }
  [[nodiscard]] std::uint32_t wanted() const noexcept {
    return (inbox.wants() ? static_cast<std::uint32_t>(EPOLLIN) : 0U) |
           (outbox.empty() ? 0U : static_cast<std::uint32_t>(EPOLLOUT));
  }
};

template <std::size_t N>
std::int64_t total(const std::array<iovec, N>& spaces, int count) noexcept {
  std::int64_t bytes = 0;
  for (int i = 0; i < count; ++i) bytes += static_cast<std::int64_t>(spaces[i].iov_len);
  return bytes;
}

class Tcp final : public Network {
 public:
  explicit Tcp(TcpOptions options);
  ~Tcp() override;

  [[nodiscard]] const std::vector<std::byte>& address() const noexcept override { return address_; }
  void set_peer_address(int peer, std::span<const std::byte> address) override;
  [[nodiscard]] bool peer_failed(int peer) const noexcept override {
    const auto& link = peers_[static_cast<std::size_t>(peer)].link;
    return link != nullptr && link->failed;
  }

  bool send(int peer, Match match, const void* data, std::int64_t bytes,
            Operation& operation) noexcept override;
  bool receive(int peer, Match match, void* data, std::int64_t capacity,
               Operation& operation) noexcept override;
  bool probe(int peer, Match match) noexcept override;
  bool progress() noexcept override;
  void cancel(Operation& operation) noexcept override;
  int arm() noexcept override;
  [[nodiscard]] std::string describe() const override { return "tcp at " + host_in(endpoint_); }

 private:
  struct Peer {
    Endpoint endpoint;
    std::unique_ptr<Link> link;
  };

  Link& link_to(int peer);
  void activate(Link& link) noexcept;
  bool move(Link& link) noexcept;
  bool flush(Link& link) noexcept;
  bool fill(Link& link) noexcept;
  bool move_ready() noexcept;

  bool connect() noexcept;
  void dial(Link& link) noexcept;
  [[nodiscard]] Handshake* dial_under_way(int peer) noexcept;
  [[nodiscard]] bool may_consent(const Handshake& handshake) noexcept;
  void conclude(Handshake& handshake) noexcept;
  void adopt(Handshake& handshake) noexcept;
  void not_connected(const Handshake& handshake) noexcept;

  void stop_sending(Link& link, int error) noexcept;
  void lose(Link& link, int error) noexcept;
  [[nodiscard]] static Status failure(const Link& link) noexcept {
    return {ErrorCode::kPeerFailed, link.peer, link.error};
  }
  void watch(int fd, std::uint32_t events, Link* link) noexcept;
  void watch_all() noexcept;

  TcpOptions options_;
  Fd listener_;
  Fd epoll_;
  Endpoint endpoint_;
  std::vector<std::byte> address_;
  std::vector<Peer> peers_;
  std::vector<Link*> links_;   ///< all
  std::vector<Link*> active_;  ///< that something is under way with
  std::vector<Handshake> handshakes_;
  bool listens_ = false;  ///< the listener is watched
};

std::string host_of(const TcpOptions& options) {
  const char* device = std::getenv("SHOAL_TCP_DEVICE");
  return device != nullptr && *device != '\0' ? address_of_device(device) : options.host;
}

Tcp::Tcp(TcpOptions options)
    : options_(std::move(options)),
      listener_(listen_at(host_of(options_))),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      endpoint_(local_endpoint(listener_.get())),
      peers_(static_cast<std::size_t>(options_.peers)) {
  if (!epoll_.valid()) {
    throw Error(ErrorCode::kTransport, std::string("tcp: epoll: ") + std::strerror(errno) +
                                           "; raise the limit of open files (ulimit -n)");
  }
  address_.resize(endpoint_.length);
  std::memcpy(address_.data(), &endpoint_.address, endpoint_.length);
}

/// What has been sent leaves, unless a peer does not read it.
Tcp::~Tcp() {
  const Deadline deadline = Deadline::after_ms(kFlushMs);
  for (Link* link : links_) {
    while (link->connected() && !link->outbox.empty() && !deadline.passed()) {
      pollfd entry{link->socket.get(), POLLOUT, 0};
      ::poll(&entry, 1, 1);
      flush(*link);
    }
    close_gently(std::move(link->socket));
  }
}

void Tcp::set_peer_address(int peer, std::span<const std::byte> address) {
  Endpoint& endpoint = peers_[static_cast<std::size_t>(peer)].endpoint;
  SHOAL_ASSERT(address.size() <= sizeof endpoint.address);
  std::memcpy(&endpoint.address, address.data(), address.size());
  endpoint.length = static_cast<socklen_t>(address.size());
}

Link& Tcp::link_to(int number) {
  Peer& peer = peers_[static_cast<std::size_t>(number)];
  if (peer.link == nullptr) {
    SHOAL_ASSERT(peer.endpoint.length > 0);  // set_peer_address() comes first
    peer.link = std::make_unique<Link>();
    peer.link->peer = number;
    links_.push_back(peer.link.get());
    active_.reserve(links_.size());
  }
  return *peer.link;
}

void Tcp::activate(Link& link) noexcept {
  if (!std::exchange(link.active, true)) active_.push_back(&link);
}

// --- messages ----------------------------------------------------------------------------------

bool Tcp::send(int peer, Match match, const void* data, std::int64_t bytes,
               Operation& operation) noexcept {
  Link& link = link_to(peer);
  operation.state = Operation::State::kActive;
  operation.request = &link;
  if (link.failed) return operation.end(failure(link)), true;
  const bool is_first = link.outbox.empty();
  link.outbox.send(match, data, bytes, operation);
  if (!link.connected()) {
    if (link.dials == 0) dial(link);
  } else if (is_first) {
    flush(link);
  }
  if (!operation.done()) activate(link);
  return true;
}

bool Tcp::receive(int peer, Match match, void* data, std::int64_t capacity,
                  Operation& operation) noexcept {
  Link& link = link_to(peer);
  operation.state = Operation::State::kActive;
  operation.request = &link;
  link.inbox.receive(match, data, capacity, operation);
  if (operation.done()) return true;
  if (link.lost()) {
    link.inbox.fail(failure(link));
  } else {
    activate(link);
  }
  return true;
}

bool Tcp::probe(int peer, Match match) noexcept {
  Link& link = link_to(peer);
  if (link.inbox.seek(match)) return true;
  if (link.lost()) {
    link.inbox.stop_seeking();
  } else {
    activate(link);
  }
  return false;
}

/// Who still seeks will probe again.
bool Tcp::progress() noexcept {
  if (active_.empty()) return false;
  bool moved = active_.size() > kTriedPeers && move_ready();
  const bool try_each = active_.size() <= kTriedPeers;
  bool awaits_connection = false;
  std::size_t kept = 0;
  for (std::size_t i = 0; i < active_.size(); ++i) {
    Link& link = *active_[i];
    if (try_each && link.connected()) moved = move(link) || moved;
    link.inbox.stop_seeking();
    awaits_connection = awaits_connection || !link.connected();
    link.active = link.busy();
    if (link.active) active_[kept++] = &link;
  }
  active_.resize(kept);
  return (awaits_connection && connect()) || moved;
}

/// Moves what the kernel says can be moved.
bool Tcp::move_ready() noexcept {
  watch_all();
  std::array<epoll_event, kEvents> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), kEvents, 0);
  bool moved = false;
  for (int i = 0; i < count; ++i) {
    auto* const link = static_cast<Link*>(events[i].data.ptr);
    if (link != nullptr && link->connected()) moved = move(*link) || moved;
  }
  return moved;
}

bool Tcp::move(Link& link) noexcept {
  const bool sent = !link.outbox.empty() && flush(link);
  return (link.inbox.wants() && fill(link)) || sent;
}

/// As much as the socket takes.
bool Tcp::flush(Link& link) noexcept {
  bool moved = false;
  while (!link.outbox.empty()) {
    Outbox::Spaces spaces;
    const int count = link.outbox.spaces(spaces);
    const Moved sent =
        send_some(link.socket.get(), {spaces.data(), static_cast<std::size_t>(count)});
    if (sent.outcome == Outcome::kLost) return stop_sending(link, sent.error), true;
    if (sent.outcome == Outcome::kNothingYet) break;
    moved = true;
    const bool all = sent.bytes == total(spaces, count);
    link.outbox.left(sent.bytes);
    if (!all) break;
  }
  return moved;
}

/// What has come and is asked for.
bool Tcp::fill(Link& link) noexcept {
  std::int64_t read = 0;
  while (link.inbox.wants() && read < kReadBytes) {
    Inbox::Spaces spaces;
    const int count = link.inbox.spaces(spaces);
    if (count == 0) return lose(link, ENOMEM), true;
    const Moved came =
        receive_some(link.socket.get(), {spaces.data(), static_cast<std::size_t>(count)});
    if (came.outcome == Outcome::kLost) return lose(link, came.error), true;
    if (came.outcome == Outcome::kNothingYet) break;
    const bool all = came.bytes == total(spaces, count);
    read += came.bytes;
    if (!link.inbox.arrived(came.bytes)) return lose(link, EPROTO), true;
    if (!all) break;
  }
  return read > 0;
}

void Tcp::cancel(Operation& operation) noexcept {
  if (operation.state != Operation::State::kActive) return;
  Link& link = *static_cast<Link*>(operation.request);
  if (link.inbox.cancel(operation)) return;
  if (link.outbox.cancel(operation) != Outbox::Cancelled::kInTheMiddle) return;
  // The rest of the message will not come, so nothing behind it can.
  lose(link, ECANCELED);
  operation.end({ErrorCode::kAborted, -1, 0});
}

// --- connections -------------------------------------------------------------------------------

/// Both ranks of a pair may dial at the same time: then the lower one's connection counts.
bool Tcp::connect() noexcept {
  bool moved = false;
  while (handshakes_.size() < kMaxHandshakes) {
    Fd socket = accept_one(listener_.get());
    if (!socket.valid()) break;
    handshakes_.push_back(
        Handshake::accept(std::move(socket), options_.self, options_.authenticate));
    moved = true;
  }
  for (Handshake& handshake : handshakes_) {
    moved = handshake.progress() || moved;
    conclude(handshake);
  }
  std::erase_if(handshakes_, [](const Handshake& handshake) { return handshake.over(); });
  for (Link* link : active_) {
    const bool has_to_dial = !link->connected() && !link->failed && !link->outbox.empty();
    if (has_to_dial && now_ns() >= link->redial_ns && dial_under_way(link->peer) == nullptr) {
      dial(*link);
    }
  }
  return moved;
}

void Tcp::dial(Link& link) noexcept {
  if (++link.dials > kMaxDials) return lose(link, ETIMEDOUT);
  Fd socket = start_connecting(peers_[static_cast<std::size_t>(link.peer)].endpoint);
  if (!socket.valid()) return lose(link, errno);
  handshakes_.push_back(
      Handshake::dial(std::move(socket), options_.self, link.peer, options_.authenticate));
  link.redial_ns = now_ns() + kRedialNs;
}

Handshake* Tcp::dial_under_way(int peer) noexcept {
  const auto found =
      std::find_if(handshakes_.begin(), handshakes_.end(), [&](const Handshake& handshake) {
        return handshake.dials() && handshake.peer() == peer && !handshake.over();
      });
  return found == handshakes_.end() ? nullptr : &*found;
}

bool Tcp::may_consent(const Handshake& handshake) noexcept {
  const int peer = handshake.peer();
  if (peer < 0 || peer >= options_.peers || peer == options_.self) return false;
  if (peers_[static_cast<std::size_t>(peer)].endpoint.length == 0) return false;  // of this node
  const Link& link = link_to(peer);
  if (link.connected() || link.failed) return false;
  Handshake* const mine = dial_under_way(peer);
  if (mine == nullptr) return true;
  if (options_.self < peer) return false;
  mine->drop();
  return true;
}

void Tcp::conclude(Handshake& handshake) noexcept {
  switch (handshake.state()) {
    case Handshake::State::kAwaitsConsent:
      if (may_consent(handshake)) return handshake.consent();
      return handshake.drop();
    case Handshake::State::kOpen:
      return adopt(handshake);
    case Handshake::State::kRefused:
      return not_connected(handshake);
    default:
      if (handshake.is_older_than(kHandshakeNs)) handshake.drop();
  }
}

void Tcp::adopt(Handshake& handshake) noexcept {
  Link& link = link_to(handshake.peer());
  if (link.connected() || link.failed) return handshake.drop();
  link.socket = handshake.take_socket();
  watch(link.socket.get(), 0, nullptr);
  if (Handshake* const mine = dial_under_way(link.peer)) mine->drop();
}

void Tcp::not_connected(const Handshake& handshake) noexcept {
  if (!handshake.dials()) {
    if (handshake.is_stranger()) {
      log(LogLevel::kWarn, "tcp: refused a connection of somebody who is no rank of this job");
    }
    return;
  }
  Link& link = link_to(handshake.peer());
  if (link.connected() || link.failed) return;
  const bool may_be_dialling = handshake.error() == 0 || handshake.error() == ECONNRESET;
  if (handshake.is_stranger()) {
    log(LogLevel::kWarn, "tcp: who listens at %s is not rank %d of this job",
        to_text(peers_[static_cast<std::size_t>(link.peer)].endpoint).c_str(), link.peer);
    lose(link, EPROTO);
  } else if (!may_be_dialling) {
    lose(link, handshake.error());
  }
}

/// What has come from the peer can still be received.
void Tcp::stop_sending(Link& link, int error) noexcept {
  link.failed = true;
  link.error = error;
  link.outbox.fail(failure(link));
}

void Tcp::lose(Link& link, int error) noexcept {
  log(LogLevel::kInfo, "tcp: the connection to rank %d is lost: %s", link.peer,
      error == 0 ? "closed by it" : std::strerror(error));
  stop_sending(link, error);
  link.inbox.fail(failure(link));
  link.socket.reset();
  link.watched = 0;
}

// --- sleeping ----------------------------------------------------------------------------------

int Tcp::arm() noexcept {
  watch_all();
  return epoll_.get();
}

void Tcp::watch(int fd, std::uint32_t events, Link* link) noexcept {
  epoll_event event{};
  event.events = events;
  event.data.ptr = link;
  if (events == 0) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  } else if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  }
}

/// Exactly what would be of use: a message that nobody has asked for must wake nobody.
void Tcp::watch_all() noexcept {
  bool awaits_connection = false;
  for (Link* link : links_) {
    awaits_connection = awaits_connection || (link->active && !link->connected());
    if (!link->connected() || link->watched == link->wanted()) continue;
    link->watched = link->wanted();
    watch(link->socket.get(), link->watched, link);
  }
  if (awaits_connection != std::exchange(listens_, awaits_connection)) {
    watch(listener_.get(), listens_ ? static_cast<std::uint32_t>(EPOLLIN) : 0U, nullptr);
  }
  for (const Handshake& handshake : handshakes_) {
    watch(handshake.socket(), static_cast<std::uint32_t>(handshake.events()), nullptr);
  }
}

}  // namespace

std::unique_ptr<Network> make_tcp(TcpOptions options) {
  return std::make_unique<Tcp>(std::move(options));
}

}  // namespace shoal::transport::tcp
