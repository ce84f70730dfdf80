#include "nccl/net/listener.h"

#include <utility>

#include "core/clock.h"
#include "core/log.h"
#include "transport/tcp/socket.h"

namespace shoal::nccl {
namespace {

/// Greetings at a time; later ones wait in the kernel's queue.
constexpr std::size_t kMaxMeetings = 256;
/// Who has not proved by then that it belongs here never will.
constexpr std::int64_t kStrangerNs = 60'000 * kNsPerMs;

Registration find_in(const std::shared_ptr<MemoryTable>& memory) {
  return [memory](const void* data, std::int64_t bytes) { return memory->find(data, bytes); };
}

}  // namespace

Meeting Meeting::to(const Handle& handle, const Device& device) {
  auto memory = std::make_shared<MemoryTable>();
  return {true, device, memory, Greeting::to(handle, device, find_in(memory))};
}

Meeting Meeting::from(Fd socket, const Handle& handle, const Device& device) {
  auto memory = std::make_shared<MemoryTable>();
  return {false, device, memory,
          Greeting::from(std::move(socket), handle, device, find_in(memory))};
}

std::unique_ptr<Connection> Meeting::progress() {
  if (!greeting_.progress()) return nullptr;
  return std::make_unique<Connection>(sends_, device_, memory_, greeting_.take());
}

Listener::Listener(const Device& device)
    : device_(device),
      socket_(transport::tcp::listen_at(device.host)),
      handle_(make_handle(transport::tcp::local_endpoint(socket_.get()))) {}

void Listener::take_sockets() {
  while (meetings_.size() < kMaxMeetings) {
    Fd socket = transport::tcp::accept_one(socket_.get());
    if (!socket.valid()) return;
    meetings_.push_back(Meeting::from(std::move(socket), handle_, device_));
  }
}

std::unique_ptr<Connection> Listener::accept() {
  const std::lock_guard lock(mutex_);
  take_sockets();
  for (std::size_t i = 0; i < meetings_.size();) {
    Meeting& meeting = meetings_[i];
    const auto leave = [&] { meetings_.erase(meetings_.begin() + static_cast<std::ptrdiff_t>(i)); };
    try {
      if (auto connection = meeting.progress()) {
        leave();
        return connection;
      }
    } catch (const Error& error) {
      const bool stranger = meeting.is_stranger();
      leave();
      if (!stranger) throw;
      log(LogLevel::kWarn, "%s", error.what());
      continue;
    }
    if (meeting.is_stranger() && now_ns() - meeting.begin_ns() > kStrangerNs) {
      log(LogLevel::kWarn, "NET/shoal: who connected to %s has not said who it is in 60 s: refused",
          device_.name.c_str());
      leave();
      continue;
    }
    ++i;
  }
  return nullptr;
}

}  // namespace shoal::nccl
