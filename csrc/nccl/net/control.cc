#include "nccl/net/control.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "bootstrap/socket.h"
#include "core/clock.h"
#include "shoal/error.h"

namespace shoal::nccl {
namespace {

constexpr char kQuestion = '?';
constexpr char kAnswer = '!';
constexpr int kEvents = 64;
constexpr int kNudgeSoonMs = 1;
constexpr int kNudgeMs = 100;

}  // namespace

Control::Control(Fd socket) noexcept : socket_(std::move(socket)) {
  bootstrap::bound_retransmission(socket_.get());
}

void Control::ask() noexcept {
  std::int64_t none = 0;
  asked_ns_.compare_exchange_strong(none, now_ns(), std::memory_order_relaxed);
  say(kQuestion);
}

std::int64_t Control::silent_ns(std::int64_t now) const noexcept {
  const std::int64_t asked = asked_ns_.load(std::memory_order_relaxed);
  return asked == 0 ? 0 : now - asked;
}

/// A full socket holds questions enough; an error is seen by who reads.
void Control::say(char word) noexcept {
  [[maybe_unused]] const ssize_t sent =
      ::send(socket_.get(), &word, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool Control::read() noexcept {
  std::array<char, 64> words;
  const ssize_t count = ::recv(socket_.get(), words.data(), words.size(), MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (count <= 0) return end(count == 0 || errno == ECONNRESET ? 0 : errno), false;
  const auto last = words.begin() + count;
  if (std::find(words.begin(), last, kQuestion) != last) say(kAnswer);
  if (std::find(words.begin(), last, kAnswer) != last) {
    asked_ns_.store(0, std::memory_order_relaxed);
  }
  return true;
}

void Control::end(int error) noexcept {
  error_.store(error, std::memory_order_relaxed);
  ended_ns_.store(now_ns(), std::memory_order_release);  // pairs with ended_ns()
}

// --- the thread ---------------------------------------------------------------------------------

namespace {
std::mutex watcher_mutex;  // that there is one thread
}

struct Watcher::Thread {
  Thread();
  ~Thread();
  void run() noexcept;
  void handle(std::uint64_t number) noexcept;
  int nudge_all() noexcept;
  void watch(int fd, std::uint64_t number);

  Fd epoll{::epoll_create1(EPOLL_CLOEXEC)};
  Fd wake = bootstrap::make_event();
  std::mutex mutex;  ///< of what follows; held while something is nudged or read
  std::map<std::uint64_t, std::shared_ptr<Control>> controls;
  std::vector<Nudged*> nudged;
  std::uint64_t next = 1;  ///< 0 is `wake`
  bool stop = false;
  std::thread thread;
};

Watcher::Thread::Thread() {
  if (!epoll.valid()) {
    throw Error(ErrorCode::kSystem, std::string("NET/shoal: epoll: ") + std::strerror(errno) +
                                        "; raise the limit of open files (ulimit -n)");
  }
  watch(wake.get(), 0);
  // Signals are the program's: none of its handlers shall run here.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread = std::thread([this] { run(); });
  } catch (const std::exception& error) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw Error(ErrorCode::kSystem, std::string("NET/shoal: no thread to watch connections by: ") +
                                        error.what() + "; raise the limit (ulimit -u, pids.max)");
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::pthread_setname_np(thread.native_handle(), "shoal-nccl");
}

Watcher::Thread::~Thread() {
  {
    const std::lock_guard lock(mutex);
    stop = true;
  }
  bootstrap::raise_event(wake.get());
  thread.join();
}

void Watcher::Thread::watch(int fd, std::uint64_t number) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = number;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0) return;
  throw Error(ErrorCode::kSystem, std::string("NET/shoal: epoll: ") + std::strerror(errno));
}

/// Sleeps until a connection says something, or somebody has to be nudged.
void Watcher::Thread::run() noexcept {
  std::array<epoll_event, kEvents> events;
  for (int wait_ms = -1;;) {  // until the last connection is removed
    const int count = ::epoll_wait(epoll.get(), events.data(), kEvents, wait_ms);
    const std::lock_guard lock(mutex);
    if (stop) return;
    for (int i = 0; i < count; ++i) handle(events[i].data.u64);
    wait_ms = nudge_all();
  }
}

void Watcher::Thread::handle(std::uint64_t number) noexcept {
  if (number == 0) return bootstrap::clear_event(wake.get());
  const auto found = controls.find(number);
  if (found == controls.end() || found->second->read()) return;
  ::epoll_ctl(epoll.get(), EPOLL_CTL_DEL, found->second->socket_.get(), nullptr);
}

/// How long to sleep.
int Watcher::Thread::nudge_all() noexcept {
  bool soon = false;
  for (Nudged* one : nudged) soon = one->nudge() || soon;
  return nudged.empty() ? -1 : soon ? kNudgeSoonMs : kNudgeMs;
}

/// Handlers run before the destructors of libraries.
Watcher::Watcher() {
  std::atexit([] { instance().stop(); });
}

void Watcher::stop() noexcept {
  std::unique_ptr<Thread> last;
  const std::lock_guard one(watcher_mutex);
  last = std::move(thread_);
}

Watcher& Watcher::instance() {
  static Watcher* const watcher = new Watcher;  // never destroyed: NCCL may close things at exit
  return *watcher;
}

void Watcher::add(const std::shared_ptr<Control>& control, Nudged* nudged) {
  const std::lock_guard one(watcher_mutex);
  if (!thread_) thread_ = std::make_unique<Thread>();
  const std::lock_guard lock(thread_->mutex);
  const std::uint64_t number = thread_->next++;
  thread_->watch(control->socket_.get(), number);
  thread_->controls.emplace(number, control);
  if (nudged == nullptr) return;
  thread_->nudged.push_back(nudged);
  bootstrap::raise_event(thread_->wake.get());
}

void Watcher::remove(const std::shared_ptr<Control>& control) noexcept {
  std::unique_ptr<Thread> last;
  const std::lock_guard one(watcher_mutex);
  if (!thread_) return;
  {
    const std::lock_guard lock(thread_->mutex);
    std::erase_if(thread_->controls, [&](const auto& entry) { return entry.second == control; });
    ::epoll_ctl(thread_->epoll.get(), EPOLL_CTL_DEL, control->socket_.get(), nullptr);
    if (thread_->controls.empty()) last = std::move(thread_);
  }
}

void Watcher::stop_nudging(Nudged& one) noexcept {
  const std::lock_guard lock_one(watcher_mutex);
  if (!thread_) return;
  const std::lock_guard lock(thread_->mutex);
  std::erase(thread_->nudged, &one);
}

void Watcher::wake() noexcept {
  const std::lock_guard one(watcher_mutex);
  if (thread_) bootstrap::raise_event(thread_->wake.get());
}

}  // namespace shoal::nccl
