/// The algorithms shoal has. What is listed here has been proved by verify/ for every P up to 64.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "schedule/shape.h"
#include "schedule/step.h"
#include "shoal/export.h"

namespace shoal::schedule {

enum class Algorithm : std::uint8_t {
  kDirect,  ///< in one node: straight out of and into the ranks' buffers
  kPulled,  ///< the same, but never into another rank's buffers
  kStaged,  ///< in one node: through scratch that the others see, tile by tile
  kRing,
  kRecursiveDoubling,
  kRabenseifner,
  kBinomial,
  kBruck,
  kPairwise,
  kDissemination,
  kOrdered,       ///< over messages: each slice gathered at its owner, folded in rank order
  kHierarchical,  ///< direct in the node, composed with another over the network
};
inline constexpr int kAlgorithms = 12;

SHOAL_API std::string_view name_of(Algorithm algorithm) noexcept;
std::optional<Algorithm> algorithm_named(std::string_view name) noexcept;

/// One row of the catalog.
struct Entry {
  Collective collective;
  Algorithm algorithm;
  bool node_memory;         ///< needs kPost/kAwait and access to the buffers of the node's ranks
  bool deterministic;       ///< folds in rank order and rounds once: same bits for any split
  std::string_view cost;    ///< one line for people, e.g. "2 (P-1) rounds of N/P"
  std::string_view source;  ///< the paper
};

/// Every row, ordered by collective. Immutable.
SHOAL_API std::span<const Entry> catalog() noexcept;
SHOAL_API const Entry* find(Collective collective, Algorithm algorithm) noexcept;

/// True if the algorithm can run this shape (e.g. kDirect, kPulled and kStaged need node_ranks ==
/// ranks; kHierarchical needs more than one node).
SHOAL_API bool supports(const Entry& entry, const Shape& shape) noexcept;

/// Runs where all ranks are in one node, only.
bool is_of_one_node(Algorithm algorithm) noexcept;

/// Elements of kScratch the schedule needs at this rank.
std::int64_t scratch_count(Algorithm algorithm, const Shape& shape) noexcept;

/// A schedule in place: O(1) state, no allocation, trivially copyable. One thread.
class Schedule {
 public:
  Schedule() noexcept = default;
  /// The caller has checked supports().
  Schedule(Algorithm algorithm, const Shape& shape) noexcept;

  Step next() noexcept { return next_(&state_); }

 private:
  static constexpr std::size_t kStateBytes = 512;
  static Step ended(void*) noexcept { return Step::end(); }
  template <class Generator>
  void emplace(const Shape& shape) noexcept;

  Step (*next_)(void*) noexcept = &ended;
  alignas(16) std::byte state_[kStateBytes];
};

}  // namespace shoal::schedule
