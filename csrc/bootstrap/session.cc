#include "bootstrap/session.h"

#include <unistd.h>

#include <algorithm>

#include "bootstrap/control.h"
#include "bootstrap/exchange.h"
#include "bootstrap/link.h"
#include "bootstrap/node_handshake.h"
#include "bootstrap/socket.h"
#include "bootstrap/store.h"
#include "shoal/error.h"

namespace shoal::bootstrap {
namespace {

constexpr std::int64_t kRedialPauseMs = 10;
constexpr std::int64_t kStoreAnswerMs = 30'000;  // for the proofs, once connected
constexpr std::int64_t kVerdictGraceMs = 1000;   // the store says who is missing, then we give up
constexpr std::int64_t kLingerMs = 2000;         // rank 0's store outlives rank 0 by this at most

std::string who_am_i(const Identity& identity) {
  return "rank " + std::to_string(identity.rank) + " of " + std::to_string(identity.ranks);
}

void check(const Identity& identity) {
  const std::string who = who_am_i(identity) + " (from " + identity.source + ")";
  if (identity.ranks < 1 || (identity.ranks == 1 && identity.rank != 0)) {
    throw Error(ErrorCode::kBootstrap, "session: " + who + " makes no sense");
  }
  if (identity.ranks == 1) return;
  const bool any_port = identity.serves_store && identity.rank == 0;
  if (identity.store_host.empty() || (identity.store_port == 0 && !any_port)) {
    throw Error(ErrorCode::kBootstrap,
                "session: " + who + " knows no store; set SHOAL_STORE=host:port");
  }
  if (identity.secret.empty()) {
    throw Error(ErrorCode::kBootstrap, "session: " + who +
                                           " has no secret; set SHOAL_SECRET_FILE (a file only you "
                                           "can read) to the same on all ranks");
  }
}

void pause_ms(std::int64_t ms) {
  pollfd none{-1, 0, 0};
  poll_until({&none, 1}, Deadline::after_ms(ms));
}

void wait_for(const Link& link, Deadline deadline) {
  pollfd entry{link.fd(), link.events(), 0};
  poll_until({&entry, 1}, deadline);
}

Deadline earlier(Deadline a, Deadline b) { return Deadline::at_ns(std::min(a.at_ns(), b.at_ns())); }

// One connection to the store, proved; closed if it was lost on the way.
Link dial_store(Fd socket, const Identity& identity, const Credentials& credentials,
                Deadline deadline) {
  const Greeting greeting{Role::kRank, identity.rank, identity.ranks, Role::kStore};
  bound_retransmission(socket.get());
  Link link(std::move(socket), Prover::kDialler, greeting, credentials, kMaxControlFrameBytes);
  while (!link.open() && !link.closed() && !deadline.passed()) {
    link.pump();
    if (!link.open() && !link.closed()) wait_for(link, deadline);
  }
  return link;
}

// Dials until the store answers: it may start later than this rank, and drops connections when
// crowded. What trying again cannot mend ends it at once.
Link find_store(const Identity& identity, const Credentials& credentials, Deadline deadline) {
  const Address at{identity.store_host, identity.store_port};
  const std::string what = who_am_i(identity) + ": the store at " + to_text(at) + ": ";
  std::string last = "no answer";
  do {
    Dialled dialled = dial_tcp(at, deadline);
    last = dialled.error;
    if (dialled.hopeless) throw Error(ErrorCode::kBootstrap, what + last);
    if (dialled.socket.valid()) {
      Link link = dial_store(std::move(dialled.socket), identity, credentials,
                             earlier(deadline, Deadline::after_ms(kStoreAnswerMs)));
      if (link.open()) return link;
      if (!link.closed()) {
        throw Error(ErrorCode::kTimeout, what +
                                             "something accepts connections there but does not "
                                             "answer; is it another program's port?");
      }
      if (link.end() != LinkEnd::kLost) throw Error(ErrorCode::kBootstrap, what + link.why());
      last = link.why();
    }
    pause_ms(kRedialPauseMs);
  } while (!deadline.passed());
  throw Error(ErrorCode::kTimeout,
              what + last +
                  " until the deadline; is the launcher, or rank 0, running, and no "
                  "firewall between?");
}

std::vector<Address> read_welcome(const Frame& frame) {
  Reader reader(frame.payload);
  const auto count = reader.number<std::uint32_t>();
  std::vector<Address> addresses;
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) {
    addresses.push_back(parse_address(reader.text(), "a listener's address"));
  }
  if (!reader.done())
    throw Error(ErrorCode::kBootstrap, "session: the store's welcome is malformed");
  return addresses;
}

struct Joined {
  Link store;
  Fd listener;
  std::vector<Address> targets;
};

// Nothing: rank 0 was just ending the store of an earlier session; the successor will answer.
std::optional<Joined> try_join(const Identity& identity, const Credentials& credentials,
                               Deadline deadline) {
  Link link = find_store(identity, credentials, deadline);
  const std::string who = who_am_i(identity) + ": ";
  Fd listener = listen_tcp({local_address(link.fd()).host, 0});
  Writer request;
  request.text(to_text(local_address(listener.get())));
  request.text(host_name() + ", pid " + std::to_string(::getpid()));
  request.number(deadline.remaining_ms());
  link.send(FrameType::kJoin, request.bytes());
  const Deadline limit = Deadline::at_ns(deadline.at_ns() + kVerdictGraceMs * kNsPerMs);
  while (!limit.passed()) {
    link.pump();
    const auto frame = link.next();
    if (frame && frame->type == FrameType::kWelcome) {
      return Joined{std::move(link), std::move(listener), read_welcome(*frame)};
    }
    if (frame && frame->type == FrameType::kRefused) {
      Reader reader(frame->payload);
      const auto code = static_cast<ErrorCode>(reader.number<std::uint8_t>());
      throw Error(code, who + "the job cannot start: " + reader.text());
    }
    const bool ended = link.closed() || (frame && frame->type == FrameType::kClosing);
    if (ended && identity.serves_store) return std::nullopt;
    if (ended) {
      throw Error(ErrorCode::kBootstrap,
                  who + "lost the store while waiting for all ranks: " + link.why());
    }
    if (!frame) wait_for(link, limit);
  }
  throw Error(ErrorCode::kTimeout, who + "the deadline passed and the store did not say why");
}

Joined join(const Identity& identity, const Credentials& credentials, Deadline deadline) {
  while (!deadline.passed()) {
    if (auto joined = try_join(identity, credentials, deadline)) return std::move(*joined);
    pause_ms(kRedialPauseMs);
  }
  throw Error(ErrorCode::kTimeout, who_am_i(identity) + ": the store ended while ranks joined");
}

}  // namespace

// Destroyed from below: sockets between ranks, goodbye, and last the store if it is ours.
struct Session::State {
  State(const Identity& identity_, Deadline deadline,
        const std::function<void(const std::string&)>& on_store);
  ~State() {
    exchange.reset();
    if (store) store->close_door();
    control.reset();
    if (store) store->wait_until_empty(Deadline::after_ms(kLingerMs));
  }

  Identity identity;
  Credentials credentials;
  Traffic beside_exchange;  // with the store until it had all ranks; for the node's fd
  std::unique_ptr<Store> store;
  std::unique_ptr<Control> control;
  std::unique_ptr<Exchange> exchange;
  std::vector<Peer> peers;
  std::string host;
};

Session::State::State(const Identity& identity_, Deadline deadline,
                      const std::function<void(const std::string&)>& on_store)
    : identity(identity_), credentials{identity.job, identity.secret} {
  check(identity);
  if (identity.ranks == 1) {
    control = std::make_unique<Control>(0, std::nullopt, "", false);
    exchange =
        std::make_unique<Exchange>(0, 1, Fd(), std::vector<Address>{}, credentials, *control);
    return;
  }
  if (identity.serves_store && identity.rank == 0) {
    store = std::make_unique<Store>(StoreOptions{.bind_host = identity.store_host,
                                                 .port = identity.store_port,
                                                 .socket = identity.store_socket,
                                                 .ranks = identity.ranks,
                                                 .job = identity.job,
                                                 .secret = identity.secret});
    identity.store_port = store->port();
    if (on_store) on_store(to_text({identity.store_host, identity.store_port}));
  }
  Joined joined = join(identity, credentials, deadline);
  beside_exchange += joined.store.traffic();
  host = local_address(joined.listener.get()).host;
  const std::string name = to_text({identity.store_host, identity.store_port});
  control = std::make_unique<Control>(identity.rank, std::move(joined.store), name,
                                      identity.serves_store);
  exchange = std::make_unique<Exchange>(identity.rank, identity.ranks, std::move(joined.listener),
                                        std::move(joined.targets), credentials, *control);
}

Session::Session(const Identity& identity, Deadline deadline,
                 const std::function<void(const std::string&)>& on_store)
    : state_(std::make_unique<State>(identity, deadline, on_store)) {}
Session::~Session() = default;

Rank Session::rank() const noexcept { return state_->identity.rank; }
Rank Session::ranks() const noexcept { return state_->identity.ranks; }

std::vector<std::string> Session::all_gather(const std::string& mine, Deadline deadline) {
  return state_->exchange->all_gather(mine, deadline);
}

const std::string& Session::host() const noexcept { return state_->host; }

Fd Session::join_node(const std::function<Fd(int local_ranks)>& create, Deadline deadline) {
  NodeOutcome outcome =
      shake_hands(state_->identity.rank, *state_->exchange, state_->credentials, create, deadline);
  state_->peers = std::move(outcome.peers);
  state_->beside_exchange += outcome.traffic;
  state_->control->watch(std::move(outcome.processes));
  return std::move(outcome.fd);
}

const std::vector<Peer>& Session::peers() const noexcept { return state_->peers; }

Traffic Session::traffic() const noexcept {
  Traffic sum = state_->beside_exchange;
  return sum += state_->exchange->traffic();
}

void Session::listen(Listener listener) { state_->control->listen(std::move(listener)); }

void Session::publish(std::span<const Rank> to, const std::string& message) {
  state_->control->publish(to, message);
}

}  // namespace shoal::bootstrap
