#include "transport/rail/link.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace shoal::transport::rail {

namespace {

constexpr double kUnmeasuredPace = 20;  // ns a byte: 50 MB/s, slower than any adapter

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
      split_(shared.nominal) {
  for (Network* network : shared.rails) probes_.emplace_back(*network, peer);
  pace_.fill(kUnmeasuredPace);
  patience_ns_.fill(shared.timing.stall_ns);
}

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
    case Kind::kRestored:
      on_restored(header.rail);
      break;
    case Kind::kAck:
    case Kind::kQuestion:
    case Kind::kAnswer:
      break;  // not numbered: the stream's own, and on_probe()
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
  *part = {header.rail,           header.key, {header.offset, header.bytes},
           shared_->timing.now(), false,      {}};
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
  if (failed() || both_have_dropped(rail)) return;
  named_ |= 1U << rail;
  tried_ns_[static_cast<std::size_t>(rail)] = shared_->timing.now();
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
  part.begin_ns = shared_->timing.now();
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
           if (!is_over) return false;
           note_pace(*part);
           shared_->parts.give(std::move(part));
           return true;
         }) > 0;
}

bool Link::move(Incoming& incoming) noexcept {
  for (const auto& part : incoming.parts) {
    if (!part->started && stream_.is_live(part->rail)) start(incoming, *part);
    if (part->operation.done() && !has_arrived(*part)) drop(part->rail, "a part's receive failed");
  }
  return std::erase_if(incoming.parts, [this](auto& part) {
           if (!has_arrived(*part)) return false;
           note_pace(*part);
           split_.note(part->rail, part->range.bytes, shared_->timing.now() - part->begin_ns);
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
      if (part->rail != rail) continue;
      if (is_active(part->operation)) network(rail).cancel(part->operation);
      part->started = true;  // if not, it is over, and would begin when the rail works again
    }
  }
  if (stream_.live() != 0) move_parts_from(rail);
}

/// Also those that have just arrived, it says: what a network does with a receive as it fails is
/// not to be relied on, and the sender still has all of it.
void Link::move_parts_from(int rail) noexcept {
  for (const auto& incoming : incoming_) {
    for (const auto& part : incoming->parts) {
      if (part->rail != rail) continue;
      if (is_active(part->operation)) network(rail).cancel(part->operation);
      pull(*incoming, *part, split_.fastest(stream_.live()));
    }
  }
}

// --- rails that are silent -----------------------------------------------------------------------

/// Whether the oldest thing of any kind has been waited for so long that a rail may have lost it
/// without a word. A packet that waits for its acknowledgement is one: the peer owes none to a few
/// packets, but the answer to a question carries it.
bool Link::waits_long(std::int64_t now_ns) noexcept {
  const std::optional<std::uint64_t> nothing;
  standstills_[0].see(outgoing_.empty() ? nothing : outgoing_.front()->message, now_ns);
  standstills_[1].see(incoming_.empty() ? nothing : incoming_.front()->header.message, now_ns);
  standstills_[2].see(stream_.waits_for_acknowledgement() ? stream_.acknowledged() : nothing,
                      now_ns);
  standstills_[3].see(mailbox_.oldest_wanted(), now_ns);
  return std::ranges::any_of(standstills_, [&](const Standstill& one) {
    return one.lasts(shared_->timing.stall_ns, now_ns);
  });
}

bool Link::is_suspected(int rail, std::int64_t now_ns) const noexcept {
  const Probe& probe = probes_[static_cast<std::size_t>(rail)];
  return stream_.is_live(rail) && probe.is_open() &&
         now_ns - probe.asked_ns() >= shared_->timing.stall_ns / 4;
}

/// A question may stand behind the parts that the rail carries; but not for ever.
std::int64_t Link::allowance_ns(int rail) const noexcept {
  constexpr double kGenerous = 4;
  constexpr std::int64_t kMostStalls = 15;
  double bytes = 0;
  const auto add = [&](const auto& messages) {
    for (const auto& message : messages) {
      for (const auto& part : message->parts) {
        if (part->rail == rail) bytes += static_cast<double>(part->range.bytes);
      }
    }
  };
  add(outgoing_);
  add(incoming_);
  const double ns = kGenerous * bytes * pace_[static_cast<std::size_t>(rail)];
  const std::int64_t most = kMostStalls * shared_->timing.stall_ns;
  return ns < static_cast<double>(most) ? static_cast<std::int64_t>(ns) : most;
}

/// A question that stood behind the part is as good as asked now.
void Link::note_pace(const Part& part) noexcept {
  if (!part.operation.done() || !part.operation.status.ok()) return;
  const std::int64_t now = shared_->timing.now();
  probe_of(part.rail).postpone(now);
  if (part.range.bytes < kMinPartBytes) return;
  pace_[static_cast<std::size_t>(part.rail)] =
      static_cast<double>(now - part.begin_ns) / static_cast<double>(part.range.bytes);
}

/// It owes an answer, and the peer, asked over another rail, has answered not long ago: so it is
/// not the peer that is silent.
bool Link::has_stalled(int rail, std::int64_t now_ns) const noexcept {
  const std::int64_t stall_ns = shared_->timing.stall_ns;
  const Probe& probe = probes_[static_cast<std::size_t>(rail)];
  if (!probe.is_open() || now_ns - probe.asked_ns() < stall_ns + allowance_ns(rail)) return false;
  for (int other = 0; other < static_cast<int>(probes_.size()); ++other) {
    const Probe& witness = probes_[static_cast<std::size_t>(other)];
    if (other != rail && stream_.is_live(other) && witness.answered_ns() > probe.asked_ns() &&
        now_ns - witness.answered_ns() <= stall_ns / 2) {
      return true;
    }
  }
  return false;
}

void Link::look_at_rails(std::int64_t now_ns) noexcept {
  if (failed()) return;
  const std::int64_t stall_ns = shared_->timing.stall_ns;
  const bool was_away = now_ns - std::exchange(looked_ns_, now_ns) > stall_ns / 2;
  const int rails = static_cast<int>(probes_.size());
  bool suspects = false;
  for (int rail = 0; rail < rails; ++rail) {
    if (was_away) probe_of(rail).postpone(now_ns);  // answers may have come and not been taken
    suspects = suspects || is_suspected(rail, now_ns);
  }
  const bool late = waits_long(now_ns);
  for (int rail = 0; rail < rails; ++rail) {
    if (!stream_.is_live(rail)) {
      try_again(rail, now_ns);
    } else if (has_stalled(rail, now_ns)) {
      drop(rail, "it has stalled: over the others the peer answers");
    } else if (late || suspects) {
      const std::int64_t apart_ns = suspects ? stall_ns / 4 : stall_ns;
      if (now_ns - probe_of(rail).answered_ns() >= apart_ns) probe_of(rail).ask(now_ns);
    }
  }
}

/// Only when both sides have given it up: until then the peer may not be listening. A network that
/// has given the peer up itself does not take it back.
void Link::try_again(int rail, std::int64_t now_ns) noexcept {
  const auto r = static_cast<std::size_t>(rail);
  if (!both_have_dropped(rail) || network(rail).peer_failed(peer_)) return;
  if (now_ns - tried_ns_[r] < patience_ns_[r]) return;
  tried_ns_[r] = now_ns;
  stream_.listen_again(rail);
  probe_of(rail).ask(now_ns);
  probe_of(rail).ask_again();
}

void Link::on_probe(int rail, const Header& header) noexcept {
  if (header.kind == Kind::kQuestion) return probe_of(rail).on_question(header.message);
  const bool is_answer = probe_of(rail).on_answer(header.message, shared_->timing.now());
  if (!is_answer || stream_.is_live(rail) || !both_have_dropped(rail)) return;
  stream_.push({.kind = Kind::kRestored, .rail = static_cast<std::uint8_t>(rail)});
  restore(rail);
}

/// The peer has got an answer. If this side has dropped the rail once more meanwhile, the peer has
/// yet to hear of it, and will drop it, too.
void Link::on_restored(int rail) noexcept {
  if (!stream_.is_live(rail) && both_have_dropped(rail)) restore(rail);
}

void Link::restore(int rail) noexcept {
  constexpr std::int64_t kMostStalls = 64;
  const auto r = static_cast<std::size_t>(rail);
  named_ &= ~(1U << rail);
  // One that comes and goes is tried less and less often.
  patience_ns_[r] = std::min(2 * patience_ns_[r], kMostStalls * shared_->timing.stall_ns);
  stream_.restore(rail);
  if (shared_->on_restored) shared_->on_restored(peer_, rail);
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
  for (Probe& probe : probes_) probe.send(stream_.awaited());
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
