/// Messages between the ranks of a node.
#pragma once

#include <memory>
#include <string>

#include "memory/pool.h"
#include "transport/shm/node.h"
#include "transport/transport.h"

namespace shoal::transport::shm {

/// Peers are local ranks. Up to 32 bytes travel inside the descriptor; arena memory is read by the
/// receiver straight from the sender's block (one copy); other memory goes through staging tiles of
/// the sender's pool. One thread at a time.
class ShmTransport final : public Transport {
 public:
  /// `pool` gives the staging tiles.
  ShmTransport(Node& node, memory::Pool& pool);
  ~ShmTransport() override;

  bool send(int peer, Match match, const void* data, std::int64_t bytes,
            Operation& operation) noexcept override;
  bool receive(int peer, Match match, void* data, std::int64_t capacity,
               Operation& operation) noexcept override;
  bool probe(int peer, Match match) noexcept override;
  bool progress() noexcept override;
  void cancel(Operation& operation) noexcept override;
  [[nodiscard]] std::string describe() const override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shoal::transport::shm
