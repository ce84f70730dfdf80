#include "transport/shm/receiver.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/assert.h"
#include "memory/copy.h"

namespace shoal::transport::shm {
namespace {

/// A call on the transport does not block for longer than this takes (about 0.1 ms).
constexpr std::int64_t kCopyBytesPerTurn = 1 << 20;
/// Copied at once when matched: shorter than the way through another call.
constexpr std::int64_t kCopyAtOnceBytes = 64 << 10;
/// Messages announced and not received; beyond this they stay in their rings.
constexpr std::size_t kMaxUnexpected = 1 << 20;

std::uint64_t stream_key(const Message& message) noexcept {
  return static_cast<std::uint64_t>(message.place.ack) << 32 | message.generation;
}

}  // namespace

Receiver::Receiver(Node& node)
    : node_(node),
      header_(node.arena(), node.self()),
      positions_(static_cast<std::size_t>(node.ranks())),
      announced_(static_cast<std::size_t>(node.ranks() + 63) / 64) {}

void Receiver::receive(int peer, Match match, void* data, std::int64_t capacity,
                       Operation& operation) noexcept {
  Receive* receive = receives_.take();
  receive->peer = peer;
  receive->key = match.key;
  receive->operation = &operation;
  receive->data = static_cast<std::byte*>(data);
  receive->capacity = capacity;
  operation.state = Operation::State::kActive;
  operation.request = receive;
  if (Arrived* arrived = unexpected_.pop(peer, match.key)) {
    const Message message = arrived->message;
    arrived_.give(arrived);
    begin(receive, message);
    node_.ring(peer);
  } else {
    posted_.push(receive);
  }
}

bool Receiver::progress() noexcept {
  const bool arrived = node_.ranks() <= kScanRanks ? look_at_every() : look_at_announced();
  return copy_some() || arrived;
}

bool Receiver::look_at_every() noexcept {
  bool moved = false;
  for (int peer = 0; peer < node_.ranks(); ++peer) moved |= look_at(peer);
  return moved;
}

bool Receiver::look_at_announced() noexcept {
  bool moved = false;
  for (std::size_t i = 0; i < announced_.size(); ++i) {
    std::atomic<std::uint64_t>& word = header_.arrivals().words[i];
    // relaxed: a cheap look. acquire: pairs with the release in Sender::post()
    if (word.load(std::memory_order_relaxed) != 0) {
      announced_[i] |= word.exchange(0, std::memory_order_acquire);
    }
    for (std::uint64_t left = announced_[i]; left != 0; left &= left - 1) {
      const int bit = std::countr_zero(left);
      const bool any = look_at(static_cast<int>(i) * 64 + bit);
      if (!any) announced_[i] &= ~(std::uint64_t{1} << bit);
      moved |= any;
    }
  }
  return moved;
}

/// Drains at most one lap of a sender's ring.
bool Receiver::look_at(int peer) noexcept {
  Ring& ring = header_.ring_from(peer);
  std::uint64_t& position = positions_[static_cast<std::size_t>(peer)];
  const std::uint64_t begin = position;
  while (position - begin < kRingDepth && ring.readable(position) &&
         unexpected_.size() < kMaxUnexpected) {
    const Message message = ring.slot(position).message;
    ring.free(position++);
    deliver(peer, message);
  }
  if (position == begin) return false;
  node_.ring(peer);  // for the slots and for what was acknowledged
  return true;
}

void Receiver::deliver(int peer, const Message& message) noexcept {
  if (message.kind == Kind::kFragment) return take_fragment(peer, message);
  if (message.kind == Kind::kWithdrawn) return take_withdrawal(peer, message);
  if (Receive* receive = posted_.pop(peer, message.key)) return begin(receive, message);
  Arrived* arrived = arrived_.take();
  arrived->peer = peer;
  arrived->key = message.key;
  arrived->message = message;
  unexpected_.push(arrived);
}

/// The message of a receive is known.
void Receiver::begin(Receive* receive, const Message& message) noexcept {
  receive->message = message;
  receive->operation->bytes = message.bytes;
  receive->operation->fingerprint = message.fingerprint;
  const bool fits = message.bytes <= receive->capacity;
  if (!fits && message.kind != Kind::kInline) acknowledge(receive->peer, message, kAckDone);
  if (!fits) return finish(receive, {ErrorCode::kMismatch, receive->peer, message.bytes});
  switch (message.kind) {
    case Kind::kInline:
      if (message.bytes > 0) {
        std::memcpy(receive->data, message.payload, static_cast<std::size_t>(message.bytes));
      }
      return finish(receive, kOkStatus);
    case Kind::kBlock:
      receive->stage = Stage::kCopying;
      if (!copy_block(receive, kCopyAtOnceBytes)) copying_.push_back(receive);
      return;
    case Kind::kRendezvous:
      receive->stage = Stage::kStreaming;
      receive->key = stream_key(message);
      streaming_.push(receive);
      return acknowledge(receive->peer, message, kAckGo);
    case Kind::kFragment:
    case Kind::kWithdrawn:
      break;
  }
  SHOAL_ASSERT(false && "a fragment begins no message");
}

/// True if that was the last of it; the receive is then finished.
bool Receiver::copy_block(Receive* receive, std::int64_t most_bytes) noexcept {
  const Message& message = receive->message;
  const std::int64_t bytes = std::min(most_bytes, message.bytes - receive->copied);
  memory::copy_bytes(receive->data + receive->copied,
                     node_.arena().at(message.place.offset) + receive->copied, bytes);
  receive->copied += bytes;
  if (receive->copied < message.bytes) return false;
  acknowledge(receive->peer, message, kAckDone);
  finish(receive, kOkStatus);
  return true;
}

bool Receiver::copy_some() noexcept {
  const bool any = !copying_.empty();
  for (std::size_t i = 0; i < copying_.size();) {
    const int peer = copying_[i]->peer;
    if (!copy_block(copying_[i], kCopyBytesPerTurn)) {
      ++i;
      continue;
    }
    copying_[i] = copying_.back();
    copying_.pop_back();
    node_.ring(peer);
  }
  return any;
}

/// Fragments of a receive that was cancelled find no stream and are dropped unread: their sender
/// has been told kAckDone.
void Receiver::take_fragment(int peer, const Message& message) noexcept {
  Receive* receive = streaming_.find(peer, stream_key(message));
  if (receive == nullptr) return;
  SHOAL_ASSERT(receive->copied + message.bytes <= receive->message.bytes);
  memory::copy_bytes(receive->data + receive->copied, node_.arena().at(message.place.offset),
                     message.bytes);
  receive->copied += message.bytes;
  if (receive->copied < receive->message.bytes) {
    return acknowledge(peer, message, kAckGo + ++receive->fragments);
  }
  streaming_.remove(receive);
  acknowledge(peer, message, kAckDone);
  finish(receive, kOkStatus);
}

void Receiver::take_withdrawal(int peer, const Message& message) noexcept {
  Receive* receive = streaming_.pop(peer, stream_key(message));
  if (receive == nullptr) return;
  acknowledge(peer, message, kAckDone);
  finish(receive, {ErrorCode::kAborted, peer, 0});
}

void Receiver::acknowledge(int peer, const Message& message, std::uint32_t progress) noexcept {
  AckWord& word = Header(node_.arena(), peer).ack(static_cast<int>(message.place.ack));
  // release: pairs with the acquire in Sender::progress_of(); our reads of the sender's memory
  // come before
  word.store(std::uint64_t{message.generation} << 32 | progress, std::memory_order_release);
}

void Receiver::finish(Receive* receive, Status status) noexcept {
  Operation& operation = *receive->operation;
  operation.status = status;
  operation.request = nullptr;
  operation.state = Operation::State::kDone;
  receives_.give(receive);
}

void Receiver::cancel(Operation& operation) noexcept {
  auto* receive = static_cast<Receive*>(operation.request);
  const int peer = receive->peer;
  if (receive->stage == Stage::kPosted) posted_.remove(receive);
  if (receive->stage == Stage::kStreaming) streaming_.remove(receive);
  if (receive->stage == Stage::kCopying) std::erase(copying_, receive);
  if (receive->stage != Stage::kPosted) acknowledge(peer, receive->message, kAckDone);
  finish(receive, {ErrorCode::kAborted, peer, 0});
  node_.ring(peer);
}

}  // namespace shoal::transport::shm
