#include "bootstrap/control.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>

#include "bootstrap/process_exit.h"
#include "bootstrap/roster.h"
#include "bootstrap/socket.h"
#include "core/log.h"
#include "shoal/error.h"

namespace shoal::bootstrap {
namespace {

constexpr std::int64_t kTickMs = 100;
constexpr std::int64_t kVerdictMs = 1000;    // for the store's word; it gives it after 300 ms
constexpr std::int64_t kExitStatusMs = 100;  // for the kernel's, which comes with the reaping
constexpr std::int64_t kSuspectPollMs = 5;
constexpr std::int64_t kGoodbyeLimitMs = 1000;
constexpr std::size_t kMaxOutbox = 4096;
constexpr std::size_t kMaxMessages = 4096;  // that came before listen()
constexpr std::size_t kMaxMessageBytes = std::size_t{64} << 10;

}  // namespace

Control::Control(Rank rank, std::optional<Link> store, std::string store_name, bool rank_0_is_store)
    : rank_(rank),
      store_name_(std::move(store_name)),
      rank_0_is_store_(rank_0_is_store),
      wake_(make_event()),
      lost_event_(make_event()),
      pidfds_(::epoll_create1(EPOLL_CLOEXEC)),
      store_(std::move(store)),
      thread_([this] { run(); }) {}

Control::~Control() {
  {
    const std::lock_guard lock(mutex_);
    close_ = true;
  }
  raise_event(wake_.get());
  thread_.join();
}

void Control::watch(std::vector<LocalProcess> processes) {
  {
    const std::lock_guard lock(mutex_);
    new_processes_ = std::move(processes);
  }
  raise_event(wake_.get());
}

void Control::listen(Listener listener) {
  {
    const std::lock_guard lock(mutex_);
    new_listener_ = std::move(listener);
  }
  raise_event(wake_.get());
}

void Control::publish(std::span<const Rank> to, const std::string& message) {
  if (message.size() > kMaxMessageBytes) {
    throw Error(ErrorCode::kInvalidArgument, "publish: " + std::to_string(message.size()) +
                                                 " bytes; the limit is " +
                                                 std::to_string(kMaxMessageBytes));
  }
  Writer writer;
  writer.number(static_cast<std::uint32_t>(to.size()));
  for (const Rank rank : to) writer.number(rank);
  writer.text(message);
  bool full = false;
  {
    const std::lock_guard lock(mutex_);
    full = outbox_.size() >= kMaxOutbox;
    if (!full) outbox_.push_back(writer.bytes());
  }
  if (full)
    log(LogLevel::kWarn, "rank %d: the queue to the store is full; a message is dropped", rank_);
  raise_event(wake_.get());
}

std::optional<Loss> Control::first_loss() const {
  const std::lock_guard lock(mutex_);
  return first_loss_;
}

void Control::run() {
  for (;;) {  // until the destructor asks, then kGoodbyeLimitMs at most
    take_commands();
    serve_store();
    if (finished()) return;
    if (!closing_until_) {  // who leaves does not judge others
      look_at_processes();
      look_at_suspects();
      deliver();
      tick();
    }
    wait();
  }
}

bool Control::finished() {
  return closing_until_ && (!store_ || store_->closed() || farewell_ || closing_until_->passed());
}

void Control::wait() {
  std::vector<pollfd> entries{{wake_.get(), POLLIN, 0}};
  if (store_ && !store_->closed()) entries.push_back({store_->fd(), store_->events(), 0});
  if (!closing_until_) entries.push_back({pidfds_.get(), POLLIN, 0});
  poll_until(entries, Deadline::at_ns(next_wake_ns()));
}

std::int64_t Control::next_wake_ns() const {
  if (closing_until_) return closing_until_->at_ns();
  std::int64_t next = listener_ ? next_tick_ns_ : now_ns() + 3'600'000 * kNsPerMs;
  if (!suspects_.empty()) next = std::min(next, now_ns() + kSuspectPollMs * kNsPerMs);
  return next;
}

void Control::take_commands() {
  clear_event(wake_.get());
  const std::lock_guard lock(mutex_);
  for (LocalProcess& process : new_processes_) {
    add(std::move(process));
  }
  new_processes_.clear();
  if (new_listener_) {
    listener_ = std::exchange(new_listener_, std::nullopt);
    next_tick_ns_ = now_ns();
  }
  for (const std::string& payload : outbox_) {
    if (store_) {
      store_->send(FrameType::kPublish, payload);
    } else {  // alone: the only one it can be for is this rank
      Reader reader(payload);
      const auto count = reader.number<std::uint32_t>();
      for (std::uint32_t i = 0; i < count; ++i) reader.number<Rank>();
      if (count > 0) messages_.emplace_back(rank_, reader.text());
    }
  }
  outbox_.clear();
  if (!close_ || closing_until_) return;
  closing_until_ = Deadline::after_ms(kGoodbyeLimitMs);
  if (store_) store_->send(FrameType::kGoodbye, {});
}

void Control::serve_store() {
  if (!store_ || store_->closed()) return;
  store_->pump();
  while (const std::optional<Frame> frame = store_->next()) handle(*frame);
  if (store_->closed() && !closing_until_) store_is_gone();
}

void Control::handle(const Frame& frame) {
  Reader reader(frame.payload);
  switch (frame.type) {
    case FrameType::kLost: {
      const Rank rank = reader.number<Rank>();
      const std::string cause = reader.text();
      // The store may know less than the kernel of this host is about to tell.
      const bool vague =
          cause.find("code") == std::string::npos && cause.find("signal") == std::string::npos;
      const bool local = processes_.contains(rank) || suspects_.contains(rank);
      if (vague && local) return suspect(rank, false, kExitStatusMs, cause);
      return lose(rank, cause);
    }
    case FrameType::kLeft: {
      const Rank rank = reader.number<Rank>();
      suspects_.erase(rank);
      processes_.erase(rank);
      settle_left(rank);
      return;
    }
    case FrameType::kMessage: {
      const Rank from = reader.number<Rank>();
      if (messages_.size() < kMaxMessages) messages_.emplace_back(from, reader.text());
      return;
    }
    case FrameType::kFarewell:
      farewell_ = true;
      return;
    case FrameType::kClosing:
      store_closing_ = true;
      return;
    default:
      return;
  }
}

void Control::store_is_gone() {
  if (store_closing_) {  // in order: whoever served it has left
    if (rank_0_is_store_) settle_left(0);
    return;
  }
  if (!rank_0_is_store_ || rank_ == 0) {
    log(LogLevel::kError, "rank %d: lost the store at %s: %s", rank_, store_name_.c_str(),
        store_->why().c_str());
    return lose(rank_, "lost its connection to the store at " + store_name_ +
                           " (the launcher or its host died)");
  }
  suspect(0, false, kCauseGraceMs, "lost its connection (the process or its host died)");
}

void Control::suspect(Rank rank, bool store_judges, std::int64_t limit_ms,
                      const std::string& vague) {
  if (settled_.contains(rank)) return;
  Suspect& suspect = suspects_[rank];
  if (const auto process = processes_.find(rank); process != processes_.end()) {
    ::epoll_ctl(pidfds_.get(), EPOLL_CTL_DEL, process->second.get(), nullptr);
    suspect.pidfd = std::move(process->second);
    processes_.erase(process);
  }
  suspect.judge_at_ns = now_ns() + limit_ms * kNsPerMs;
  suspect.vague = vague;
  suspect.store_judges = store_judges;
}

void Control::add(LocalProcess process) {
  epoll_event event{EPOLLIN, {.u32 = static_cast<std::uint32_t>(process.rank)}};
  ::epoll_ctl(pidfds_.get(), EPOLL_CTL_ADD, process.pidfd.get(), &event);
  processes_[process.rank] = std::move(process.pidfd);
}

void Control::look_at_processes() {
  std::array<epoll_event, 64> events;  // more than 64 at once: the next turn sees the rest
  const int count = ::epoll_wait(pidfds_.get(), events.data(), static_cast<int>(events.size()), 0);
  const bool store_judges = store_ && !store_->closed();
  for (int i = 0; i < count; ++i) {
    const Rank rank = static_cast<Rank>(events[i].data.u32);
    suspect(rank, store_judges, store_judges ? kVerdictMs : kExitStatusMs, "died");
    tell_store(rank, {});
  }
}

std::string Control::cause_of(const Suspect& suspect) const {
  if (!suspect.pidfd.valid()) return {};
  const auto status = exit_status(suspect.pidfd.get());
  return status ? describe_exit(*status) : std::string();
}

void Control::look_at_suspects() {
  for (auto entry = suspects_.begin(); entry != suspects_.end();) {
    const Rank rank = entry->first;
    Suspect& suspect = entry->second;
    std::string cause = cause_of(suspect);
    if (!cause.empty() && suspect.store_judges && !std::exchange(suspect.told, true)) {
      tell_store(rank, cause);
    }
    const bool known = !cause.empty() && !suspect.store_judges;
    if (!known && now_ns() < suspect.judge_at_ns) {
      ++entry;
      continue;
    }
    if (cause.empty()) cause = suspect.vague;
    entry = suspects_.erase(entry);
    // The store would have said so by now, had this one not left before it ended.
    if (cause == kExitedWell) {
      settle_left(rank);
    } else {
      lose(rank, cause);
    }
  }
}

void Control::tell_store(Rank rank, const std::string& cause) {
  if (store_) store_->send(FrameType::kEnded, Writer().number(rank).text(cause).bytes());
  if (store_) store_->flush();
}

void Control::lose(Rank rank, const std::string& cause) {
  suspects_.erase(rank);
  processes_.erase(rank);
  if (!settled_.emplace(rank, cause).second) return;  // once per rank
  undelivered_.push_back({rank, cause});
  {
    const std::lock_guard lock(mutex_);
    if (!first_loss_) first_loss_ = Loss{rank, cause};
  }
  raise_event(lost_event_.get());
}

void Control::settle_left(Rank rank) {
  if (settled_.emplace(rank, std::string()).second) undelivered_left_.push_back(rank);
}

void Control::deliver() {
  if (!listener_) return;
  for (const Loss& loss : std::exchange(undelivered_, {})) {
    if (listener_->failed) listener_->failed(loss.rank, loss.cause);
  }
  for (const Rank rank : std::exchange(undelivered_left_, {})) {
    if (listener_->left) listener_->left(rank);
  }
  for (const auto& [from, message] : std::exchange(messages_, {})) {
    if (listener_->message) listener_->message(from, message);
  }
}

void Control::tick() {
  const std::int64_t now = now_ns();
  if (!listener_ || now < next_tick_ns_) return;
  next_tick_ns_ = now + kTickMs * kNsPerMs;
  if (listener_->tick) listener_->tick();
}

}  // namespace shoal::bootstrap
