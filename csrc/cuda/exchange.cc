#include "cuda/exchange.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "core/assert.h"

namespace shoal::cuda {
namespace {

/// A node has no more ranks than that.
constexpr int kBacklog = 512;

struct Address {
  sockaddr_un name{};
  socklen_t length = 0;
};

Address address_of(std::uint64_t door) noexcept {
  Address address;
  address.name.sun_family = AF_UNIX;
  char* text = address.name.sun_path + 1;  // the first byte stays 0: abstract
  const int length = std::snprintf(text, sizeof address.name.sun_path - 1, "shoal-cuda-%016llx",
                                   static_cast<unsigned long long>(door));
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
  return address;
}

std::uint64_t random_door() {
  std::uint64_t door = 0;
  while (door == 0) {
    if (::getrandom(&door, sizeof door, 0) != sizeof door) {
      throw Error(ErrorCode::kSystem, std::string("cuda: getrandom: ") + std::strerror(errno));
    }
  }
  return door;
}

Fd make_socket() { return Fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)); }

/// Whoever runs under another user has no business here, whatever it knows.
bool same_user(int socket, pid_t& pid) noexcept {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return false;
  pid = peer.pid;
  return peer.uid == ::getuid();
}

/// The other end is closed, or is being closed: a process that is killed loses its memory and its
/// sockets one after the other.
bool hangs_up(int socket) noexcept {
  constexpr int kWaitMs = 100;
  pollfd entry{socket, POLLRDHUP, 0};
  return ::poll(&entry, 1, kWaitMs) > 0;
}

std::string ranks_text(const std::set<int>& ranks) {
  std::string text;
  for (const int rank : ranks) text += (text.empty() ? "" : ", ") + std::to_string(rank);
  return text;
}

}  // namespace

enum class MessageKind : std::uint32_t { kHello, kChunk, kAck, kDrop };

/// Fixed size, one packet each.
struct ChunkExchange::Message {
  MessageKind kind = MessageKind::kHello;
  std::int32_t rank = 0;     ///< local, of the sender
  std::int32_t chunks = 0;   ///< hello: so many follow
  std::int32_t result = 0;   ///< ack: a CUresult
  char call[40] = "";        ///< ack: which call gave it
  std::uint64_t serial = 0;  ///< chunk and its ack
  ChunkTicket ticket{};
};

/// A connection. Outgoing: the other is a user of our chunks; incoming: an owner.
struct ChunkExchange::Link {
  Fd socket;
  int rank = -1;  ///< of the other; -1: has not said hello
  bool outgoing = false;
  bool same_process = false;
};

ChunkExchange::ChunkExchange(std::span<Door* const> doors, int self, ExchangeEvents events,
                             std::function<std::string(const Outcome&)> describe)
    : doors_(doors.begin(), doors.end()),
      self_(self),
      events_(std::move(events)),
      describe_(std::move(describe)),
      listener_(make_socket()),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  static_assert(std::is_trivially_copyable_v<Message>);
  const std::uint64_t door = random_door();
  const Address address = address_of(door);
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address.name), address.length) !=
          0 ||
      ::listen(listener_.get(), kBacklog) != 0 || wake_.get() < 0) {
    throw Error(ErrorCode::kSystem,
                std::string("cuda: cannot listen for the node's ranks: ") + std::strerror(errno));
  }
  // seq_cst: pairs with the loads in expect_owners() of the others
  doors_[self_]->store(door, std::memory_order_seq_cst);
  expect_owners();
  thread_ = std::thread([this] { serve(); });
}

ChunkExchange::~ChunkExchange() {
  doors_[self_]->store(0, std::memory_order_seq_cst);
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake();
  thread_.join();
}

void ChunkExchange::expect_owners() {
  for (int rank = 0; rank < static_cast<int>(doors_.size()); ++rank) {
    // seq_cst: pairs with the store in the constructor
    if (rank != self_ && doors_[rank]->load(std::memory_order_seq_cst) != 0) {
      owners_.insert(rank);
      promised_[rank] = -1;  // not known before its hello
      connect_to(rank);
    }
  }
}

void ChunkExchange::await_owners(Deadline deadline, const Interrupt& interrupt) {
  std::unique_lock lock(mutex_);
  while (!owners_.empty() && trouble_.empty() && !deadline.passed()) {
    changed_.wait_for(lock,
                      std::chrono::milliseconds(std::min(deadline.remaining_ms(), kInterruptMs)));
    if (!interrupt) continue;
    lock.unlock();
    interrupt();
    lock.lock();
  }
  if (!trouble_.empty()) throw Error(ErrorCode::kDevice, trouble_);
  if (owners_.empty()) return;
  throw Error(ErrorCode::kTimeout, "cuda: local rank " + ranks_text(owners_) +
                                       " has not shown its device memory in time; is it stopped? "
                                       "`shoal ps` shows it");
}

void ChunkExchange::announce(const ChunkTicket& ticket, Fd fd) {
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back({ticket, std::move(fd)});
  }
  wake();
}

void ChunkExchange::wake() noexcept { (void)::eventfd_write(wake_.get(), 1); }

std::vector<int> ChunkExchange::awaited() const {
  const std::lock_guard lock(mutex_);
  return {waiting_.begin(), waiting_.end()};
}

// --- The service thread ------------------------------------------------------------------------

void ChunkExchange::serve() {
  for (int wait_ms = 0;;) {
    std::vector<pollfd> entries = {{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    for (const auto& link : links_) entries.push_back({link->socket.get(), POLLIN, 0});
    (void)::poll(entries.data(), entries.size(), wait_ms);
    const std::size_t known = links_.size();  // those that are accepted now have no entry
    for (std::size_t i = 0; i < known; ++i) {
      if (entries[i + 2].revents != 0) read_from(*links_[i]);
    }
    if (entries[0].revents != 0) accept_all();
    if (entries[1].revents != 0) {
      eventfd_t ignored = 0;
      (void)::eventfd_read(wake_.get(), &ignored);
    }
    run_requests();
    std::erase_if(links_, [](const auto& link) { return !link->socket.valid(); });
    wait_ms = events_.tick() ? kTickMs : kIdleMs;
    const std::lock_guard lock(mutex_);
    if (ending_) return;
  }
}

void ChunkExchange::run_requests() {
  std::deque<Announced> requests;
  {
    const std::lock_guard lock(mutex_);
    requests.swap(requests_);
  }
  for (Announced& request : requests) {
    std::vector<Link*> users;
    for (const auto& link : links_) {
      if (link->outgoing && link->socket.valid()) users.push_back(link.get());
    }
    {
      const std::lock_guard lock(mutex_);
      for (const Link* user : users) waiting_.insert(user->rank);
    }
    SHOAL_ASSERT(!under_way_);
    announced_.push_back(std::move(request));
    announced_.back().serial = ++serials_;
    under_way_ = true;
    for (Link* user : users) send_chunk(*user, announced_.back());
    settle_if_done();
  }
}

void ChunkExchange::accept_all() {
  const std::size_t most = 2 * doors_.size() + 8;
  while (links_.size() < most) {
    Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid()) return;
    pid_t pid = 0;
    if (!same_user(socket.get(), pid)) continue;
    auto link = std::make_unique<Link>();
    link->same_process = pid == ::getpid();
    link->socket = std::move(socket);
    links_.push_back(std::move(link));
  }
}

/// Opens the connection on which a rank is told of our chunks. A door without a listener behind it
/// is that of a rank that has died or is leaving.
void ChunkExchange::connect_to(int rank) {
  const std::uint64_t door = doors_[rank]->load(std::memory_order_seq_cst);
  auto link = std::make_unique<Link>();
  link->rank = rank;
  link->outgoing = true;
  link->socket = make_socket();
  const Address address = address_of(door);
  pid_t pid = 0;
  if (door == 0 ||
      ::connect(link->socket.get(), reinterpret_cast<const sockaddr*>(&address.name),
                address.length) != 0 ||
      !same_user(link->socket.get(), pid)) {
    return owner_done(rank, {});
  }
  link->same_process = pid == ::getpid();
  Message hello;
  hello.kind = MessageKind::kHello;
  hello.chunks = static_cast<std::int32_t>(announced_.size());
  links_.push_back(std::move(link));
  Link& opened = *links_.back();
  if (!send(opened, hello)) return;
  for (const Announced& announced : announced_) send_chunk(opened, announced);
}

void ChunkExchange::read_from(Link& link) {
  // Bounded: then the others have their turn.
  for (int i = 0; i < kMaxChunks && link.socket.valid(); ++i) {
    Message message;
    iovec part{&message, sizeof message};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr packet{};
    packet.msg_iov = &part;
    packet.msg_iovlen = 1;
    packet.msg_control = control;
    packet.msg_controllen = sizeof control;
    const ssize_t bytes = ::recvmsg(link.socket.get(), &packet, MSG_CMSG_CLOEXEC);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return;
    Fd fd;
    const cmsghdr* head = CMSG_FIRSTHDR(&packet);
    if (bytes > 0 && head != nullptr && head->cmsg_type == SCM_RIGHTS) {
      int received = -1;
      std::memcpy(&received, CMSG_DATA(head), sizeof received);
      fd.reset(received);
    }
    if (bytes != sizeof message) return close(link);  // its end, or nothing that we speak
    handle(link, message, fd);
  }
}

void ChunkExchange::handle(Link& link, const Message& message, const Fd& fd) {
  const bool expected = link.outgoing ? message.kind == MessageKind::kAck
                                      : (link.rank < 0) == (message.kind == MessageKind::kHello);
  if (!expected) return close(link);
  switch (message.kind) {
    case MessageKind::kHello:
      return on_hello(link, message);
    case MessageKind::kChunk:
      return on_chunk(link, message, fd);
    case MessageKind::kAck:
      return on_ack(link, message);
    case MessageKind::kDrop:
      return events_.drop(link.rank, message.ticket.offset);
  }
  close(link);
}

void ChunkExchange::on_hello(Link& link, const Message& message) {
  const bool fits = message.rank >= 0 && message.rank < static_cast<int>(doors_.size()) &&
                    message.rank != self_ && message.chunks >= 0 && message.chunks <= kMaxChunks;
  if (!fits) return close(link);
  link.rank = message.rank;
  events_.begin(link.rank);
  if (message.chunks == 0) {
    owner_done(link.rank, {});
  } else {
    promised_[link.rank] = message.chunks;
  }
  const bool connected = std::ranges::any_of(links_, [&](const auto& other) {
    return other->outgoing && other->rank == link.rank && other->socket.valid();
  });
  if (!connected) connect_to(link.rank);
}

void ChunkExchange::on_chunk(Link& link, const Message& message, const Fd& fd) {
  const Outcome outcome = events_.map(link.rank, message.ticket, fd, link.same_process);
  Message ack;
  ack.kind = MessageKind::kAck;
  ack.serial = message.serial;
  ack.result = outcome.result;
  std::snprintf(ack.call, sizeof ack.call, "%s", outcome.call);
  // Memory of an owner that has left or died meanwhile is nobody's trouble.
  if (!outcome.ok() && hangs_up(link.socket.get())) return close(link);
  if (!outcome.ok()) {
    owner_done(link.rank, "cuda: cannot map the device memory of local rank " +
                              std::to_string(link.rank) + ": " + describe_(outcome));
  }
  const auto promised = promised_.find(link.rank);
  if (promised != promised_.end() && --promised->second == 0) owner_done(link.rank, {});
  (void)send(link, ack);
}

void ChunkExchange::on_ack(Link& link, const Message& message) {
  {
    // A user that came while a chunk was under way acknowledges that one too, unawaited, and before
    // it older ones: should it refuse, it is the one that does not get on.
    const std::lock_guard lock(mutex_);
    if (!under_way_ || message.serial != announced_.back().serial ||
        waiting_.erase(link.rank) == 0) {
      return;
    }
  }
  if (message.result != CUDA_SUCCESS) {
    char call[sizeof message.call + 1] = "";
    std::memcpy(call, message.call, sizeof message.call);
    refused_ = "local rank " + std::to_string(link.rank) +
               " cannot map it: " + describe_({call, static_cast<CUresult>(message.result)});
  }
  settle_if_done();
}

/// The chunk under way has been acknowledged by everybody who is there.
void ChunkExchange::settle_if_done() {
  {
    const std::lock_guard lock(mutex_);
    if (!under_way_ || !waiting_.empty()) return;
  }
  under_way_ = false;
  const std::int64_t offset = announced_.back().ticket.offset;
  const std::string refused = std::exchange(refused_, {});
  if (!refused.empty()) {
    Message drop;
    drop.kind = MessageKind::kDrop;
    drop.ticket.offset = offset;
    for (const auto& link : links_) {
      if (link->outgoing && link->socket.valid()) (void)send(*link, drop);
    }
    announced_.pop_back();
  }
  events_.settled(offset, refused);
}

void ChunkExchange::send_chunk(Link& link, const Announced& announced) {
  Message message;
  message.kind = MessageKind::kChunk;
  message.serial = announced.serial;
  message.ticket = announced.ticket;
  (void)send(link, message, announced.fd.get());
}

/// Never blocks: all chunks of a rank fit into a socket's buffer. Whoever has not read them by then
/// is treated as gone.
bool ChunkExchange::send(Link& link, const Message& message, int fd) {
  Message stamped = message;
  stamped.rank = self_;
  iovec part{&stamped, sizeof stamped};
  msghdr packet{};
  packet.msg_iov = &part;
  packet.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  if (fd >= 0) {
    packet.msg_control = control;
    packet.msg_controllen = sizeof control;
    cmsghdr* head = CMSG_FIRSTHDR(&packet);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
  }
  if (::sendmsg(link.socket.get(), &packet, MSG_NOSIGNAL | MSG_DONTWAIT) ==
      static_cast<ssize_t>(sizeof stamped)) {
    return true;
  }
  close(link);
  return false;
}

/// The other is gone: what it owns stays mapped, for kernels that may still read it; nobody waits
/// for it any more.
void ChunkExchange::close(Link& link) {
  link.socket.reset();
  if (link.rank < 0) return;
  owner_done(link.rank, {});  // also if it closed its door before it had said hello
  if (!link.outgoing) return;
  {
    const std::lock_guard lock(mutex_);
    waiting_.erase(link.rank);
  }
  settle_if_done();
}

void ChunkExchange::owner_done(int rank, const std::string& trouble) {
  promised_.erase(rank);
  const std::lock_guard lock(mutex_);
  owners_.erase(rank);
  if (!trouble.empty() && trouble_.empty()) trouble_ = trouble;
  changed_.notify_all();
}

}  // namespace shoal::cuda
