#include "schedule/catalog.h"

#include <array>
#include <new>
#include <type_traits>

#include "schedule/binomial.h"
#include "schedule/bruck.h"
#include "schedule/direct.h"
#include "schedule/dissemination.h"
#include "schedule/hierarchical.h"
#include "schedule/hierarchical_staged.h"
#include "schedule/ordered.h"
#include "schedule/pairwise.h"
#include "schedule/rabenseifner.h"
#include "schedule/recursive_doubling.h"
#include "schedule/ring.h"
#include "schedule/ring_put.h"
#include "schedule/staged.h"

namespace shoal::schedule {
namespace {

constexpr std::string_view kThakur = "Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005";
constexpr std::string_view kPatarasuk = "Patarasuk, Yuan, J. Parallel Distrib. Comput. 69(2), 2009";
constexpr std::string_view kBruck = "Bruck, Ho, Kipnis, Upfal, Weathersby, IEEE TPDS 8(11), 1997";
constexpr std::string_view kHensgen = "Hensgen, Finkel, Manber, IJPP 17(1), 1988";
constexpr std::string_view kJain = "Jain et al., SC 2018 (slices over shared memory)";
constexpr std::string_view kGraham = "Graham, Shipman, EuroPVM/MPI 2008 (fan-in, fan-out)";
constexpr std::string_view kTraff = "Träff, Hunold, CLUSTER 2020 (multi-lane)";
constexpr std::string_view kShoal = "shoal (deterministic mode)";

// Columns: node_memory, deterministic, cost, source. P ranks, L ranks a node, M nodes, N bytes of
// the largest buffer. What only moves data is deterministic by nature.
constexpr std::array kCatalog = {
    Entry{Collective::kBarrier, Algorithm::kDirect, true, true, "1 flag round", kJain},
    Entry{Collective::kBarrier, Algorithm::kDissemination, false, true, "ceil(log2 P) rounds",
          kHensgen},
    Entry{Collective::kBarrier, Algorithm::kHierarchical, true, true,
          "2 flag rounds + ceil(log2 M) rounds", kTraff},

    Entry{Collective::kBroadcast, Algorithm::kDirect, true, true,
          "2 flag rounds, P x N/P copied by each rank", kJain},
    Entry{Collective::kBroadcast, Algorithm::kStaged, true, true,
          "1 flag round a tile, N in and out", kGraham},
    Entry{Collective::kBroadcast, Algorithm::kBinomial, false, true, "ceil(log2 P) rounds of N",
          kThakur},
    Entry{Collective::kBroadcast, Algorithm::kHierarchical, true, true,
          "3 flag rounds, 1 copy of N + ceil(log2 M) rounds of N", kTraff},
    Entry{Collective::kBroadcast, Algorithm::kHierarchicalStaged, true, true,
          "1 flag round a tile, N in and out + ceil(log2 M) rounds of N", kTraff},

    Entry{Collective::kReduce, Algorithm::kDirect, true, true, "2 flag rounds, fold of P x N/P",
          kJain},
    Entry{Collective::kReduce, Algorithm::kStaged, true, true,
          "1 flag round a tile, N in and out, fold of P x N/P", kGraham},
    Entry{Collective::kReduce, Algorithm::kBinomial, false, false, "ceil(log2 P) rounds of N",
          kThakur},
    Entry{Collective::kReduce, Algorithm::kOrdered, false, true, "2 (P-1) exchanges of N/P",
          kShoal},
    Entry{Collective::kReduce, Algorithm::kHierarchical, true, false,
          "2 flag rounds, fold of L x N/L + ceil(log2 M) rounds of N/L", kTraff},

    Entry{Collective::kAllReduce, Algorithm::kDirect, true, true, "2 flag rounds, fold of P x N/P",
          kJain},
    Entry{Collective::kAllReduce, Algorithm::kStaged, true, true,
          "1 flag round a tile, N in and out, fold of P x N/P", kGraham},
    Entry{Collective::kAllReduce, Algorithm::kRing, false, false, "2 (P-1) rounds of N/P",
          kPatarasuk},
    Entry{Collective::kAllReduce, Algorithm::kRingPut, false, false, "2 (P-1) puts of N/P",
          kPatarasuk},
    Entry{Collective::kAllReduce, Algorithm::kRecursiveDoubling, false, false,
          "log2 P rounds of N (+ 2 if P is no power of two)", kThakur},
    Entry{Collective::kAllReduce, Algorithm::kRabenseifner, false, false,
          "2 log2 P rounds, 2 N (P-1)/P in all (+ 2 N if P is no power of two)", kThakur},
    Entry{Collective::kAllReduce, Algorithm::kOrdered, false, true, "2 (P-1) exchanges of N/P",
          kShoal},
    Entry{Collective::kAllReduce, Algorithm::kHierarchical, true, false,
          "2 flag rounds, fold of L x N/L + all_reduce of N/L over M", kTraff},
    Entry{Collective::kAllReduce, Algorithm::kHierarchicalStaged, true, false,
          "2 flag rounds a tile, 2 N in and out, fold of L x N/L + all_reduce of N/L over M",
          kTraff},

    Entry{Collective::kAllGather, Algorithm::kDirect, true, true, "2 flag rounds, 1 copy of N",
          kJain},
    Entry{Collective::kAllGather, Algorithm::kStaged, true, true,
          "1 flag round a tile, N/P in, N out", kGraham},
    Entry{Collective::kAllGather, Algorithm::kRing, false, true, "P-1 rounds of N/P", kPatarasuk},
    Entry{Collective::kAllGather, Algorithm::kRingPut, false, true, "P-1 puts of N/P, 1 copy of N",
          kPatarasuk},
    Entry{Collective::kAllGather, Algorithm::kBruck, false, true,
          "ceil(log2 P) rounds, N (P-1)/P in all", kBruck},
    Entry{Collective::kAllGather, Algorithm::kHierarchical, true, true,
          "3 flag rounds, 1 copy of N + M-1 rounds of N/P", kTraff},
    Entry{Collective::kAllGather, Algorithm::kHierarchicalStaged, true, true,
          "M-1 rounds of N/P, 1 flag round a tile, N/L in, N out", kTraff},

    Entry{Collective::kReduceScatter, Algorithm::kDirect, true, true,
          "2 flag rounds, fold of P x N/P", kJain},
    Entry{Collective::kReduceScatter, Algorithm::kStaged, true, true,
          "1 flag round a tile, N in, fold of P x N/P", kGraham},
    Entry{Collective::kReduceScatter, Algorithm::kRing, false, false, "P-1 rounds of N/P",
          kPatarasuk},
    Entry{Collective::kReduceScatter, Algorithm::kRingPut, false, false, "P-1 puts of N/P",
          kPatarasuk},
    Entry{Collective::kReduceScatter, Algorithm::kPairwise, false, false, "P-1 exchanges of N/P",
          kThakur},
    Entry{Collective::kReduceScatter, Algorithm::kOrdered, false, true, "P-1 exchanges of N/P",
          kShoal},
    Entry{Collective::kReduceScatter, Algorithm::kHierarchical, true, false,
          "2 flag rounds, fold of L x N/L + M-1 exchanges of N/P", kTraff},
    Entry{Collective::kReduceScatter, Algorithm::kHierarchicalStaged, true, false,
          "1 flag round a tile, N in, fold of N/L + M-1 exchanges of N/P", kTraff},

    Entry{Collective::kAllToAll, Algorithm::kDirect, true, true, "2 flag rounds, 1 copy of N",
          kJain},
    Entry{Collective::kAllToAll, Algorithm::kStaged, true, true,
          "1 flag round a tile, N in and out", kGraham},
    Entry{Collective::kAllToAll, Algorithm::kPairwise, false, true, "P-1 exchanges of N/P",
          kThakur},
    Entry{Collective::kAllToAll, Algorithm::kBruck, false, true, "ceil(log2 P) rounds of N/2",
          kBruck},
    Entry{Collective::kAllToAll, Algorithm::kHierarchical, true, true,
          "2 flag rounds, 1 copy of N + M-1 exchanges of N/M", kTraff},

    Entry{Collective::kGather, Algorithm::kDirect, true, true, "2 flag rounds, 1 copy of N/P",
          kJain},
    Entry{Collective::kGather, Algorithm::kStaged, true, true, "1 flag round a tile, N/P in, N out",
          kGraham},
    Entry{Collective::kGather, Algorithm::kBinomial, false, true,
          "ceil(log2 P) rounds, N (P-1)/P into the root", kThakur},

    Entry{Collective::kScatter, Algorithm::kDirect, true, true, "2 flag rounds, 1 copy of N/P",
          kJain},
    Entry{Collective::kScatter, Algorithm::kStaged, true, true,
          "1 flag round a tile, N in, N/P out", kGraham},
    Entry{Collective::kScatter, Algorithm::kBinomial, false, true,
          "ceil(log2 P) rounds, N (P-1)/P out of the root", kThakur},
};

/// Calls use.operator()<Class>() with the algorithm's class for a collective of several ranks.
template <class Use>
auto with_class(Algorithm algorithm, Collective collective, Use&& use) noexcept {
  const bool is_gather = collective == Collective::kAllGather;
  const bool is_all_to_all = collective == Collective::kAllToAll;
  const bool is_reduce_scatter = collective == Collective::kReduceScatter;
  switch (algorithm) {
    case Algorithm::kDirect:
      break;
    case Algorithm::kStaged:
      return use.template operator()<Staged>();
    case Algorithm::kRing:
      if (is_gather) return use.template operator()<RingAllGather>();
      if (is_reduce_scatter) return use.template operator()<RingReduceScatter>();
      return use.template operator()<RingAllReduce>();
    case Algorithm::kRingPut:
      return use.template operator()<RingPut>();
    case Algorithm::kRecursiveDoubling:
      return use.template operator()<RecursiveDoublingAllReduce>();
    case Algorithm::kRabenseifner:
      return use.template operator()<RabenseifnerAllReduce>();
    case Algorithm::kBinomial:
      if (collective == Collective::kBroadcast) return use.template operator()<BinomialBroadcast>();
      if (collective == Collective::kReduce) return use.template operator()<BinomialReduce>();
      if (collective == Collective::kGather) return use.template operator()<BinomialGather>();
      return use.template operator()<BinomialScatter>();
    case Algorithm::kBruck:
      if (is_all_to_all) return use.template operator()<BruckAllToAll>();
      return use.template operator()<BruckAllGather>();
    case Algorithm::kPairwise:
      if (is_all_to_all) return use.template operator()<PairwiseAllToAll>();
      return use.template operator()<PairwiseReduceScatter>();
    case Algorithm::kDissemination:
      return use.template operator()<DisseminationBarrier>();
    case Algorithm::kOrdered:
      return use.template operator()<OrderedReduction>();
    case Algorithm::kHierarchical:
      if (collective == Collective::kBarrier) return use.template operator()<HierarchicalBarrier>();
      if (collective == Collective::kBroadcast) {
        return use.template operator()<HierarchicalBroadcast>();
      }
      if (collective == Collective::kReduce) return use.template operator()<HierarchicalReduce>();
      if (is_gather) return use.template operator()<HierarchicalAllGather>();
      if (is_reduce_scatter) return use.template operator()<HierarchicalReduceScatter>();
      if (is_all_to_all) return use.template operator()<HierarchicalAllToAll>();
      return use.template operator()<HierarchicalAllReduce>();
    case Algorithm::kHierarchicalStaged:
      if (collective == Collective::kBroadcast) {
        return use.template operator()<HierarchicalStagedBroadcast>();
      }
      if (is_gather) return use.template operator()<HierarchicalStagedAllGather>();
      if (is_reduce_scatter) return use.template operator()<HierarchicalStagedReduceScatter>();
      return use.template operator()<HierarchicalStagedAllReduce>();
  }
  return use.template operator()<Direct>();
}

/// Messages without elements are not sent: nothing is left to do, unless they are signals or the
/// ranks of a node are to compare what they have been asked for.
bool is_void(Algorithm algorithm, const Shape& shape) noexcept {
  const Entry* entry = find(shape.collective, algorithm);
  return shape.count == 0 && shape.collective != Collective::kBarrier &&
         (entry == nullptr || !entry->node_memory);
}

}  // namespace

std::string_view name_of(Algorithm algorithm) noexcept {
  constexpr std::array<std::string_view, kAlgorithms> kNames = {
      "direct",        "staged",   "ring",         "recursive_doubling",
      "rabenseifner",  "binomial", "bruck",        "pairwise",
      "dissemination", "ordered",  "hierarchical", "hierarchical_staged",
      "ring_put"};
  return kNames[static_cast<std::size_t>(algorithm)];
}

std::optional<Algorithm> algorithm_named(std::string_view name) noexcept {
  for (int i = 0; i < kAlgorithms; ++i) {
    const auto algorithm = static_cast<Algorithm>(i);
    if (name_of(algorithm) == name) return algorithm;
  }
  return std::nullopt;
}

std::span<const Entry> catalog() noexcept { return kCatalog; }

const Entry* find(Collective collective, Algorithm algorithm) noexcept {
  for (const Entry& entry : kCatalog) {
    if (entry.collective == collective && entry.algorithm == algorithm) return &entry;
  }
  return nullptr;
}

bool supports(const Entry& entry, const Shape& shape) noexcept {
  if (entry.collective != shape.collective) return false;
  if (is_of_one_node(entry.algorithm)) return shape.node_ranks == shape.ranks;
  if (!is_hierarchical(entry.algorithm)) return true;
  return 1 < shape.node_ranks && shape.node_ranks < shape.ranks;
}

bool is_of_one_node(Algorithm algorithm) noexcept {
  return algorithm == Algorithm::kDirect || algorithm == Algorithm::kStaged;
}

bool is_hierarchical(Algorithm algorithm) noexcept {
  return algorithm == Algorithm::kHierarchical || algorithm == Algorithm::kHierarchicalStaged;
}

bool is_staged(Algorithm algorithm) noexcept {
  return algorithm == Algorithm::kStaged || algorithm == Algorithm::kHierarchicalStaged;
}

bool keeps_to_blocks(Algorithm algorithm) noexcept {
  return algorithm == Algorithm::kDirect || algorithm == Algorithm::kStaged;
}

bool is_one_sided(Algorithm algorithm) noexcept { return algorithm == Algorithm::kRingPut; }

std::int64_t scratch_count(Algorithm algorithm, const Shape& shape) noexcept {
  if (shape.ranks == 1 || is_void(algorithm, shape)) return 0;
  return with_class(algorithm, shape.collective,
                    [&]<class Class>() { return Class::scratch(shape); });
}

template <class Generator>
void Schedule::emplace(const Shape& shape) noexcept {
  static_assert(sizeof(Generator) <= kStateBytes && alignof(Generator) <= 16);
  static_assert(std::is_trivially_copyable_v<Generator>);
  ::new (state_) Generator(shape);
  fill_ = [](void* state, Step* batch) noexcept {
    return std::launder(static_cast<Generator*>(state))->fill(batch);
  };
}

void Schedule::begin(Algorithm algorithm, const Shape& shape) noexcept {
  at_ = filled_ = 0;
  fill_ = &end;
  if (is_void(algorithm, shape)) return;
  if (shape.ranks == 1) {
    emplace<Rounds<Alone>>(shape);
    return;
  }
  with_class(algorithm, shape.collective, [&]<class Class>() { emplace<Rounds<Class>>(shape); });
}

}  // namespace shoal::schedule
