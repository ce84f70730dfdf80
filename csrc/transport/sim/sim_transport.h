/// A network inside one process, driven by one seed: delays, reordering, a rank that dies. The same
/// seed and the same calls give the same run, to the tick.
///
/// Time is virtual: each progress() of any member is one tick. A channel is (sender, receiver,
/// match key); its messages arrive in order, each min_delay..max_delay ticks after it was sent or
/// later, and nothing orders one channel against another. A put is written at any tick until its
/// message arrives, whatever has become of the receive. All members belong to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "transport/transport.h"

namespace shoal::transport::sim {

inline constexpr std::int64_t kNever = -1;

struct SimOptions {
  std::uint64_t seed = 1;
  std::int64_t min_delay = 0;  ///< ticks
  std::int64_t max_delay = 20;
  /// Messages up to this many bytes are buffered: the send is done when its call returns. Longer
  /// ones are done when received. -1: nothing is buffered, which is what a schedule must survive.
  std::int64_t eager_bytes = 4096;
  /// One call of send() or receive() in so many is told "no room now". 0: none.
  int refuse_one_in = 0;
  /// This rank dies when it has sent kill_after messages. What it had buffered still arrives.
  int kill_rank = -1;
  std::int64_t kill_after = 0;
  /// Ticks after the death at which operations with the dead rank end in kPeerFailed; kNever: they
  /// never end, as on a real network that nobody watches.
  std::int64_t failure_delay = kNever;
};

/// What connects the members. Outlives them.
class SimFabric {
 public:
  explicit SimFabric(int peers, const SimOptions& options = {});
  ~SimFabric();
  SimFabric(const SimFabric&) = delete;
  SimFabric& operator=(const SimFabric&) = delete;

  [[nodiscard]] int peers() const noexcept;
  [[nodiscard]] std::int64_t now() const noexcept;  ///< ticks so far
  [[nodiscard]] bool dead(int rank) const noexcept;
  void kill(int rank) noexcept;
  /// Messages sent and not yet received, and receives that wait. 0: the network is quiet.
  [[nodiscard]] std::int64_t pending() const noexcept;
  /// Puts that have not been written yet, whoever still wants them.
  [[nodiscard]] std::int64_t puts() const noexcept;

 private:
  friend class SimTransport;
  struct State;
  std::unique_ptr<State> state_;
};

/// Rank `self`'s place in the fabric. The operations of a dead rank never end, but by cancel().
class SimTransport : public Transport {
 public:
  SimTransport(SimFabric& fabric, int self) noexcept : fabric_(fabric), self_(self) {}

  bool send(int peer, Match match, const void* data, std::int64_t bytes,
            Operation& operation) noexcept override;
  bool receive(int peer, Match match, void* data, std::int64_t capacity,
               Operation& operation) noexcept override;
  [[nodiscard]] bool has_put() const noexcept override { return true; }
  Key key_to(const void* data, std::int64_t bytes) noexcept override;
  bool put(int peer, Match match, const Key& key, std::int64_t offset, const void* data,
           std::int64_t bytes, Operation& operation) noexcept override;
  bool probe(int peer, Match match) noexcept override;
  bool progress() noexcept override;
  void cancel(Operation& operation) noexcept override;
  [[nodiscard]] std::string describe() const override;

 private:
  SimFabric& fabric_;
  int self_;
};

}  // namespace shoal::transport::sim
