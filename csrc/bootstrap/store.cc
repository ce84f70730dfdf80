#include "bootstrap/store.h"

#include <sys/epoll.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "bootstrap/link.h"
#include "bootstrap/roster.h"
#include "bootstrap/socket.h"
#include "core/log.h"

namespace shoal::bootstrap {
namespace {

constexpr int kEventsPerTurn = 256;
constexpr int kAcceptsPerTurn = 256;
constexpr std::size_t kSpareStrangers = 128;  // connections that are not (yet) ranks, beyond n
constexpr std::size_t kMaxQueuedBytes = std::size_t{8} << 20;  // for a rank that does not read
constexpr std::int64_t kClosingLimitMs = 300;
constexpr std::uint64_t kListenerId = 0;
constexpr std::uint64_t kWakeId = 1;

void raise_file_limit(std::size_t files) noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= files) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, files);
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

const StoreOptions& checked(const StoreOptions& options) {
  if (options.ranks < 1) {
    throw Error(ErrorCode::kBootstrap, "store: ranks is " + std::to_string(options.ranks));
  }
  if (options.secret.empty()) {
    throw Error(ErrorCode::kBootstrap, "store: no secret; set SHOAL_SECRET_FILE or SHOAL_SECRET");
  }
  return options;
}

}  // namespace

// The thread owns everything but what stands under `mutex`.
struct Store::State {
  struct Client {
    Client(std::uint64_t id_, Fd socket, const Greeting& greeting, const Credentials& credentials)
        : id(id_),
          from(to_text(remote_address(socket.get()))),
          link(std::move(socket), Prover::kAcceptor, greeting, credentials, kMaxControlFrameBytes) {
    }
    std::uint64_t id;
    std::string from;
    Link link;
    std::uint32_t interest = EPOLLIN;
    bool asked = false;  // has sent kJoin; before that it is a stranger
    bool joined = false;
    bool held = false;  // waits for the end of the session before
    JoinRequest request;
  };
  struct Report {
    Rank asker;  // -1: the launcher
    Rank rank;
    std::string cause;
  };

  explicit State(const StoreOptions& given);
  void run();
  void turn();
  void accept_some();
  void serve(Client& client);
  void handle(Client& client, const Frame& frame);
  void ask_to_join(Client& client, const Frame& frame);
  void join(Client& client);
  void relay(const Client& client, const Frame& frame);
  void send(Rank to, FrameType type, const std::string& payload);
  void take_commands();
  void apply_reports();
  void drop_strangers(std::size_t bound);
  bool reap();
  void retry_held();
  void watch(Client& client);
  void note_refusal(const Client& client, const std::string& why);
  void say_closing();
  [[nodiscard]] int timeout_ms() const;

  StoreOptions options;
  Credentials credentials;
  Fd listener;
  std::uint16_t port = 0;
  Fd epoll;
  Fd wake;
  Roster roster;
  std::map<std::uint64_t, Client> clients;
  std::vector<Client*> by_rank;
  std::deque<std::uint64_t> strangers;  // ids in order of arrival; some have become ranks since
  std::uint64_t next_id = kWakeId + 1;
  std::deque<Report> reports;
  int refusals = 0;
  std::string last_refusal;

  std::atomic<bool> door_closed = false;  // seq_cst: set before rank 0's goodbye is sent

  mutable std::mutex mutex;
  std::condition_variable emptied;
  std::deque<Report> commands;  // mutex
  std::vector<bool> come;       // mutex
  bool empty = true;            // mutex
  bool stop = false;            // mutex
  std::thread thread;
};

Store::State::State(const StoreOptions& given)
    : options(checked(given)),
      credentials{options.job, options.secret},
      listener(options.socket >= 0 ? Fd(options.socket)
                                   : listen_tcp({options.bind_host, options.port})),
      port(local_address(listener.get()).port),
      epoll(::epoll_create1(EPOLL_CLOEXEC)),
      wake(make_event()),
      roster(
          options.ranks, options.launcher_reports_exits,
          [this](Rank to, FrameType type, const std::string& payload) { send(to, type, payload); }),
      by_rank(static_cast<std::size_t>(options.ranks), nullptr),
      come(static_cast<std::size_t>(options.ranks), false) {
  raise_file_limit(static_cast<std::size_t>(options.ranks) + 2 * kSpareStrangers);
  epoll_event of_listener{EPOLLIN, {.u64 = kListenerId}};
  epoll_event of_wake{EPOLLIN, {.u64 = kWakeId}};
  if (!epoll.valid() ||
      ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, listener.get(), &of_listener) != 0 ||
      ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &of_wake) != 0) {
    throw Error(ErrorCode::kSystem, std::string("store: epoll: ") + std::strerror(errno));
  }
}

void Store::State::run() {
  for (;;) {  // until the destructor says stop
    {
      const std::lock_guard lock(mutex);
      if (stop) break;
    }
    turn();
  }
  say_closing();
}

void Store::State::turn() {
  std::array<epoll_event, kEventsPerTurn> events;
  const int count = ::epoll_wait(epoll.get(), events.data(), kEventsPerTurn, timeout_ms());
  for (int i = 0; i < count; ++i) {
    const std::uint64_t id = events[i].data.u64;
    if (id == kListenerId) {
      accept_some();
    } else if (id == kWakeId) {
      take_commands();
    } else if (const auto found = clients.find(id); found != clients.end()) {
      serve(found->second);
    }
  }
  apply_reports();
  drop_strangers(static_cast<std::size_t>(options.ranks) + kSpareStrangers);
  std::string hint;
  if (refusals > 0) {
    hint = " (" + std::to_string(refusals) +
           " connections were refused; the last: " + last_refusal + ")";
  }
  roster.tick(now_ns(), hint);
  retry_held();
  while (reap()) {  // telling the others may find more lost connections; bounded by their number
  }
  const std::lock_guard lock(mutex);
  empty = roster.empty();
  if (empty) emptied.notify_all();
}

int Store::State::timeout_ms() const {
  std::int64_t next = roster.next_tick_ns();
  if (!strangers.empty()) next = std::min(next, now_ns() + 50 * kNsPerMs);
  if (next == kNever) return -1;
  return static_cast<int>(std::min<std::int64_t>(Deadline::at_ns(next).remaining_ms(), 60'000));
}

void Store::State::accept_some() {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    Fd socket = accept_tcp(listener.get());
    if (!socket.valid() && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
      log(LogLevel::kWarn, "store: cannot accept: %s; raise the limit of open files (ulimit -n)",
          std::strerror(errno));
      drop_strangers(strangers.size() / 2);
    }
    if (!socket.valid()) return;
    bound_retransmission(socket.get());
    const int fd = socket.get();
    const std::uint64_t id = next_id++;
    const Greeting greeting{Role::kStore, -1, options.ranks, Role::kRank};
    clients.try_emplace(id, id, std::move(socket), greeting, credentials);
    strangers.push_back(id);
    epoll_event event{EPOLLIN, {.u64 = id}};
    ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event);
  }
}

void Store::State::serve(Client& client) {
  client.link.pump();
  while (const std::optional<Frame> frame = client.link.next()) handle(client, *frame);
  watch(client);
}

void Store::State::watch(Client& client) {
  if (client.link.closed()) return;
  const std::uint32_t interest = client.link.flushed() ? EPOLLIN : EPOLLIN | EPOLLOUT;
  if (interest == client.interest) return;
  client.interest = interest;
  epoll_event event{interest, {.u64 = client.id}};
  ::epoll_ctl(epoll.get(), EPOLL_CTL_MOD, client.link.fd(), &event);
}

void Store::State::handle(Client& client, const Frame& frame) {
  if (frame.type == FrameType::kJoin && !client.asked) return ask_to_join(client, frame);
  if (!client.joined) return client.link.close(LinkEnd::kMalformed, "it did not ask to join");
  Reader reader(frame.payload);
  switch (frame.type) {
    case FrameType::kGoodbye:
      roster.leave(client.request.rank);
      by_rank[client.request.rank] = nullptr;
      client.joined = false;
      return;
    case FrameType::kEnded: {
      const Rank rank = reader.number<Rank>();
      reports.push_back({client.request.rank, rank, reader.text()});
      return;
    }
    case FrameType::kPublish:
      return relay(client, frame);
    default:
      return client.link.close(LinkEnd::kMalformed, "a frame that is not for the store");
  }
}

void Store::State::ask_to_join(Client& client, const Frame& frame) {
  Reader reader(frame.payload);
  client.asked = true;
  client.request.rank = client.link.theirs().rank;
  client.request.ranks = client.link.theirs().ranks;
  client.request.listener = reader.text();
  client.request.who = reader.text();
  const auto timeout_ms = reader.number<std::int64_t>();
  client.request.deadline_ns =
      now_ns() + std::clamp<std::int64_t>(timeout_ms, 0, 1'000'000'000) * kNsPerMs;
  if (!reader.done()) return client.link.close(LinkEnd::kMalformed, "a malformed join");
  join(client);
}

void Store::State::join(Client& client) {
  if (door_closed) return client.link.finish(FrameType::kClosing, {});
  const Rank rank = client.request.rank;
  const bool vacant = roster.valid(rank) && by_rank[rank] == nullptr;
  if (vacant) {  // so that what the roster sends while this rank joins reaches it
    by_rank[rank] = &client;
    client.joined = true;
  }
  const Roster::Answer answer = roster.join(client.request);
  client.held = answer == Roster::Answer::kLater;
  if (answer == Roster::Answer::kJoined) {
    const std::lock_guard lock(mutex);
    come[rank] = true;
    return;
  }
  if (vacant) {
    by_rank[rank] = nullptr;
    client.joined = false;
  }
  if (answer == Roster::Answer::kRefused) {
    client.link.finish(FrameType::kRefused, roster.refusal());
  }
}

// A rank that has left may join again once all have left (a second init() in the same job).
void Store::State::retry_held() {
  if (!roster.empty()) return;
  for (auto& [id, client] : clients) {
    if (client.held && !client.link.closed()) join(client);
  }
}

void Store::State::relay(const Client& client, const Frame& frame) {
  Reader reader(frame.payload);
  const auto count = reader.number<std::uint32_t>();
  std::vector<Rank> to;
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) to.push_back(reader.number<Rank>());
  const std::string payload = Writer().number(client.request.rank).text(reader.text()).bytes();
  if (!reader.done()) return;
  for (const Rank rank : to) {
    if (!roster.valid(rank) || by_rank[rank] == nullptr) continue;
    if (by_rank[rank]->link.queued_bytes() > kMaxQueuedBytes) {
      log(LogLevel::kWarn, "store: rank %d reads no messages; one from rank %d is dropped", rank,
          client.request.rank);
      continue;
    }
    send(rank, FrameType::kMessage, payload);
  }
}

void Store::State::send(Rank to, FrameType type, const std::string& payload) {
  Client* client = by_rank[to];
  if (client == nullptr) return;
  client->link.send(type, payload);
  client->link.flush();
  watch(*client);
}

void Store::State::take_commands() {
  clear_event(wake.get());
  const std::lock_guard lock(mutex);
  for (Report& report : commands) reports.push_back(std::move(report));
  commands.clear();
}

// Before a death is judged, what the rank itself has sent is read: its goodbye may be there
// already.
void Store::State::apply_reports() {
  while (!reports.empty()) {  // bounded: serve() adds no more than the sockets hold
    const Report report = std::move(reports.front());
    reports.pop_front();
    if (roster.valid(report.rank) && by_rank[report.rank] != nullptr) serve(*by_rank[report.rank]);
    if (report.asker < 0) {
      roster.ended(report.rank, report.cause, now_ns());
    } else {
      roster.ended(report.asker, report.rank, report.cause, now_ns());
    }
  }
}

void Store::State::drop_strangers(std::size_t bound) {
  while (!strangers.empty()) {  // bounded by its length
    const auto found = clients.find(strangers.front());
    const bool stranger = found != clients.end() && !found->second.asked;
    if (stranger) {
      Link& link = found->second.link;
      const bool late = now_ns() - link.made_ns() > kHandshakeLimitMs * kNsPerMs;
      if (!late && strangers.size() <= bound) return;
      link.close(LinkEnd::kForeign, late ? "silent for 2 s" : "too many unknown connections");
    }
    strangers.pop_front();
  }
}

void Store::State::note_refusal(const Client& client, const std::string& why) {
  ++refusals;
  last_refusal = client.from + ": " + why;
  constexpr int kLogged = 16;  // a port scanner must not fill the disk
  if (refusals <= kLogged) {
    log(LogLevel::kWarn, "store: refused %s%s", last_refusal.c_str(),
        refusals == kLogged ? " (further ones are not logged)" : "");
  }
}

bool Store::State::reap() {
  const std::size_t before = clients.size();
  for (auto entry = clients.begin(); entry != clients.end();) {
    Client& client = entry->second;
    if (!client.link.closed()) {
      ++entry;
      continue;
    }
    if (!client.asked && client.link.end() != LinkEnd::kLost)
      note_refusal(client, client.link.why());
    if (client.joined) {
      by_rank[client.request.rank] = nullptr;
      roster.lost(client.request.rank, now_ns());
    }
    entry = clients.erase(entry);
  }
  return clients.size() < before;
}

void Store::State::say_closing() {
  for (auto& [id, client] : clients) {
    if (client.asked) client.link.finish(FrameType::kClosing, {});
  }
  const Deadline deadline = Deadline::after_ms(kClosingLimitMs);
  for (auto& [id, client] : clients) {
    while (!client.link.closed() && client.asked && !deadline.passed()) {
      pollfd entry{client.link.fd(), POLLOUT, 0};
      poll_until({&entry, 1}, deadline);
      client.link.flush();
    }
  }
}

Store::Store(const StoreOptions& options) : state_(std::make_unique<State>(options)) {
  state_->thread = std::thread([state = state_.get()] { state->run(); });
}

Store::~Store() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  raise_event(state_->wake.get());
  state_->thread.join();
}

std::uint16_t Store::port() const noexcept { return state_->port; }

void Store::close_door() { state_->door_closed = true; }

bool Store::wait_until_empty(Deadline deadline) {
  std::unique_lock lock(state_->mutex);
  const std::chrono::milliseconds limit(deadline.remaining_ms());
  return state_->emptied.wait_for(lock, limit, [this] { return state_->empty; });
}

void Store::report_exit(Rank rank, const std::string& cause) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->commands.push_back({-1, rank, cause});
  }
  raise_event(state_->wake.get());
}

std::vector<Rank> Store::missing() const {
  const std::lock_guard lock(state_->mutex);
  std::vector<Rank> ranks;
  for (Rank rank = 0; rank < state_->options.ranks; ++rank) {
    if (!state_->come[rank]) ranks.push_back(rank);
  }
  return ranks;
}

}  // namespace shoal::bootstrap
