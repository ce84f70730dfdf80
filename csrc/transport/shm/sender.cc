#include "transport/shm/sender.h"

#include <algorithm>
#include <cstring>

#include "core/assert.h"
#include "memory/copy.h"

namespace shoal::transport::shm {
namespace {

void complete(Operation& operation, Status status) noexcept {
  operation.status = status;
  operation.request = nullptr;
  operation.state = Operation::State::kDone;
}

/// Neighbours in use at the same time lie in different cache lines: words 0, 8, 16, ... come first.
std::vector<int> spread_ack_words() {
  constexpr int kWordsPerLine = kCacheLine / sizeof(AckWord);
  std::vector<int> order;
  for (int place = kWordsPerLine - 1; place >= 0; --place) {
    for (int line = kAckWords / kWordsPerLine - 1; line >= 0; --line) {
      order.push_back(line * kWordsPerLine + place);
    }
  }
  return order;  // used from the back
}

}  // namespace

Sender::Sender(Node& node, memory::Pool& pool)
    : node_(node),
      pool_(pool),
      header_(node.arena(), node.self()),
      positions_(static_cast<std::size_t>(node.ranks())),
      free_acks_(spread_ack_words()),
      generations_(kAckWords) {}

Sender::~Sender() {
  give_back(staging_);
  give_back(eager_);
}

bool Sender::send(int peer, Match match, const void* data, std::int64_t bytes,
                  Operation& operation) noexcept {
  if (!has_room(peer)) return false;
  if (bytes <= kInlineBytes) {
    send_inline(peer, match, data, bytes, operation);
    return true;
  }
  if (free_acks_.empty()) return false;
  const memory::Offset offset = node_.arena().offset_of(data, bytes);
  if (offset == memory::kNoOffset &&
      !(allocate(staging_, kTiles, kTileBytes) && allocate(eager_, kEagerTiles, kEagerBytes))) {
    complete(operation, {ErrorCode::kOutOfMemory, -1, kTiles * kTileBytes});
    return true;
  }
  Send* send = sends_.take();
  send->peer = peer;
  send->operation = &operation;
  send->data = static_cast<const std::byte*>(data);
  send->bytes = bytes;
  return announce(send, match, offset);
}

void Sender::send_inline(int peer, Match match, const void* data, std::int64_t bytes,
                         Operation& operation) noexcept {
  Message message{
      .key = match.key, .bytes = bytes, .fingerprint = match.fingerprint, .kind = Kind::kInline};
  if (bytes > 0) std::memcpy(message.payload, data, static_cast<std::size_t>(bytes));
  post(peer, message);
  complete(operation, kOkStatus);
}

/// `offset`: of the data, or kNoOffset.
bool Sender::announce(Send* send, Match match, memory::Offset offset) noexcept {
  if (offset == memory::kNoOffset) offset = copy_to_eager_tile(send);
  send->kind = offset == memory::kNoOffset ? Kind::kRendezvous : Kind::kBlock;
  send->ack = free_acks_.back();
  free_acks_.pop_back();
  send->generation = ++generations_[static_cast<std::size_t>(send->ack)];
  send->operation->state = Operation::State::kActive;
  send->operation->request = send;
  active_.push_back(send);
  Message message{.key = match.key,
                  .bytes = send->bytes,
                  .generation = send->generation,
                  .fingerprint = match.fingerprint,
                  .kind = send->kind};
  message.place = {offset, send->ack};
  post(send->peer, message);
  return true;
}

memory::Offset Sender::copy_to_eager_tile(Send* send) noexcept {
  if (send->bytes > kEagerBytes || eager_.free.empty()) return memory::kNoOffset;
  send->eager_tile = eager_.free.back();
  eager_.free.pop_back();
  const memory::Offset offset = eager_.block + send->eager_tile * kEagerBytes;
  memory::copy_bytes(node_.arena().at(offset), send->data, send->bytes);
  return offset;
}

bool Sender::has_room(int peer) noexcept {
  Ring& ring = Header(node_.arena(), peer).ring_from(node_.self());
  return ring.writable(positions_[static_cast<std::size_t>(peer)]);
}

/// There is room.
void Sender::post(int peer, const Message& message) noexcept {
  const Header receiver(node_.arena(), peer);
  receiver.ring_from(node_.self()).fill(positions_[static_cast<std::size_t>(peer)]++, message);
  if (node_.ranks() > kScanRanks) {
    // release: pairs with the acquire in Receiver::look_at_announced()
    receiver.arrivals().words[node_.self() / 64].fetch_or(std::uint64_t{1} << node_.self() % 64,
                                                          std::memory_order_release);
  }
  node_.ring(peer);
}

/// What the receiver says; 0: nothing yet.
std::uint32_t Sender::progress_of(const Send& send) noexcept {
  // acquire: pairs with the release in Receiver::acknowledge()
  const std::uint64_t word = header_.ack(send.ack).load(std::memory_order_acquire);
  return word >> 32 == send.generation ? static_cast<std::uint32_t>(word) : 0;
}

bool Sender::progress() noexcept {
  bool moved = false;
  for (std::size_t i = 0; i < active_.size();) {
    Send* send = active_[i];
    const std::uint32_t progress = progress_of(*send);
    if (progress == kAckDone) {
      finish(send);
      active_[i] = active_.back();
      active_.pop_back();
      moved = true;
      continue;
    }
    if (progress >= kAckGo) moved |= advance(send, progress);
    ++i;
  }
  return moved;
}

/// A rendezvous whose receiver has copied `progress - kAckGo` fragments.
bool Sender::advance(Send* send, std::uint32_t progress) noexcept {
  release_tiles(send, progress - kAckGo);
  return send->operation == nullptr ? withdraw(send) : stage_fragments(send);
}

void Sender::release_tiles(Send* send, std::uint32_t copied) noexcept {
  for (; send->copied < copied; ++send->copied) {
    staging_.free.push_back(send->tiles[send->copied % kTilesPerSend]);
  }
}

bool Sender::stage_fragments(Send* send) noexcept {
  bool moved = false;
  while (send->staged < send->bytes && send->fragments - send->copied < kTilesPerSend &&
         !staging_.free.empty() && has_room(send->peer)) {
    const int tile = staging_.free.back();
    staging_.free.pop_back();
    send->tiles[send->fragments++ % kTilesPerSend] = tile;
    const memory::Offset offset = staging_.block + tile * kTileBytes;
    const std::int64_t bytes = std::min(kTileBytes, send->bytes - send->staged);
    memory::copy_bytes(node_.arena().at(offset), send->data + send->staged, bytes);
    send->staged += bytes;
    Message message{.bytes = bytes, .generation = send->generation, .kind = Kind::kFragment};
    message.place = {offset, send->ack};
    post(send->peer, message);
    moved = true;
  }
  return moved;
}

bool Sender::withdraw(Send* send) noexcept {
  if (send->withdrawn || !has_room(send->peer)) return false;
  Message message{.generation = send->generation, .kind = Kind::kWithdrawn};
  message.place = {memory::kNoOffset, send->ack};
  post(send->peer, message);
  send->withdrawn = true;
  return true;
}

/// The receiver has written the ack word for the last time and reads nothing of this message.
void Sender::finish(Send* send) noexcept {
  release_tiles(send, send->fragments);
  if (send->eager_tile >= 0) eager_.free.push_back(send->eager_tile);
  free_acks_.push_back(send->ack);
  if (send->operation != nullptr) complete(*send->operation, kOkStatus);
  sends_.give(send);
}

/// The receiver may go on reading, which harms nobody; what it has not read of a rendezvous it will
/// not get.
void Sender::cancel(Operation& operation) noexcept {
  auto* send = static_cast<Send*>(operation.request);
  send->operation = nullptr;
  send->data = nullptr;
  complete(operation, {ErrorCode::kAborted, send->peer, 0});
}

bool Sender::allocate(Tiles& tiles, int count, std::int64_t bytes) noexcept {
  if (tiles.block != memory::kNoOffset) return true;
  const Result<memory::Offset> block = pool_.allocate(count * bytes, 4096);
  if (!block.ok()) return false;
  tiles.block = block.value();
  for (int tile = count - 1; tile >= 0; --tile) tiles.free.push_back(tile);
  return true;
}

/// Tiles that a receiver may still read are never used for anything else.
void Sender::give_back(Tiles& tiles) noexcept {
  if (tiles.block == memory::kNoOffset) return;
  if (active_.empty()) {
    pool_.free(tiles.block);
  } else {
    pool_.retire(tiles.block);
  }
}

}  // namespace shoal::transport::shm
