/// The algorithms shoal has. What is listed here has been proved by verify/ for every P up to 64.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "schedule/shape.h"
#include "schedule/step.h"
#include "shoal/export.h"

namespace shoal::schedule {

enum class Algorithm : std::uint8_t {
  kDirect,  ///< in one node: straight out of and into the ranks' buffers
  kStaged,  ///< in one node: through scratch that the others see, tile by tile
  kRing,
  kRecursiveDoubling,
  kRabenseifner,
  kBinomial,
  kBruck,
  kPairwise,
  kDissemination,
  kOrdered,             ///< over messages: each slice gathered at its owner, folded in rank order
  kHierarchical,        ///< direct in the node, composed with another over the network
  kHierarchicalStaged,  ///< staged in the node, composed with the same
  kRingPut,             ///< the ring, by one-sided steps
};
inline constexpr int kAlgorithms = 13;

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

/// True if the algorithm can run this shape (e.g. kDirect and kStaged need node_ranks == ranks;
/// the hierarchical ones need several nodes of several ranks).
SHOAL_API bool supports(const Entry& entry, const Shape& shape) noexcept;

/// Runs where all ranks are in one node, only.
bool is_of_one_node(Algorithm algorithm) noexcept;
/// Composed of parts in the nodes and between them.
bool is_hierarchical(Algorithm algorithm) noexcept;
/// Nobody's choice: it takes the place of kDirect or kHierarchical where the memory of a rank is
/// not in the arena, and touches no buffer of another rank.
bool is_staged(Algorithm algorithm) noexcept;
/// No step touches two blocks of an input or output, so that blocks may lie anywhere. (The verifier
/// proves it.)
bool keeps_to_blocks(Algorithm algorithm) noexcept;
/// Made of puts. It runs over every transport; where one cannot write to a peer's memory, messages
/// take the place of puts and it gains nothing.
SHOAL_API bool is_one_sided(Algorithm algorithm) noexcept;

/// Elements of kScratch the schedule needs at this rank.
std::int64_t scratch_count(Algorithm algorithm, const Shape& shape) noexcept;

/// A schedule in place: O(1) state, no allocation, trivially copyable. One thread.
class Schedule {
 public:
  Schedule() noexcept = default;
  Schedule(Algorithm algorithm, const Shape& shape) noexcept { begin(algorithm, shape); }
  /// From its first step. The caller has checked supports().
  void begin(Algorithm algorithm, const Shape& shape) noexcept;

  /// Valid until the next call.
  const Step& next() noexcept {
    if (at_ == filled_) refill();
    return batch_[at_++];
  }
  /// What next() would return, several at once, at least one. Valid until the next call.
  std::span<const Step> next_batch() noexcept {
    if (at_ == filled_) refill();
    return {batch_ + std::exchange(at_, filled_), batch_ + filled_};
  }

 private:
  static constexpr std::size_t kStateBytes = 256;
  static int end(void*, Step* batch) noexcept {
    *batch = Step::end();
    return 1;
  }
  template <class Generator>
  void emplace(const Shape& shape) noexcept;
  void refill() noexcept {
    filled_ = fill_(&state_, batch_);
    at_ = 0;
  }

  int (*fill_)(void*, Step* batch) noexcept = &end;
  alignas(16) std::byte state_[kStateBytes];
  int at_ = 0;
  int filled_ = 0;
  Step batch_[kBatch];
};

}  // namespace shoal::schedule
