/// The ranks of one node as objects of one process, for tests.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "memory/arena.h"
#include "memory/pool.h"
#include "transport/shm/node.h"
#include "transport/shm/shm_transport.h"

namespace shoal::transport::shm {

/// kOwn: each rank maps the arena for itself, as processes do. kShared: one mapping for all, so
/// that thread sanitizer sees every access.
enum class Mapping { kOwn, kShared };

inline constexpr std::int64_t kTestPoolBytes = 64 << 20;

struct LocalRank {
  LocalRank(memory::Arena& arena, int self)
      : pool(arena, self, kTestPoolBytes), node(arena, self), transport(node, pool) {}
  memory::Pool pool;
  Node node;
  ShmTransport transport;
};

class LocalJob {
 public:
  explicit LocalJob(int ranks, Mapping mapping = Mapping::kOwn) {
    const memory::ArenaShape shape{ranks, memory::kHeaderBytes + kTestPoolBytes};
    auto arena = memory::Arena::create(shape, "test");
    EXPECT_TRUE(arena.ok());
    arenas_.push_back(std::move(arena.value()));
    while (mapping == Mapping::kOwn && static_cast<int>(arenas_.size()) < ranks) {
      Fd fd(::fcntl(arenas_[0].fd(), F_DUPFD_CLOEXEC, 0));
      auto opened = memory::Arena::open(std::move(fd), shape);
      EXPECT_TRUE(opened.ok());
      arenas_.push_back(std::move(opened.value()));
    }
    for (int rank = 0; rank < ranks; ++rank) {
      ranks_.push_back(std::make_unique<LocalRank>(
          arenas_[mapping == Mapping::kOwn ? static_cast<std::size_t>(rank) : 0], rank));
    }
  }

  [[nodiscard]] int ranks() const { return static_cast<int>(ranks_.size()); }
  [[nodiscard]] LocalRank& at(int rank) { return *ranks_[static_cast<std::size_t>(rank)]; }

  /// Runs `body(rank)` in a thread for each rank.
  void run(const std::function<void(int)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks(); ++rank) threads.emplace_back(body, rank);
    for (std::thread& thread : threads) thread.join();
  }

 private:
  std::deque<memory::Arena> arenas_;
  std::vector<std::unique_ptr<LocalRank>> ranks_;
};

/// Calls `look` until it is true, yielding; false if that takes too long.
inline bool eventually(const std::function<bool()>& look, std::int64_t timeout_ms = 60'000) {
  const Deadline deadline = Deadline::after_ms(timeout_ms);
  while (!look()) {
    if (deadline.passed()) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace shoal::transport::shm
