#include "transport/rail/rail_network.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <span>
#include <utility>

#include "core/assert.h"
#include "core/clock.h"
#include "core/fd.h"
#include "core/log.h"
#include "transport/rail/link.h"

namespace shoal::transport::rail {
namespace {

constexpr std::int64_t kFlushMs = 1000;  // for what was sent just before the transport is closed
constexpr int kLooks = 8;                // at silent rails, in the time after which they are asked
constexpr double kBytesPerNsOfGbits = 1.0 / 8;

/// In an address: so many bytes of a rail's follow.
using Length = std::uint32_t;

/// What each rail's registrar has given.
using Handles = std::array<void*, kMaxRails>;

class Rails final : public RailNetwork {
 public:
  Rails(std::vector<Rail> rails, int peers, Timing timing);
  ~Rails() override;

  [[nodiscard]] const std::vector<std::byte>& address() const noexcept override { return address_; }
  void set_peer_address(int peer, std::span<const std::byte> address) override;
  [[nodiscard]] bool peer_failed(int peer) const noexcept override {
    const auto& link = links_[static_cast<std::size_t>(peer)];
    return link != nullptr && link->failed();
  }
  [[nodiscard]] double rate(int peer, int rail) const noexcept override {
    const auto& link = links_[static_cast<std::size_t>(peer)];
    return link == nullptr ? 0 : link->rate(rail);
  }

  bool send(int peer, Match match, const void* data, std::int64_t bytes,
            Operation& operation) noexcept override;
  bool receive(int peer, Match match, void* data, std::int64_t capacity,
               Operation& operation) noexcept override;
  bool probe(int peer, Match match) noexcept override;
  bool progress() noexcept override;
  void cancel(Operation& operation) noexcept override;
  int arm() noexcept override;
  [[nodiscard]] std::string describe() const override;

  Result<void*> register_memory(void* base, std::int64_t bytes) noexcept override;
  void deregister_memory(void* handle) noexcept override;

 private:
  Link& link_to(int peer);
  void name_dropped(int peer, int rail, const std::string& why);
  void name_restored(int peer, int rail);
  void look_at_rails() noexcept;
  void flush() noexcept;
  void watch(std::size_t rail, int fd) noexcept;

  // A network ends before what its operations write to: so the rails are the last member.
  Shared shared_;
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<Link*> active_;  ///< all that there are
  std::vector<std::byte> address_;
  Fd epoll_;
  std::array<int, kMaxRails> watched_;
  mutable std::mutex troubles_mutex_;                    // describe() is called by any thread
  std::map<std::pair<int, int>, std::string> troubles_;  ///< by peer and rail: the last
  std::int64_t look_again_ns_ = 0;
  std::vector<Rail> rails_;
};

Rails::Rails(std::vector<Rail> rails, int peers, Timing timing)
    : links_(static_cast<std::size_t>(peers)),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      rails_(std::move(rails)) {
  SHOAL_ASSERT(rails_.size() >= 2 && rails_.size() <= static_cast<std::size_t>(kMaxRails));
  watched_.fill(-1);
  for (const Rail& rail : rails_) {
    shared_.rails.push_back(rail.network.get());
    shared_.nominal.push_back(rail.gbits * kBytesPerNsOfGbits);
    const std::vector<std::byte>& address = rail.network->address();
    const auto length = static_cast<Length>(address.size());
    const auto* begin = reinterpret_cast<const std::byte*>(&length);
    address_.insert(address_.end(), begin, begin + sizeof length);
    address_.insert(address_.end(), address.begin(), address.end());
  }
  shared_.timing = std::move(timing);
  shared_.on_restored = [this](int peer, int rail) { name_restored(peer, rail); };
  shared_.on_dropped = [this](int peer, int rail, const std::string& why) {
    name_dropped(peer, rail, why);
  };
}

void Rails::set_peer_address(int peer, std::span<const std::byte> address) {
  for (const Rail& rail : rails_) {
    Length length = 0;
    SHOAL_ASSERT(address.size() >= sizeof length);
    std::memcpy(&length, address.data(), sizeof length);
    address = address.subspan(sizeof length);
    SHOAL_ASSERT(address.size() >= length);
    rail.network->set_peer_address(peer, address.first(length));
    address = address.subspan(length);
  }
  SHOAL_ASSERT(address.empty());
}

/// From the first operation on this side listens to the peer, on all rails.
Link& Rails::link_to(int peer) {
  auto& link = links_[static_cast<std::size_t>(peer)];
  if (link == nullptr) {
    link = std::make_unique<Link>(shared_, peer);
    active_.push_back(link.get());
    link->progress();
  }
  return *link;
}

bool Rails::send(int peer, Match match, const void* data, std::int64_t bytes,
                 Operation& operation) noexcept {
  link_to(peer).send(match, data, bytes, operation);
  return true;
}

bool Rails::receive(int peer, Match match, void* data, std::int64_t capacity,
                    Operation& operation) noexcept {
  link_to(peer).receive(match, data, capacity, operation);
  return true;
}

bool Rails::probe(int peer, Match match) noexcept { return link_to(peer).probe(match.key); }

bool Rails::progress() noexcept {
  bool moved = false;
  for (const Rail& rail : rails_) moved = rail.network->progress() || moved;
  for (Link* link : active_) moved = link->progress() || moved;
  look_at_rails();
  return moved;
}

void Rails::look_at_rails() noexcept {
  const std::int64_t now = shared_.timing.now();
  if (now < look_again_ns_) return;
  look_again_ns_ = now + shared_.timing.stall_ns / kLooks;
  for (Link* link : active_) link->look_at_rails(now);
}

void Rails::cancel(Operation& operation) noexcept {
  if (operation.state != Operation::State::kActive) return;
  static_cast<Link*>(operation.request)->cancel(operation);
}

// --- sleeping ------------------------------------------------------------------------------------

/// A rail that has nothing to wait for, such as one that has died altogether, wakes nobody.
int Rails::arm() noexcept {
  bool waits = false;
  for (std::size_t r = 0; r < rails_.size(); ++r) {
    const int fd = rails_[r].network->arm();
    if (fd == -1) return -1;
    watch(r, fd);
    waits = waits || fd >= 0;
  }
  // To arm a rail may have moved something.
  if (std::ranges::any_of(active_, [](const Link* link) { return link->is_ready(); })) return -1;
  return waits ? epoll_.get() : -2;
}

void Rails::watch(std::size_t rail, int fd) noexcept {
  const int before = std::exchange(watched_[rail], fd);
  if (before == fd) return;
  if (before >= 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, before, nullptr);
  epoll_event event{.events = EPOLLIN, .data = {}};
  if (fd >= 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
}

// --- reports -------------------------------------------------------------------------------------

void Rails::name_dropped(int peer, int rail, const std::string& why) {
  const std::string text = "rail " + rails_[static_cast<std::size_t>(rail)].name + " to rank " +
                           std::to_string(peer) + " dropped: " + why;
  log(LogLevel::kWarn, "%s; the job goes on over the others", text.c_str());
  const std::lock_guard lock(troubles_mutex_);
  troubles_[{peer, rail}] = text;
}

void Rails::name_restored(int peer, int rail) {
  const std::lock_guard lock(troubles_mutex_);
  std::string& text = troubles_[{peer, rail}];
  text += "; it is used again";
  log(LogLevel::kWarn, "%s", text.c_str());
}

std::string Rails::describe() const {
  std::string text = std::to_string(rails_.size()) + " rails:";
  for (const Rail& rail : rails_) {
    text += " " + rail.name + " (" + rail.network->describe() + ")";
  }
  const std::lock_guard lock(troubles_mutex_);
  for (const auto& [where, trouble] : troubles_) text += "; " + trouble;
  return text;
}

// --- memory --------------------------------------------------------------------------------------

/// All or none: a part of a message goes over any rail.
Result<void*> Rails::register_memory(void* base, std::int64_t bytes) noexcept {
  auto handles = std::make_unique<Handles>();
  for (std::size_t r = 0; r < rails_.size(); ++r) {
    if (rails_[r].registrar == nullptr) continue;
    const Result<void*> handle = rails_[r].registrar->register_memory(base, bytes);
    if (!handle.ok()) {
      deregister_memory(handles.release());
      return handle.status();
    }
    (*handles)[r] = handle.value();
  }
  return static_cast<void*>(handles.release());
}

void Rails::deregister_memory(void* handle) noexcept {
  const std::unique_ptr<Handles> handles(static_cast<Handles*>(handle));
  for (std::size_t r = 0; r < rails_.size(); ++r) {
    if ((*handles)[r] != nullptr) rails_[r].registrar->deregister_memory((*handles)[r]);
  }
}

// --- closing -------------------------------------------------------------------------------------

/// Lets what has been sent leave. Bounded: a peer that does not read does not hold us.
void Rails::flush() noexcept {
  const Deadline deadline = Deadline::after_ms(kFlushMs);
  const auto is_flushed = [](const Link* link) { return link->is_flushed(); };
  while (!std::ranges::all_of(active_, is_flushed) && !deadline.passed()) progress();
}

Rails::~Rails() { flush(); }

}  // namespace

void* RailNetwork::handle_of(void* registration, int rail) noexcept {
  if (registration == nullptr) return nullptr;
  return (*static_cast<const Handles*>(registration))[static_cast<std::size_t>(rail)];
}

std::unique_ptr<RailNetwork> make_rail_network(std::vector<Rail> rails, int peers, Timing timing) {
  return std::make_unique<Rails>(std::move(rails), peers, std::move(timing));
}

}  // namespace shoal::transport::rail
