#include "transport/rail/link.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/clock.h"

namespace shoal::transport::rail {

namespace {

bool is_active(const Operation& operation) noexcept {
  return operation.state == Operation::State::kActive;
}

bool has_arrived(const Part& part) noexcept {
  return part.operation.done() && part.operation.status.ok() &&
         part.operation.bytes == part.range.bytes;
}

/// Takes the one of that message out; nullptr: there is none.
template <class Items, class Is>
typename Items::value_type take_if(Items& items, Is&& is) noexcept {
  const auto found = std::ranges::find_if(items, is);
  if (found == items.end()) return nullptr;
  auto item = std::move(*found);
  items.erase(found);
  return item;
}

}  // namespace

Link::Link(Shared& shared, int peer)
    : shared_(&shared),
      peer_(peer),
      stream_(shared.rails, peer, shared.packets, *this),
      split_(shared.nominal) {}

// --- the user's operations -----------------------------------------------------------------------

void Link::send(Match match, const void* data, std::int64_t bytes, Operation& operation) {
  operation = {.state = Operation::State::kActive, .request = this};
  if (failed()) return operation.end(failure());
  Header header{
      .kind = Kind::kMessage, .fingerprint = match.fingerprint, .key = match.key, .bytes = bytes};
  if (bytes <= kEagerBytes) {
    header.content_bytes = static_cast<std::uint32_t>(bytes);
    stream_.push(header, data, &operation);
  } else {
    header.kind = Kind::kAnnounce;
    header.message = next_message_++;
    auto outgoing = shared_->outgoing.take();
    *outgoing = {&operation, static_cast<const std::byte*>(data), bytes, header.message, false, {}};
    outgoing_.push_back(std::move(outgoing));
    stream_.push(header);
  }
  stream_.send();
}

void Link::receive(Match match, void* data, std::int64_t capacity, Operation& operation) {
  operation = {.state = Operation::State::kActive, .request = this};
  const Wanted wanted{&operation, match.key, static_cast<std::byte*>(data), capacity};
  if (const auto arrived = mailbox_.take_arrived(match.key)) {
    deliver(arrived->header, arrived->content.get(), wanted);
    stream_.send();  // the sender waits for the answer
    return;
  }
  if (stream_.is_deaf()) return operation.end(failure());
  mailbox_.want(wanted);
}

void Link::deliver(const Header& header, const std::byte* content, const Wanted& wanted) noexcept {
  Operation& operation = *wanted.operation;
  operation.fingerprint = header.fingerprint;
  operation.bytes = header.bytes;
  const bool fits = header.bytes <= wanted.capacity;
  if (header.kind == Kind::kMessage) {
    if (fits && header.bytes > 0) {
      std::memcpy(wanted.data, content, static_cast<std::size_t>(header.bytes));
    }
    return operation.end(fits ? kOkStatus : Status{ErrorCode::kMismatch, peer_, 0});
  }
  if (fits) return begin(header, wanted);
  stream_.push({.kind = Kind::kDone, .message = header.message});
  operation.end({ErrorCode::kMismatch, peer_, 0});
}

void Link::cancel(Operation& operation) noexcept {
  if (mailbox_.cancel(operation) || stream_.cancel(operation)) return;
  const auto is_it = [&](const auto& message) { return message->operation == &operation; };
  if (auto incoming = take_if(incoming_, is_it)) {
    cancel_parts(incoming->parts);
    stream_.push({.kind = Kind::kDone, .message = incoming->header.message});
    shared_->incoming.give(std::move(incoming));
  } else if (auto outgoing = take_if(outgoing_, is_it)) {
    cancel_parts(outgoing->parts);
    const std::uint64_t message = outgoing->message;
    if (!stream_.take_back(message)) {
      stream_.push({.kind = Kind::kWithdraw, .message = message});
    }
    shared_->outgoing.give(std::move(outgoing));
  }
  operation.end({ErrorCode::kAborted, -1, 0});
  stream_.send();  // who cancels may not come again
}

void Link::cancel_parts(Parts& parts) noexcept {
  for (auto& part : parts) {
    if (is_active(part->operation)) network(part->rail).cancel(part->operation);
    shared_->parts.give(std::move(part));
  }
  parts.clear();
}

// --- what the peer says --------------------------------------------------------------------------

bool Link::on_packet(const Header& header, const std::byte* content) noexcept {
  switch (header.kind) {
    case Kind::kAck:
      break;
    case Kind::kMessage:
    case Kind::kAnnounce:
      return on_message(header, content);
    case Kind::kPull:
      on_pull(header);
      break;
    case Kind::kDone:
      on_done(header.message);
      break;
    case Kind::kWithdraw:
      on_withdraw(header.message);
      break;
    case Kind::kDropped:
      on_dropped(header.rail);
      break;
  }
  return true;
}

bool Link::on_message(const Header& header, const std::byte* content) noexcept {
  const auto wanted = mailbox_.take_wanted(header.key);
  if (!wanted) return mailbox_.keep(header, content);
  deliver(header, content, *wanted);
  return true;
}

/// Of a message that has been cancelled, or over a rail that this side has dropped: the peer gets
/// to know both by what has been sent before.
void Link::on_pull(const Header& header) noexcept {
  if (!stream_.is_live(header.rail)) return;
  const auto found = std::ranges::find_if(
      outgoing_, [&](const auto& outgoing) { return outgoing->message == header.message; });
  if (found == outgoing_.end()) return;
  Outgoing& outgoing = **found;
  if (header.offset > outgoing.bytes || header.bytes > outgoing.bytes - header.offset) {
    return drop(header.rail, "it has changed a packet");
  }
  auto part = shared_->parts.take();
  *part = {header.rail, header.key, {header.offset, header.bytes}, 0, false, {}};
  start(outgoing, *part);
  outgoing.parts.push_back(std::move(part));
}

void Link::on_done(std::uint64_t message) noexcept {
  for (const auto& outgoing : outgoing_) {
    if (outgoing->message == message) outgoing->is_received = true;
  }
}

void Link::on_withdraw(std::uint64_t message) noexcept {
  if (mailbox_.withdraw(message)) return;
  auto incoming =
      take_if(incoming_, [message](const auto& other) { return other->header.message == message; });
  if (incoming == nullptr) return;
  cancel_parts(incoming->parts);
  incoming->operation->end(failure());
  shared_->incoming.give(std::move(incoming));
}

void Link::on_dropped(int rail) noexcept {
  drop(rail, "its other end found it dead");
  if (failed() || (named_ >> rail & 1) != 0) return;
  named_ |= 1U << rail;
  if (shared_->on_dropped) {
    shared_->on_dropped(peer_, rail, why_dropped_[static_cast<std::size_t>(rail)]);
  }
}

// --- large messages ------------------------------------------------------------------------------

void Link::begin(const Header& header, const Wanted& wanted) noexcept {
  if (failed()) return wanted.operation->end(failure());
  auto incoming = shared_->incoming.take();
  *incoming = {wanted.operation, wanted.data, header, {}};
  const Cut cut = split_.cut(header.bytes, stream_.live());
  for (int rail = 0; rail < static_cast<int>(shared_->rails.size()); ++rail) {
    const Range range = cut[static_cast<std::size_t>(rail)];
    if (range.bytes == 0) continue;
    auto part = shared_->parts.take();
    part->range = range;
    pull(*incoming, *part, rail);
    incoming->parts.push_back(std::move(part));
  }
  incoming_.push_back(std::move(incoming));
}

/// Also a second time, over another rail and by another key: what may still come by the first one
/// finds no receive.
void Link::pull(Incoming& incoming, Part& part, int rail) noexcept {
  part.rail = rail;
  part.key = next_part_++;
  part.begin_ns = now_ns();
  part.started = false;
  part.operation = {};
  start(incoming, part);
  stream_.push({.kind = Kind::kPull,
                .rail = static_cast<std::uint8_t>(rail),
                .key = part.key,
                .message = incoming.header.message,
                .offset = part.range.offset,
                .bytes = part.range.bytes});
}

void Link::start(Incoming& incoming, Part& part) noexcept {
  part.started =
      network(part.rail).receive(peer_, part_match(part.key), incoming.data + part.range.offset,
                                 part.range.bytes, part.operation);
}

void Link::start(Outgoing& outgoing, Part& part) noexcept {
  part.started =
      network(part.rail).send(peer_, part_match(part.key), outgoing.data + part.range.offset,
                              part.range.bytes, part.operation);
}

bool Link::move(Outgoing& outgoing) noexcept {
  for (const auto& part : outgoing.parts) {
    if (!part->started && stream_.is_live(part->rail)) start(outgoing, *part);
    const bool failed = part->operation.done() && !part->operation.status.ok();
    if (failed) drop(part->rail, "a part's send failed");
  }
  return std::erase_if(outgoing.parts, [this](auto& part) {
           const bool is_over =
               part->started ? !is_active(part->operation) : !stream_.is_live(part->rail);
           if (is_over) shared_->parts.give(std::move(part));
           return is_over;
         }) > 0;
}

bool Link::move(Incoming& incoming) noexcept {
  for (const auto& part : incoming.parts) {
    if (!part->started && stream_.is_live(part->rail)) start(incoming, *part);
    if (part->operation.done() && !has_arrived(*part)) drop(part->rail, "a part's receive failed");
  }
  return std::erase_if(incoming.parts, [this](auto& part) {
           if (!has_arrived(*part)) return false;
           split_.note(part->rail, part->range.bytes, now_ns() - part->begin_ns);
           shared_->parts.give(std::move(part));
           return true;
         }) > 0;
}

void Link::end_finished() noexcept {
  std::erase_if(outgoing_, [this](auto& outgoing) {
    if (!outgoing->is_received || !outgoing->parts.empty()) return false;
    outgoing->operation->end(kOkStatus);
    shared_->outgoing.give(std::move(outgoing));
    return true;
  });
  std::erase_if(incoming_, [this](auto& incoming) {
    if (!incoming->parts.empty()) return false;
    incoming->operation->end(kOkStatus);
    stream_.push({.kind = Kind::kDone, .message = incoming->header.message});
    shared_->incoming.give(std::move(incoming));
    return true;
  });
}

// --- rails that fail -----------------------------------------------------------------------------

/// What is under way on it goes on over the others. Takes nothing out of outgoing_ and incoming_.
void Link::drop(int rail, const std::string& why) noexcept {
  if (!stream_.is_live(rail)) return;
  why_dropped_[static_cast<std::size_t>(rail)] = why;
  stream_.drop(rail);
  stream_.push({.kind = Kind::kDropped, .rail = static_cast<std::uint8_t>(rail)});
  for (const auto& outgoing : outgoing_) {
    for (const auto& part : outgoing->parts) {
      if (part->rail == rail && is_active(part->operation)) network(rail).cancel(part->operation);
    }
  }
  if (stream_.live() != 0) move_parts_from(rail);
}

void Link::move_parts_from(int rail) noexcept {
  for (const auto& incoming : incoming_) {
    for (const auto& part : incoming->parts) {
      if (part->rail != rail) continue;
      if (is_active(part->operation)) network(rail).cancel(part->operation);
      if (!has_arrived(*part)) pull(*incoming, *part, split_.fastest(stream_.live()));
    }
  }
}

void Link::fail_what_cannot_go_on() noexcept {
  if (!failed()) return;
  stream_.fail(failure());
  std::erase_if(outgoing_, [this](auto& outgoing) {
    cancel_parts(outgoing->parts);
    outgoing->operation->end(failure());
    shared_->outgoing.give(std::move(outgoing));
    return true;
  });
  // What the peer had sent before may still come, by a network that will say when it does not.
  std::erase_if(incoming_, [this](auto& incoming) {
    const bool is_hopeless = std::ranges::any_of(incoming->parts, [this](const auto& part) {
      if (part->operation.done()) return !has_arrived(*part);
      return !part->started || !network(part->rail).peer_failed(peer_);
    });
    if (!is_hopeless) return false;
    cancel_parts(incoming->parts);
    incoming->operation->end(failure());
    shared_->incoming.give(std::move(incoming));
    return true;
  });
  if (stream_.is_deaf()) mailbox_.fail(failure());
}

bool Link::progress() noexcept {
  bool moved = stream_.receive();
  for (int rail = 0; rail < static_cast<int>(shared_->rails.size()); ++rail) {
    if (stream_.is_live(rail) && network(rail).peer_failed(peer_)) {
      drop(rail, kLostPeer);
    }
  }
  for (const auto& outgoing : outgoing_) moved = move(*outgoing) || moved;
  for (const auto& incoming : incoming_) moved = move(*incoming) || moved;
  end_finished();
  moved = stream_.send() || moved;
  fail_what_cannot_go_on();
  return moved;
}

bool Link::is_ready() const noexcept {
  const auto has_ready_part = [](const auto& message) {
    return std::ranges::any_of(
        message->parts, [](const auto& part) { return !part->started || part->operation.done(); });
  };
  return stream_.has_arrivals() || stream_.has_to_send() ||
         std::ranges::any_of(outgoing_, has_ready_part) ||
         std::ranges::any_of(incoming_, has_ready_part);
}

}  // namespace shoal::transport::rail
