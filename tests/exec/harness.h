/// Ranks of any layout inside one process and one thread: nothing in exec/ blocks, so giving every
/// engine a turn runs them all, and the same seed gives the same run.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "core/clock.h"
#include "exec/engine.h"
#include "transport/shm/shm_transport.h"

namespace shoal::exec {

/// Of each rank; null until it has one.
using Pools = std::vector<memory::Pool*>;

/// Makes the transport that carries messages between nodes. The ranks are those of the world. One
/// that is a memory::Registrar too gets to know the pools' memory, as comm/ would have it.
using NetworkFactory =
    std::function<std::vector<std::unique_ptr<transport::Transport>>(const Pools& pools)>;

/// `ranks` ranks, node_ranks to a node, each with arena, pool, engine and one group.
class Harness {
 public:
  Harness(int ranks, int node_ranks, const NetworkFactory& network)
      : ranks_(ranks), health_(ranks), pools_(static_cast<std::size_t>(ranks)) {
    if (network) network_ = network(pools_);
    for (int r = 0; r < ranks; ++r) add_rank(r, node_ranks);
    for (int r = 0; r < ranks; ++r) places_[r]->group = make_group(r, node_ranks);
    for (auto& place : places_) place->engine->add_group(*place->group);
  }
  ~Harness() {
    for (auto& place : places_) place->engine->remove_group(*place->group);
  }

  [[nodiscard]] int ranks() const noexcept { return ranks_; }
  Engine& engine(int rank) { return *places_[rank]->engine; }
  Group& group(int rank) { return *places_[rank]->group; }
  memory::Pool& pool(int rank) { return *places_[rank]->pool; }
  memory::Arena& arena(int rank) { return places_[rank]->arena; }
  Health& health() { return health_; }
  transport::Transport& network(int rank) { return *network_[rank]; }

  /// Gives every rank turns until all tasks (null: done already) are done; false if the time is
  /// over before.
  [[nodiscard]] bool drive(const std::vector<Task*>& tasks, std::int64_t limit_ms = 20'000) {
    const Deadline deadline = Deadline::after_ms(limit_ms);
    while (!deadline.passed()) {
      bool all = true;
      for (int r = 0; r < ranks_; ++r) {
        all = (tasks[r] == nullptr || engine(r).test(*tasks[r])) && all;
      }
      if (all) return true;
    }
    return false;
  }

 private:
  struct Place {
    memory::Arena arena;
    std::unique_ptr<memory::Pool> pool;
    std::unique_ptr<transport::shm::Node> node;
    std::unique_ptr<transport::shm::ShmTransport> shm;
    std::unique_ptr<Engine> engine;
    std::unique_ptr<Group> group;
    memory::Offset control = memory::kNoOffset;
  };

  void add_rank(int rank, int node_ranks) {
    auto place = std::make_unique<Place>();
    const memory::ArenaShape shape{node_ranks, memory::kHeaderBytes + (64 << 20)};
    const int first = rank / node_ranks * node_ranks;
    auto arena = rank == first ? memory::Arena::create(shape)
                               : memory::Arena::open(Fd(::dup(places_[first]->arena.fd())), shape);
    ASSERT_TRUE(arena.ok());
    place->arena = std::move(arena.value());
    place->pool = std::make_unique<memory::Pool>(place->arena, rank - first, 64 << 20);
    pools_[static_cast<std::size_t>(rank)] = place->pool.get();
    if (!network_.empty()) {
      place->pool->set_registrar(dynamic_cast<memory::Registrar*>(network_[rank].get()));
    }
    place->node = std::make_unique<transport::shm::Node>(place->arena, rank - first);
    place->shm = std::make_unique<transport::shm::ShmTransport>(*place->node, *place->pool);
    place->engine = std::make_unique<Engine>(*place->node, *place->pool, true);
    place->engine->add_transport(*place->shm, false);
    if (!network_.empty()) place->engine->add_transport(*network_[rank], true);
    if (rank == first) {
      const std::int64_t bytes = control_bytes(node_ranks);
      place->control = place->pool->allocate(bytes, 4096).value();
      std::memset(place->arena.at(place->control), 0, static_cast<std::size_t>(bytes));
    }
    places_.push_back(std::move(place));
  }

  std::unique_ptr<Group> make_group(int rank, int node_ranks) {
    Place& place = *places_[rank];
    const int first = rank / node_ranks * node_ranks;
    Binding binding;
    binding.communicator = 1;
    binding.rank = rank;
    binding.ranks = ranks_;
    binding.node_ranks = node_ranks;
    for (int r = 0; r < ranks_; ++r) {
      const bool beside = r / node_ranks * node_ranks == first;
      if (beside) {
        binding.routes.push_back({place.shm.get(), r - first, r - first, r});
        binding.node_members.push_back(r);
        binding.local_ranks.push_back(r - first);
      } else {
        binding.routes.push_back({network_[rank].get(), r, -1, r});
      }
    }
    std::byte* control = place.arena.at(places_[first]->control);
    binding.node = transport::shm::NodeGroup(control, node_ranks, rank - first);
    binding.board = AbortBoard(control + transport::shm::control_bytes(node_ranks), rank - first);
    binding.shm = place.node.get();
    binding.health = &health_;
    return std::make_unique<Group>(std::move(binding), GroupEvents{});
  }

  int ranks_;
  Health health_;
  Pools pools_;
  std::vector<std::unique_ptr<transport::Transport>> network_;
  std::vector<std::unique_ptr<Place>> places_;
};

}  // namespace shoal::exec
