#include "transport/shm/shm_transport.h"

#include "core/assert.h"
#include "transport/shm/receiver.h"
#include "transport/shm/sender.h"

namespace shoal::transport::shm {
namespace {

/// Operation::request_id: which half an operation belongs to.
enum Half : std::uint64_t { kSend = 1, kReceive = 2 };

void refuse(Operation& operation, int peer) noexcept {
  operation.status = {ErrorCode::kInvalidArgument, peer, 0};
  operation.state = Operation::State::kDone;
}

}  // namespace

struct ShmTransport::State {
  State(Node& the_node, memory::Pool& pool)
      : node(the_node), sender(the_node, pool), receiver(the_node) {}
  [[nodiscard]] bool valid(int peer, std::int64_t bytes) const noexcept {
    return peer >= 0 && peer < node.ranks() && bytes >= 0;
  }
  Node& node;
  Sender sender;
  Receiver receiver;
};

ShmTransport::ShmTransport(Node& node, memory::Pool& pool)
    : state_(std::make_unique<State>(node, pool)) {}
ShmTransport::~ShmTransport() = default;

bool ShmTransport::send(int peer, Match match, const void* data, std::int64_t bytes,
                        Operation& operation) noexcept {
  operation.request_id = kSend;
  if (state_->valid(peer, bytes)) return state_->sender.send(peer, match, data, bytes, operation);
  refuse(operation, peer);
  return true;
}

bool ShmTransport::receive(int peer, Match match, void* data, std::int64_t capacity,
                           Operation& operation) noexcept {
  operation.request_id = kReceive;
  if (state_->valid(peer, capacity)) {
    state_->receiver.receive(peer, match, data, capacity, operation);
  } else {
    refuse(operation, peer);
  }
  return true;
}

bool ShmTransport::probe(int peer, Match match) noexcept {
  return state_->receiver.has_unexpected(peer, match);
}

bool ShmTransport::progress() noexcept {
  const bool received = state_->receiver.progress();
  return state_->sender.progress() || received;
}

void ShmTransport::cancel(Operation& operation) noexcept {
  if (operation.state != Operation::State::kActive) return;
  if (operation.request_id == kSend) {
    state_->sender.cancel(operation);
  } else {
    state_->receiver.cancel(operation);
  }
}

std::string ShmTransport::describe() const {
  return "shm " + std::to_string(state_->node.ranks()) + " local ranks, rings of " +
         std::to_string(kRingDepth) + ", staging " + std::to_string(Sender::kTiles) + " x " +
         std::to_string(Sender::kTileBytes >> 10) + " KiB";
}

}  // namespace shoal::transport::shm
