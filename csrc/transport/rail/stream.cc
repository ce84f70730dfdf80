#include "transport/rail/stream.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace shoal::transport::rail {

namespace {

constexpr int kBurst = 16;  // packets of one rail in one receive(), so that the others get a turn

bool is_active(const Operation& operation) noexcept {
  return operation.state == Operation::State::kActive;
}

bool has_failed(const Operation& operation) noexcept {
  return operation.done() && !operation.status.ok();
}

std::string why_failed(const char* what, const Status& status) {
  if (status.code == ErrorCode::kPeerFailed) return kLostPeer;
  return std::string(what) + " failed (" + std::string(name_of(status.code)) + ", " +
         std::to_string(status.detail) + ")";
}

}  // namespace

Stream::Stream(std::vector<Network*> rails, int peer, PacketPool& pool, StreamOwner& owner)
    : rails_(rails.size()), peer_(peer), pool_(&pool), owner_(&owner) {
  for (std::size_t r = 0; r < rails.size(); ++r) {
    rails_[r].network = rails[r];
    rails_[r].frame = std::make_unique<Frame>();
  }
  window_.reserve(kWindow);
}

std::uint32_t Stream::live() const noexcept {
  std::uint32_t set = 0;
  for (std::size_t r = 0; r < rails_.size(); ++r) set |= rails_[r].dropped ? 0U : 1U << r;
  return set;
}

int Stream::first_live() const noexcept {
  const auto found = std::ranges::find_if(rails_, [](const Rail& rail) { return !rail.dropped; });
  return found == rails_.end() ? -1 : static_cast<int>(found - rails_.begin());
}

bool Stream::is_deaf() const noexcept {
  return std::ranges::all_of(rails_, [](const Rail& rail) { return rail.deaf; });
}

// --- receiving -----------------------------------------------------------------------------------

bool Stream::has_arrivals() const noexcept {
  return std::ranges::any_of(rails_,
                             [](const Rail& rail) { return rail.listens && rail.incoming.done(); });
}

bool Stream::receive() noexcept {
  bool moved = false;
  for (int r = 0; r < static_cast<int>(rails_.size()); ++r) moved = receive_from(r) || moved;
  return moved;
}

bool Stream::listen(int r) noexcept {
  Rail& rail = at(r);
  if (rail.deaf) return false;
  if (!rail.listens) {
    rail.incoming = {};
    rail.listens =
        rail.network->receive(peer_, kPacketMatch, rail.frame.get(), sizeof(Frame), rail.incoming);
  }
  return rail.listens && rail.incoming.done();
}

bool Stream::receive_from(int r) noexcept {
  bool moved = false;
  for (int i = 0; i < kBurst && listen(r); ++i) {
    if (!take(r)) break;
    at(r).listens = false;
    moved = true;
  }
  return moved;
}

/// What has come by this rail. False: later.
bool Stream::take(int r) noexcept {
  Rail& rail = at(r);
  if (!rail.incoming.status.ok()) {
    // Of a peer that has failed, or gone, what it had sent can still be received.
    rail.deaf = std::exchange(rail.had_failed, true);
    if (!rail.dropped) owner_->on_rail_failed(r, why_failed("a receive", rail.incoming.status));
    return true;
  }
  rail.had_failed = false;
  const Header& header = rail.frame->header;
  if (!is_well_formed(header, rail.incoming.bytes, static_cast<int>(rails_.size())) ||
      (is_numbered(header.kind) && header.sequence > awaited_)) {
    rail.deaf = true;
    if (!rail.dropped) owner_->on_rail_failed(r, "it has lost or changed a packet");
    return true;
  }
  if (header.kind >= Kind::kQuestion) owner_->on_probe(r, header);
  if (is_numbered(header.kind)) {
    if (header.sequence < awaited_) {  // the peer did not know that it had come
      owes_acknowledgement_ = true;
    } else {
      if (!owner_->on_packet(header, rail.frame->content.data())) return false;
      ++awaited_;
      if (++unanswered_ >= kWindow / 2) owes_acknowledgement_ = true;
    }
  }
  take_acknowledgement(header.received);
  return true;
}

void Stream::take_acknowledgement(std::uint64_t received) noexcept {
  if (received > next_) return;
  while (acknowledged_ < received) {
    std::unique_ptr<Packet> packet = std::move(window_.front());
    window_.erase(window_.begin());
    if (given_ > 0) --given_;
    ++acknowledged_;
    if (is_active(packet->operation)) {
      leaving_.push_back(std::move(packet));
    } else {
      pool_->give(std::move(packet));
    }
  }
}

// --- sending -------------------------------------------------------------------------------------

void Stream::push(const Header& header, const void* content, Operation* operation) {
  queue_.push_back({header, content, operation});
  fill_window();
}

void Stream::fill_window() noexcept {
  std::size_t taken = 0;
  while (taken < queue_.size() && window_.size() < kWindow) {
    const Queued& queued = queue_[taken++];
    std::unique_ptr<Packet> packet = pool_->take();
    packet->operation = {};
    packet->frame.header = queued.header;
    packet->frame.header.sequence = next_++;
    if (queued.header.content_bytes > 0) {
      std::memcpy(packet->frame.content.data(), queued.content, queued.header.content_bytes);
    }
    if (queued.operation != nullptr) queued.operation->end(kOkStatus);
    window_.push_back(std::move(packet));
  }
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(taken));
}

bool Stream::send() noexcept {
  look_at_sends();
  fill_window();
  bool moved = false;
  while (given_ < window_.size() && give_to_rail()) moved = true;
  acknowledge();
  return moved;
}

/// The next packet of the window. False: there is no room, or no rail.
bool Stream::give_to_rail() noexcept {
  const int r = current_;
  if (r < 0) return false;
  Packet& packet = *window_[given_];
  packet.frame.header.received = awaited_;
  packet.operation = {};
  packet.rail = r;
  const std::int64_t bytes = std::int64_t{sizeof(Header)} + packet.frame.header.content_bytes;
  if (!at(r).network->send(peer_, kPacketMatch, &packet.frame, bytes, packet.operation)) {
    return false;
  }
  ++given_;
  unanswered_ = 0;
  owes_acknowledgement_ = false;
  if (has_failed(packet.operation)) {
    owner_->on_rail_failed(r, why_failed("a send", packet.operation.status));
  }
  return true;
}

/// Only where no packet has said it. It is not numbered: if it is lost, so is its rail, the peer
/// sends again what it keeps, and a duplicate asks for another.
void Stream::acknowledge() noexcept {
  const int r = current_;
  if (!owes_acknowledgement_ || r < 0 || is_active(acknowledging_)) return;
  acknowledgement_ = {.kind = Kind::kAck, .received = awaited_};
  acknowledging_ = {};
  acknowledging_rail_ = r;
  if (!at(r).network->send(peer_, kPacketMatch, &acknowledgement_, sizeof acknowledgement_,
                           acknowledging_)) {
    return;
  }
  owes_acknowledgement_ = false;
  unanswered_ = 0;
}

void Stream::look_at_sends() noexcept {
  std::array<const Operation*, kMaxRails> failed{};
  const auto look_at = [&](const Operation& operation, int rail) {
    if (has_failed(operation) && is_live(rail)) failed[static_cast<std::size_t>(rail)] = &operation;
  };
  for (const auto& packet : leaving_) look_at(packet->operation, packet->rail);
  for (std::size_t i = 0; i < given_; ++i) look_at(window_[i]->operation, window_[i]->rail);
  if (acknowledging_rail_ >= 0) look_at(acknowledging_, acknowledging_rail_);
  for (std::size_t r = 0; r < rails_.size(); ++r) {
    if (failed[r] == nullptr) continue;
    owner_->on_rail_failed(static_cast<int>(r), why_failed("a send", failed[r]->status));
  }
  std::erase_if(leaving_, [this](std::unique_ptr<Packet>& packet) {
    if (is_active(packet->operation)) return false;
    pool_->give(std::move(packet));
    return true;
  });
}

// --- endings -------------------------------------------------------------------------------------

void Stream::drop(int r) noexcept {
  if (at(r).dropped) return;
  at(r).dropped = true;
  if (r == current_) {
    current_ = first_live();
    given_ = 0;
  }
  Network& network = *at(r).network;
  const auto cancel_on_it = [&](Operation& operation, int rail) {
    if (rail == r && is_active(operation)) network.cancel(operation);
  };
  for (const auto& packet : window_) cancel_on_it(packet->operation, packet->rail);
  for (const auto& packet : leaving_) cancel_on_it(packet->operation, packet->rail);
  cancel_on_it(acknowledging_, acknowledging_rail_);
}

void Stream::restore(int r) noexcept {
  at(r).dropped = false;
  listen_again(r);
}

void Stream::listen_again(int r) noexcept {
  at(r).deaf = false;
  at(r).had_failed = false;
}

bool Stream::cancel(const Operation& operation) noexcept {
  return std::erase_if(queue_, [&](const Queued& queued) {
           if (queued.operation != &operation) return false;
           queued.operation->end({ErrorCode::kAborted, -1, 0});
           return true;
         }) > 0;
}

bool Stream::take_back(std::uint64_t message) noexcept {
  return std::erase_if(queue_, [message](const Queued& queued) {
           return queued.header.kind == Kind::kAnnounce && queued.header.message == message;
         }) > 0;
}

/// A rail whose network says nothing of it was dropped at the peer's word, which has sent all that
/// it had on it over another one, or died since: it brings nothing more.
void Stream::stop_listening() noexcept {
  for (Rail& rail : rails_) {
    if (rail.deaf || rail.network->peer_failed(peer_)) continue;
    if (rail.listens && is_active(rail.incoming)) rail.network->cancel(rail.incoming);
    const bool has_packet = rail.listens && rail.incoming.status.ok();
    if (has_packet) continue;
    rail.listens = false;
    rail.deaf = true;
  }
}

void Stream::fail(Status status) noexcept {
  stop_listening();
  for (const Queued& queued : std::exchange(queue_, {})) {
    if (queued.operation != nullptr) queued.operation->end(status);
  }
}

bool Stream::is_flushed() const noexcept {
  return current_ < 0 ||
         (queue_.empty() && given_ == window_.size() && leaving_.empty() &&
          !is_active(acknowledging_) &&
          std::ranges::none_of(window_, [](const auto& p) { return is_active(p->operation); }));
}

}  // namespace shoal::transport::rail
