#include "nccl/net/connection.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include "core/clock.h"
#include "core/log.h"
#include "nccl/net/report.h"

namespace shoal::nccl {
namespace {

/// NCCL has at most so many under way: 32 of each of the 8 that may share a connection.
constexpr int kMaxUnderWay = abi::kMaxRequests * abi::kMaxReceives;
constexpr std::int64_t kDefaultTimeoutMs = 30 * 60 * 1000;
/// Who waits so long asks whether the other side is there, as often.
constexpr std::int64_t kAskNs = 5'000 * kNsPerMs;
constexpr std::int64_t kSilentNs = 10'000 * kNsPerMs;
/// After the other side has closed, what it had sent may still come; when nothing has moved for so
/// long, it will not. TCP's own connection ends by itself, unless there is none yet.
constexpr std::int64_t kQuietUcxNs = 1'000 * kNsPerMs;
constexpr std::int64_t kQuietTcpNs = 5'000 * kNsPerMs;
/// What was sent last is seen to every millisecond for so long, then less often.
constexpr std::int64_t kNudgeNs = 1'000 * kNsPerMs;

/// A tag has 32 bits, a match 24 for it: the others go where a job's communicator would be. This
/// network has one connection, so nothing else does.
transport::Match match_of(int tag) noexcept {
  const auto bits = static_cast<std::uint32_t>(tag);
  return {transport::p2p_key(bits >> 24, bits & transport::kMaxTag), 0};
}

std::string explain(const Status& status) {
  const std::string detail =
      status.detail > 0 ? std::string(" (") + std::strerror(static_cast<int>(status.detail)) + ")"
                        : "";
  switch (status.code) {
    case ErrorCode::kPeerFailed:
      return "that process has ended, or the connection to it is lost" + detail +
             "; look at that rank's log";
    case ErrorCode::kMismatch:
      return "the message is longer than the receive: the ranks call different things";
    case ErrorCode::kOutOfMemory:
      return "out of memory" + detail;
    default:
      return std::string(name_of(status.code)) + detail;
  }
}

std::string seconds(std::int64_t ns) { return std::to_string(ns / 1'000 / kNsPerMs) + " s"; }

}  // namespace

std::int64_t timeout_ms_from_environment() {
  const char* text = std::getenv("SHOAL_NCCL_TIMEOUT_MS");
  if (text == nullptr || *text == '\0') return kDefaultTimeoutMs;
  std::int64_t ms = 0;
  const char* const end = text + std::strlen(text);
  const auto read = std::from_chars(text, end, ms);
  if (read.ec == std::errc() && read.ptr == end && ms > 0) return ms;
  throw Error(ErrorCode::kInvalidArgument, std::string("NET/shoal: SHOAL_NCCL_TIMEOUT_MS=") + text +
                                               " is not a positive number of milliseconds");
}

Connection::Connection(bool sends, std::string device, std::shared_ptr<MemoryTable> memory,
                       Link link)
    : sends_(sends),
      tcp_(link.tcp),
      device_(std::move(device)),
      peer_(std::move(link.peer)),
      timeout_ns_(timeout_ms_from_environment() * kNsPerMs),
      memory_(std::move(memory)),
      network_(std::move(link.network)),
      registrar_(link.registrar),
      control_(std::make_shared<Control>(std::move(link.control))) {
  Watcher::instance().add(control_, tcp_ ? nullptr : this);
  log(LogLevel::kInfo, "NET/shoal: %s %s by %s over %s", sends_ ? "sends to" : "receives from",
      peer_.c_str(), device_.c_str(), network_->describe().c_str());
}

Connection::~Connection() {
  Watcher::instance().stop_nudging(*this);
  {
    const std::lock_guard lock(mutex_);
    end_all();
    memory_->clear([&](RegisteredMemory& memory) {
      if (memory.handle != nullptr) registrar_->deregister_memory(memory.handle);
    });
    network_.reset();  // what has been sent leaves first
  }
  Watcher::instance().remove(control_);
}

std::string Connection::who() const {
  return peer_ + " by " + device_ + " over " + network_->describe();
}

// --- requests -----------------------------------------------------------------------------------

Request* Connection::take_request(int count) noexcept {
  if (unposted_ != nullptr || under_way_ >= kMaxUnderWay) return nullptr;
  if (free_ == nullptr) free_ = &requests_.emplace_back();
  Request* const request = std::exchange(free_, free_->next_free);
  ++under_way_;
  request->owner = this;
  request->active = true;
  request->count = count;
  request->posted = 0;
  request->begin_ns = now_ns();
  return request;
}

void Connection::give_back(Request& request) noexcept {
  if (unposted_ == &request) unposted_ = nullptr;
  request.active = false;
  request.next_free = std::exchange(free_, &request);
  --under_way_;
}

abi::Result Connection::send(void* data, std::size_t bytes, int tag, void** out) noexcept {
  *out = nullptr;
  const std::lock_guard lock(mutex_);
  if (broken_ != abi::kSuccess) return broken_;
  Request* const request = take_request(1);
  if (request == nullptr) return abi::kSuccess;
  Request::Part& part = request->parts[0];
  part.data = static_cast<std::byte*>(data);
  part.bytes = static_cast<std::int64_t>(bytes);
  part.tag = tag;
  part.operation = {};
  post(*request);
  *out = request;
  return abi::kSuccess;
}

abi::Result Connection::receive(int count, void* const* data, const std::size_t* bytes,
                                const int* tags, void** out) noexcept {
  *out = nullptr;
  const std::lock_guard lock(mutex_);
  if (broken_ != abi::kSuccess) return broken_;
  Request* const request = take_request(count);
  if (request == nullptr) return abi::kSuccess;
  for (int i = 0; i < count; ++i) {
    Request::Part& part = request->parts[static_cast<std::size_t>(i)];
    part.data = static_cast<std::byte*>(data[i]);
    part.bytes = static_cast<std::int64_t>(bytes[i]);
    part.tag = tags[i];
    part.operation = {};
  }
  post(*request);
  *out = request;
  return abi::kSuccess;
}

/// In order: while a part waits for room, no later request is taken.
void Connection::post(Request& request) noexcept {
  const int peer = sends_ ? kReceiver : kSender;
  for (; request.posted < request.count; ++request.posted) {
    Request::Part& part = request.parts[static_cast<std::size_t>(request.posted)];
    const bool taken =
        sends_ ? network_->send(peer, match_of(part.tag), part.data, part.bytes, part.operation)
               : network_->receive(peer, match_of(part.tag), part.data, part.bytes, part.operation);
    if (!taken) {
      unposted_ = &request;
      return;
    }
  }
  if (unposted_ == &request) unposted_ = nullptr;
}

bool Connection::is_done(const Request& request) noexcept {
  if (request.posted < request.count) return false;
  return std::all_of(request.parts.begin(), request.parts.begin() + request.count,
                     [](const Request::Part& part) { return part.operation.done(); });
}

const Request::Part* Connection::failed_part(const Request& request) noexcept {
  for (int i = 0; i < request.posted; ++i) {
    const Request::Part& part = request.parts[static_cast<std::size_t>(i)];
    if (part.operation.done() && !part.operation.status.ok()) return &part;
  }
  return nullptr;
}

abi::Result Connection::test(Request& request, int* done, int* bytes) noexcept {
  *done = 0;
  Connection& self = *request.owner;
  const std::lock_guard lock(self.mutex_);
  if (!request.active) {
    log(LogLevel::kWarn, "NET/shoal: test of a request that is not under way (with %s)",
        self.peer_.c_str());
    return abi::kInternalError;
  }
  return self.test_locked(request, done, bytes);
}

abi::Result Connection::test_locked(Request& request, int* done, int* bytes) noexcept {
  bool moved = false;
  if (!is_done(request) && broken_ == abi::kSuccess) {
    moved = network_->progress();
    if (unposted_ != nullptr) post(*unposted_);
  }
  const Request::Part* const failed = failed_part(request);
  if (is_done(request) && failed == nullptr) {
    for (int i = 0; i < request.count && bytes != nullptr; ++i) {
      const Request::Part& part = request.parts[static_cast<std::size_t>(i)];
      bytes[i] = static_cast<int>(sends_ ? part.bytes : part.operation.bytes);
    }
    *done = 1;
    give_back(request);
    needs_nudges();
    return abi::kSuccess;
  }
  if (broken_ != abi::kSuccess) return broken_;
  return failed != nullptr ? fail(request, *failed) : look_after(request, moved);
}

// --- failures -----------------------------------------------------------------------------------

abi::Result Connection::look_after(const Request& request, bool moved) noexcept {
  const std::int64_t now = now_ns();
  if (moved) moved_ns_ = now;
  const std::int64_t ended = control_->ended_ns();
  if (ended != 0) {
    const std::int64_t quiet = now - std::max({ended, moved_ns_, request.begin_ns});
    if (quiet < (tcp_ ? kQuietTcpNs : kQuietUcxNs)) return abi::kSuccess;
    const int error = control_->error();
    return fail(request, 0, ErrorCode::kPeerFailed,
                error != 0 ? std::string("its host does not answer: ") + std::strerror(error)
                           : "that process has ended or closed the connection; look at its log");
  }
  const std::int64_t waiting = now - request.begin_ns;
  if (waiting > timeout_ns_) {
    const std::int64_t silent = control_->silent_ns(now);
    return fail(
        request, 0, ErrorCode::kTimeout,
        "not done after " + std::to_string(waiting / kNsPerMs) + " ms (SHOAL_NCCL_TIMEOUT_MS); " +
            (silent > 0
                 ? "that process has not answered for " + seconds(silent) + ": is it stopped?"
                 : "that process is alive: what does it wait for?"));
  }
  ask(now - std::max(request.begin_ns, moved_ns_), now);
  return abi::kSuccess;
}

/// At most half the deadline passes before the first question, so that its error can say more.
void Connection::ask(std::int64_t waiting_ns, std::int64_t now) noexcept {
  const std::int64_t after = std::min(kAskNs, timeout_ns_ / 2);
  if (waiting_ns > after && now - asked_ns_ > after) {
    asked_ns_ = now;
    control_->ask();
  }
  if (control_->silent_ns(now) > kSilentNs && !std::exchange(said_silent_, true)) {
    log(LogLevel::kWarn,
        "NET/shoal: waiting for %s, which has not answered for %d s: is that process stopped, or "
        "its host overloaded?",
        peer_.c_str(), static_cast<int>(control_->silent_ns(now) / 1'000 / kNsPerMs));
  }
}

abi::Result Connection::fail(const Request& request, const Request::Part& part) noexcept {
  const auto index = static_cast<int>(&part - request.parts.data());
  return fail(request, index, part.operation.status.code, explain(part.operation.status));
}

abi::Result Connection::fail(const Request& request, int index, ErrorCode code,
                             const std::string& why) {
  const Request::Part& part = request.parts[static_cast<std::size_t>(index)];
  std::string group;
  if (request.count > 1) {
    group = std::to_string(index + 1) + " of " + std::to_string(request.count) + " ";
  }
  log(LogLevel::kWarn, "NET/shoal: %s %sof %lld bytes, tag %d, %s %s: %s",
      sends_ ? "send" : "receive", group.c_str(), static_cast<long long>(part.bytes), part.tag,
      sends_ ? "to" : "from", who().c_str(), why.c_str());
  broken_ = result_of(code);
  end_all();
  return broken_;
}

/// When it returns, no memory of a request is read or written any more.
void Connection::end_all() noexcept {
  for (Request& request : requests_) {
    if (!request.active) continue;
    for (int i = 0; i < request.posted; ++i) {
      network_->cancel(request.parts[static_cast<std::size_t>(i)].operation);
    }
  }
}

// --- between NCCL's calls -----------------------------------------------------------------------

/// TCP's messages are the kernel's when they are done.
void Connection::needs_nudges() noexcept {
  if (tcp_) return;
  const std::int64_t now = now_ns();
  const bool nudged = now < nudge_until_ns_;
  nudge_until_ns_ = now + kNudgeNs;
  if (!nudged) Watcher::instance().wake();
}

bool Connection::nudge() noexcept {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return true;  // NCCL is at it
  if (broken_ != abi::kSuccess) return false;
  network_->progress();
  return now_ns() < nudge_until_ns_;
}

// --- memory -------------------------------------------------------------------------------------

RegisteredMemory* Connection::register_memory(void* data, std::size_t bytes, int type) {
  if (type != abi::kPointerHost) {
    throw Error(ErrorCode::kInvalidArgument,
                "NET/shoal: device memory cannot be registered with " + who() +
                    ", which moves host memory only; the plug-in says so in its properties "
                    "(ptrSupport), by which NCCL goes through host memory");
  }
  const std::lock_guard lock(mutex_);
  RegisteredMemory memory{reinterpret_cast<std::uintptr_t>(data), bytes, nullptr};
  if (registrar_ != nullptr && bytes > 0) {
    // Refused: the network has said why, and copies.
    auto registered = registrar_->register_memory(data, static_cast<std::int64_t>(bytes));
    if (registered.ok()) memory.handle = registered.value();
  }
  return memory_->add(memory);
}

void Connection::deregister_memory(RegisteredMemory* memory) {
  const std::lock_guard lock(mutex_);
  void* const handle = memory->handle;
  if (!memory_->remove(memory)) {
    throw Error(ErrorCode::kInvalidArgument,
                "NET/shoal: deregMr: memory that was not registered with " + who());
  }
  if (handle != nullptr) registrar_->deregister_memory(handle);
}

}  // namespace shoal::nccl
