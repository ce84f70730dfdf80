#include "bootstrap/node_handshake.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <utility>

#include "bootstrap/process_exit.h"
#include "core/log.h"

namespace shoal::bootstrap {
namespace {

constexpr std::int64_t kHandshakeMs = 10'000;  // for all candidates of a node together
constexpr std::int64_t kRetryMs = 5;
constexpr std::size_t kMaxPacketBytes = 128;
constexpr std::size_t kMaxWaiting = 4096;

struct Card {
  std::string host, boot_id, network, pids, user, socket_name;
  std::int64_t pid = 0;
  [[nodiscard]] bool candidate_of(const Card& other) const {
    return !boot_id.empty() && !network.empty() && boot_id == other.boot_id &&
           network == other.network && user == other.user;
  }
};

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string link_target(const char* path) {
  std::array<char, 128> target;
  const ssize_t length = ::readlink(path, target.data(), target.size());
  return length > 0 ? std::string(target.data(), static_cast<std::size_t>(length)) : std::string();
}

Card own_card() {
  Card card;
  card.host = host_name();
  card.boot_id = first_line("/proc/sys/kernel/random/boot_id");
  card.network = link_target("/proc/thread-self/ns/net");  // where this thread makes its sockets
  card.pids = link_target("/proc/self/ns/pid");
  card.user = std::to_string(::geteuid()) + " in " + link_target("/proc/self/ns/user");
  card.socket_name = "shoal-" + to_hex(random_bytes(16));
  card.pid = ::getpid();
  return card;
}

std::string encode(const Card& card) {
  Writer writer;
  writer.text(card.host).text(card.boot_id).text(card.network).text(card.pids);
  writer.text(card.user).text(card.socket_name);
  return writer.number(card.pid).bytes();
}

Card decode_card(const std::string& bytes) {
  Reader reader(bytes);
  Card card;
  for (auto* field :
       {&card.host, &card.boot_id, &card.network, &card.pids, &card.user, &card.socket_name}) {
    *field = reader.text();
  }
  card.pid = reader.number<std::int64_t>();
  return card;
}

// ---- the unix socket -------------------------------------------------------------------------

struct AbstractAddress {
  explicit AbstractAddress(const std::string& name) {
    raw.sun_family = AF_UNIX;
    name.copy(raw.sun_path + 1, sizeof raw.sun_path - 1);  // a leading 0: no file, gone with us
    length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  }
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&raw); }
  sockaddr_un raw{};
  socklen_t length;
};

Fd unix_socket() { return Fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)); }

Fd listen_unix(const std::string& name) {
  Fd socket = unix_socket();
  const AbstractAddress address(name);
  if (!socket.valid() || ::bind(socket.get(), address.get(), address.length) != 0 ||
      ::listen(socket.get(), SOMAXCONN) != 0) {
    throw Error(ErrorCode::kSystem, std::string("join_node: unix socket: ") + std::strerror(errno));
  }
  return socket;
}

bool same_user(int socket) {
  ucred credentials{};
  socklen_t length = sizeof credentials;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0 &&
         credentials.uid == ::geteuid();
}

/// One byte with room for one fd beside it.
struct FdMessage {
  FdMessage() {
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = buffer.data();
    header.msg_controllen = buffer.size();
  }
  FdMessage(const FdMessage&) = delete;  // the header points into it
  FdMessage& operator=(const FdMessage&) = delete;

  char word = 'S';
  iovec data{&word, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> buffer{};
  msghdr header{};
};

bool send_fd(int socket, int fd) {
  FdMessage carrier;
  msghdr& message = carrier.header;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  return ::sendmsg(socket, &message, MSG_NOSIGNAL) == 1;
}

Fd receive_fd(int socket) {
  FdMessage carrier;
  msghdr& message = carrier.header;
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) return Fd();
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) return Fd();
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return Fd(fd);
}

// ---- from one rank to the next -----------------------------------------------------------------

std::string request_of(Rank rank, const std::string& socket_name, const Credentials& credentials) {
  const std::string claim = "shoal 1 node:" + socket_name + ":" + std::to_string(rank);
  return Writer()
      .number(rank)
      .text(hmac_sha256(credentials.secret, claim + credentials.job))
      .bytes();
}

// Gives `fd` to the rank behind `socket` if its request proves right. -1: it did not.
Rank serve_child(int socket, int fd, const Card& me, const Credentials& credentials) {
  std::array<char, kMaxPacketBytes> packet;
  const ssize_t length = ::recv(socket, packet.data(), packet.size(), 0);
  if (length <= 0) return -1;
  const std::string request(packet.data(), static_cast<std::size_t>(length));
  const Rank rank = Reader(request).number<Rank>();
  const std::string expected = request_of(rank, me.socket_name, credentials);
  if (!equal_in_constant_time(request, expected) || !send_fd(socket, fd)) return -1;
  return rank;
}

// Ends when every child has come or the time is up. Silent connections only wait along.
void serve_children(const Fd& listener, int fd, std::vector<Rank> awaited, const Card& me,
                    const Credentials& credentials, Deadline deadline) {
  std::vector<Fd> waiting;
  while (!awaited.empty() && !deadline.passed()) {
    std::vector<pollfd> entries{{listener.get(), POLLIN, 0}};
    for (const Fd& socket : waiting) entries.push_back({socket.get(), POLLIN, 0});
    poll_until(entries, deadline);
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      if (entries[i + 1].revents == 0) continue;
      std::erase(awaited, serve_child(waiting[i].get(), fd, me, credentials));
      waiting[i].reset();
    }
    std::erase_if(waiting, [](const Fd& socket) { return !socket.valid(); });
    while (waiting.size() < kMaxWaiting) {  // a full house: the backlog waits for the next turn
      Fd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!socket.valid()) break;
      if (same_user(socket.get())) waiting.push_back(std::move(socket));
    }
  }
}

// The parent may be slow to have the fd itself: its connection closes if it gives up.
Fd ask_parent(Rank rank, const Card& parent, const Credentials& credentials, Deadline deadline) {
  Fd socket = unix_socket();
  const AbstractAddress address(parent.socket_name);
  int connected = -1;
  while ((connected = ::connect(socket.get(), address.get(), address.length)) != 0 &&
         (errno == EAGAIN || errno == EINTR) && !deadline.passed()) {  // EAGAIN: backlog is full
    pollfd none{-1, 0, 0};
    poll_until({&none, 1}, Deadline::after_ms(kRetryMs));
  }
  if (connected != 0 || !same_user(socket.get())) return Fd();
  const std::string request = request_of(rank, parent.socket_name, credentials);
  if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return Fd();
  pollfd entry{socket.get(), POLLIN, 0};
  if (poll_until({&entry, 1}, deadline) == 0) return Fd();
  return receive_fd(socket.get());
}

Fd checked(Fd fd) {
  if (!fd.valid()) throw Error(ErrorCode::kSystem, "join_node: create() gave no file descriptor");
  return fd;
}

/// The candidates of one node as a binomial tree: member i has the parent i without its lowest set
/// bit, and the children i + 2^k for all 2^k below that bit.
struct Tree {
  std::vector<Rank> members;  // ascending
  std::size_t self = 0;

  [[nodiscard]] Rank root() const { return members.front(); }
  [[nodiscard]] Rank parent() const { return members[self & (self - 1)]; }
  [[nodiscard]] std::vector<Rank> children() const {
    std::vector<Rank> ranks;
    for (std::size_t bit = 1; self + bit < members.size() && (self & bit) == 0; bit *= 2) {
      ranks.push_back(members[self + bit]);
    }
    return ranks;
  }
};

Tree candidates(Rank rank, const std::vector<Card>& cards) {
  Tree tree;
  for (Rank other = 0; other < static_cast<Rank>(cards.size()); ++other) {
    if (other == rank) tree.self = tree.members.size();
    if (other == rank || cards[other].candidate_of(cards[rank])) tree.members.push_back(other);
  }
  return tree;
}

struct Home {
  Fd fd;
  Rank leader;
  Traffic traffic;
};

Home find_home(Rank rank, Fd listener, const std::vector<Card>& cards,
               const Credentials& credentials, const std::function<Fd(int)>& create,
               Deadline deadline) {
  const Deadline limit =
      Deadline::at_ns(std::min(deadline.at_ns(), Deadline::after_ms(kHandshakeMs).at_ns()));
  const Tree tree = candidates(rank, cards);
  Home home{Fd(), tree.root(), {}};
  if (tree.self == 0) {
    home.fd = checked(create(static_cast<int>(tree.members.size())));
  } else {
    home.fd = ask_parent(rank, cards[tree.parent()], credentials, limit);
    home.traffic += {1, 1};
  }
  if (!home.fd.valid()) {  // with the listener closed, its children are told at once
    log(LogLevel::kWarn, "rank %d: rank %d on the same host gave no shared memory", rank,
        tree.parent());
    listener.reset();
    return {checked(create(1)), rank, home.traffic};
  }
  const std::vector<Rank> children = tree.children();
  serve_children(listener, home.fd.get(), children, cards[rank], credentials, limit);
  const int served = static_cast<int>(children.size());
  home.traffic += {served, served};
  return home;
}

std::vector<Peer> number_nodes(const std::vector<Card>& cards, const std::vector<Rank>& leaders) {
  std::vector<Peer> peers(cards.size());
  std::map<Rank, std::pair<int, int>> nodes;  // leader -> (node, ranks in it so far)
  std::map<std::string, Rank> machines;       // boot id -> lowest rank
  for (std::size_t rank = 0; rank < cards.size(); ++rank) {
    const int next_node = static_cast<int>(nodes.size());
    auto& [node, members] = nodes.try_emplace(leaders[rank], next_node, 0).first->second;
    const Rank self = static_cast<Rank>(rank);
    const std::string& boot_id = cards[rank].boot_id;
    const Rank machine = boot_id.empty() ? self : machines.try_emplace(boot_id, self).first->second;
    peers[rank] = {cards[rank].host, cards[rank].pid, node, members++, machine};
  }
  return peers;
}

// Only where pids mean the same. Of a rank that has ended meanwhile it may be a successor's pidfd.
// That harms nobody: when it ends, the store is asked before anyone is judged, and knows better.
// (Comparing start times would cost every rank n reads of /proc: at 128 ranks a tenth of the time.)
std::vector<LocalProcess> open_neighbours(Rank rank, const std::vector<Card>& cards,
                                          const std::vector<Rank>& leaders) {
  std::vector<LocalProcess> processes;
  const Card& me = cards[rank];
  for (Rank other = 0; other < static_cast<Rank>(cards.size()); ++other) {
    const Card& card = cards[other];
    if (leaders[other] != leaders[rank] || card.pid == me.pid || card.pids != me.pids) continue;
    Fd pidfd = open_process(static_cast<pid_t>(card.pid));
    if (pidfd.valid()) processes.push_back({other, std::move(pidfd)});
  }
  return processes;
}

}  // namespace

NodeOutcome shake_hands(Rank rank, Exchange& exchange, const Credentials& credentials,
                        const std::function<Fd(int local_ranks)>& create, Deadline deadline) {
  const Card mine = own_card();
  Fd listener = listen_unix(mine.socket_name);
  std::vector<Card> cards;
  for (const std::string& bytes : exchange.all_gather(encode(mine), deadline)) {
    cards.push_back(decode_card(bytes));
  }
  NodeOutcome outcome;
  Home home;
  try {
    home = find_home(rank, std::move(listener), cards, credentials, create, deadline);
  } catch (const Error& error) {
    exchange.abort(error.code(), "rank " + std::to_string(rank) + ": " + error.what());
    throw;
  }
  std::vector<Rank> leaders;
  for (const std::string& bytes :
       exchange.all_gather(Writer().number(home.leader).bytes(), deadline)) {
    leaders.push_back(Reader(bytes).number<Rank>());
  }
  outcome.fd = std::move(home.fd);
  outcome.traffic = home.traffic;
  outcome.peers = number_nodes(cards, leaders);
  outcome.processes = open_neighbours(rank, cards, leaders);
  return outcome;
}

}  // namespace shoal::bootstrap
