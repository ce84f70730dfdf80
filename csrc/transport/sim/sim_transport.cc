#include "transport/sim/sim_transport.h"

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <vector>

namespace shoal::transport::sim {
namespace {

struct ChannelKey {
  int from = 0;
  int to = 0;
  std::uint64_t match = 0;
  auto operator<=>(const ChannelKey&) const = default;
};

/// A message under way. Buffered: `copy` holds it and nobody waits. Otherwise `sender` waits and
/// `data` is its memory.
struct Message {
  std::int64_t due = 0;
  std::int64_t bytes = 0;
  std::uint16_t fingerprint = 0;
  Operation* sender = nullptr;
  const void* data = nullptr;
  std::vector<std::byte> copy;

  [[nodiscard]] const void* content() const noexcept { return sender ? data : copy.data(); }
};

/// On its way into a peer's memory. It cannot be called back.
struct Put {
  int from = 0, to = 0;
  std::int64_t due = 0;
  std::byte* target = nullptr;
  std::vector<std::byte> copy;
  Operation* sender = nullptr;  ///< nullptr: it has been cancelled
};

struct Receive {
  Operation* operation = nullptr;
  void* data = nullptr;
  std::int64_t capacity = 0;
};

struct Channel {
  std::deque<Message> messages;
  std::deque<Receive> receives;
  [[nodiscard]] bool quiet() const noexcept { return messages.empty() && receives.empty(); }
};

void start(Operation& operation) noexcept {
  operation.status = kOkStatus;
  operation.bytes = 0;
  operation.state = Operation::State::kActive;
}

void finish(Operation& operation, Status status = kOkStatus) noexcept {
  operation.status = status;
  operation.state = Operation::State::kDone;
}

void deliver(const Message& message, const Receive& receive, int from) noexcept {
  const std::int64_t bytes = std::min(message.bytes, receive.capacity);
  if (bytes > 0) std::memcpy(receive.data, message.content(), static_cast<std::size_t>(bytes));
  receive.operation->bytes = bytes;
  receive.operation->fingerprint = message.fingerprint;
  const bool fits = message.bytes <= receive.capacity;
  finish(*receive.operation, fits ? kOkStatus : Status{ErrorCode::kMismatch, from, message.bytes});
  if (message.sender != nullptr) finish(*message.sender);
}

}  // namespace

struct SimFabric::State {
  State(int n, const SimOptions& given)
      : options(given), random(given.seed), ranks(static_cast<std::size_t>(n)) {}

  struct Rank {
    std::int64_t sent = 0;
    std::int64_t died_at = kNever;
  };

  SimOptions options;
  std::mt19937_64 random;
  std::vector<Rank> ranks;
  std::int64_t now = 0;
  std::map<ChannelKey, Channel> channels;  // ordered: the order of delivery is part of the seed
  std::vector<Put> puts;

  Rank& rank(int r) noexcept { return ranks[static_cast<std::size_t>(r)]; }
  bool dead(int r) noexcept { return rank(r).died_at != kNever; }

  // Not std::uniform_int_distribution: its results differ between standard libraries.
  std::int64_t delay() noexcept {
    const auto span = static_cast<std::uint64_t>(options.max_delay - options.min_delay + 1);
    return options.min_delay + static_cast<std::int64_t>(random() % span);
  }

  bool refuses() noexcept {
    return options.refuse_one_in > 0 &&
           random() % static_cast<std::uint64_t>(options.refuse_one_in) == 0;
  }

  void kill(int r) noexcept {
    if (dead(r)) return;
    rank(r).died_at = now;
    for (auto& [key, channel] : channels) {  // what stood in its memory only is gone
      if (key.to == r) channel.receives.clear();
      if (key.from == r)
        std::erase_if(channel.messages, [](auto& m) { return m.sender != nullptr; });
    }
  }

  void count_sent(int r) noexcept {
    ++rank(r).sent;
    if (r == options.kill_rank && rank(r).sent >= options.kill_after) kill(r);
  }

  /// True when the death of `r` has become known.
  bool failure_due(int r) noexcept {
    return dead(r) && options.failure_delay != kNever &&
           now >= rank(r).died_at + options.failure_delay;
  }

  bool advance(const ChannelKey& key, Channel& channel) noexcept {
    bool moved = false;
    while (!channel.messages.empty() && !channel.receives.empty() &&
           channel.messages.front().due <= now && !dead(key.to)) {
      deliver(channel.messages.front(), channel.receives.front(), key.from);
      channel.messages.pop_front();
      channel.receives.pop_front();
      moved = true;
    }
    return fail_if_known(key, channel) || moved;
  }

  bool fail_if_known(const ChannelKey& key, Channel& channel) noexcept {
    bool moved = false;
    if (failure_due(key.from) && channel.messages.empty()) {
      for (Receive& receive : channel.receives) {
        finish(*receive.operation, {ErrorCode::kPeerFailed, key.from, 0});
      }
      moved |= !channel.receives.empty();
      channel.receives.clear();
    }
    if (failure_due(key.to)) {
      for (Message& message : channel.messages) {
        if (message.sender) finish(*message.sender, {ErrorCode::kPeerFailed, key.to, 0});
      }
      moved |= !channel.messages.empty();
      channel.messages.clear();
    }
    return moved;
  }

  /// Before messages are delivered: what a message says has been put is there.
  bool write_puts() noexcept {
    const auto is_over = [&](Put& put) {
      if (dead(put.to) ? !failure_due(put.to) : put.due > now) return false;
      if (!dead(put.to)) std::ranges::copy(put.copy, put.target);
      const Status failed{ErrorCode::kPeerFailed, put.to, 0};
      const bool is_awaited = put.sender != nullptr && !dead(put.from);
      if (is_awaited) finish(*put.sender, dead(put.to) ? failed : kOkStatus);
      return true;
    };
    return std::erase_if(puts, is_over) > 0;
  }

  bool tick() noexcept {
    ++now;
    bool moved = write_puts();
    for (auto it = channels.begin(); it != channels.end();) {
      moved |= advance(it->first, it->second);
      it = it->second.quiet() ? channels.erase(it) : std::next(it);
    }
    return moved;
  }

  void forget(Operation& operation) noexcept {
    for (auto& [key, channel] : channels) {
      std::erase_if(channel.messages, [&](auto& m) { return m.sender == &operation; });
      std::erase_if(channel.receives, [&](auto& r) { return r.operation == &operation; });
    }
    for (Put& put : puts) {
      if (put.sender == &operation) put.sender = nullptr;
    }
  }
};

SimFabric::SimFabric(int peers, const SimOptions& options)
    : state_(std::make_unique<State>(peers, options)) {}
SimFabric::~SimFabric() = default;

int SimFabric::peers() const noexcept { return static_cast<int>(state_->ranks.size()); }
std::int64_t SimFabric::now() const noexcept { return state_->now; }
bool SimFabric::dead(int rank) const noexcept { return state_->dead(rank); }
void SimFabric::kill(int rank) noexcept { state_->kill(rank); }

std::int64_t SimFabric::pending() const noexcept {
  std::size_t count = 0;
  for (const auto& [key, channel] : state_->channels) {
    count += channel.messages.size() + channel.receives.size();
  }
  return static_cast<std::int64_t>(count);
}

std::int64_t SimFabric::puts() const noexcept {
  return static_cast<std::int64_t>(state_->puts.size());
}

bool SimTransport::send(int peer, Match match, const void* data, std::int64_t bytes,
                        Operation& operation) noexcept {
  SimFabric::State& fabric = *fabric_.state_;
  if (fabric.refuses()) return false;
  start(operation);
  if (fabric.dead(self_)) return true;
  Channel& channel = fabric.channels[{self_, peer, match.key}];
  const std::int64_t order = channel.messages.empty() ? 0 : channel.messages.back().due;
  Message message{.due = std::max(order, fabric.now + fabric.delay()),
                  .bytes = bytes,
                  .fingerprint = match.fingerprint};
  if (bytes <= fabric.options.eager_bytes) {
    const auto* begin = static_cast<const std::byte*>(data);
    message.copy.assign(begin, begin + bytes);
    finish(operation);
  } else {
    message.sender = &operation;
    message.data = data;
  }
  channel.messages.push_back(std::move(message));
  fabric.count_sent(self_);
  return true;
}

bool SimTransport::receive(int peer, Match match, void* data, std::int64_t capacity,
                           Operation& operation) noexcept {
  SimFabric::State& fabric = *fabric_.state_;
  if (fabric.refuses()) return false;
  start(operation);
  if (fabric.dead(self_)) return true;
  fabric.channels[{peer, self_, match.key}].receives.push_back({&operation, data, capacity});
  return true;
}

Key SimTransport::key_to(const void* data, std::int64_t bytes) noexcept {
  Key key;
  key.address = reinterpret_cast<std::uintptr_t>(data);
  key.bytes = bytes > 0 ? 1 : 0;
  return key;
}

bool SimTransport::put(int peer, Match match, const Key& key, std::int64_t offset, const void* data,
                       std::int64_t bytes, Operation& operation) noexcept {
  SimFabric::State& fabric = *fabric_.state_;
  if (key.empty()) return send(peer, match, data, bytes, operation);
  if (fabric.refuses()) return false;
  start(operation);
  if (fabric.dead(self_)) return true;
  Channel& channel = fabric.channels[{self_, peer, match.key}];
  const std::int64_t order = channel.messages.empty() ? 0 : channel.messages.back().due;
  const std::int64_t written = fabric.now + fabric.delay();
  channel.messages.push_back({.due = std::max({order, written, fabric.now + fabric.delay()}),
                              .bytes = 0,
                              .fingerprint = match.fingerprint});
  const auto* begin = static_cast<const std::byte*>(data);
  fabric.puts.push_back({self_,
                         peer,
                         written,
                         reinterpret_cast<std::byte*>(key.address + offset),
                         {begin, begin + bytes},
                         &operation});
  fabric.count_sent(self_);
  return true;
}

/// The first messages of the channel are those of the receives that wait.
bool SimTransport::probe(int peer, Match match) noexcept {
  SimFabric::State& fabric = *fabric_.state_;
  const auto found = fabric.channels.find({peer, self_, match.key});
  if (found == fabric.channels.end() || fabric.dead(self_)) return false;
  const Channel& channel = found->second;
  const std::size_t claimed = channel.receives.size();
  return channel.messages.size() > claimed && channel.messages[claimed].due <= fabric.now;
}

bool SimTransport::progress() noexcept { return fabric_.state_->tick(); }

void SimTransport::cancel(Operation& operation) noexcept {
  if (operation.state != Operation::State::kActive) return;
  fabric_.state_->forget(operation);
  finish(operation, {ErrorCode::kAborted, -1, 0});
}

std::string SimTransport::describe() const {
  return "sim, seed " + std::to_string(fabric_.state_->options.seed);
}

}  // namespace shoal::transport::sim
