/// Shapes to try an algorithm on.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "schedule/catalog.h"

namespace shoal::sweep {

/// Sweeps end at fewer ranks under sanitizers, which are ten times as slow, and where
/// SHOAL_TEST_MAX_RANKS says so.
inline Rank max_ranks(Rank otherwise, [[maybe_unused]] Rank sanitized = 24) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  otherwise = std::min(otherwise, sanitized);
#endif
  const char* text = std::getenv("SHOAL_TEST_MAX_RANKS");
  return text == nullptr ? otherwise : std::min(otherwise, static_cast<Rank>(std::atoi(text)));
}

inline void keep_unique(auto& values) {
  std::ranges::sort(values);
  const auto rest = std::ranges::unique(values);
  values.erase(rest.begin(), rest.end());
}

inline std::vector<Rank> roots_of(Collective collective, Rank ranks) {
  std::vector<Rank> roots = {0};
  if (has_root(collective)) roots = {0, std::min(1, ranks - 1), ranks / 2, ranks - 1};
  keep_unique(roots);
  return roots;
}

/// 1 (nothing is known) or all ranks, and every proper divisor for the hierarchical algorithms.
inline std::vector<Rank> node_ranks_of(const schedule::Entry& entry, Rank ranks) {
  if (schedule::is_of_one_node(entry.algorithm)) return {ranks};
  if (!schedule::is_hierarchical(entry.algorithm)) return {1};
  std::vector<Rank> divisors;
  for (Rank d = 2; d < ranks; ++d) {
    if (ranks % d == 0) divisors.push_back(d);
  }
  return divisors;
}

constexpr std::int64_t prime_from(std::int64_t n) {
  const auto is_prime = [](std::int64_t p) {
    for (std::int64_t d = 2; d * d <= p; ++d) {
      if (p % d == 0) return false;
    }
    return p > 1;
  };
  while (!is_prime(n)) ++n;  // ends: there is a prime before 2 n
  return n;
}

/// The last one is large enough for slices that start at multiples of 16.
inline std::vector<std::int64_t> counts_of(const schedule::Entry& entry, Rank ranks) {
  if (entry.collective == Collective::kBarrier) return {0};
  std::vector<std::int64_t> counts = {
      0, 1, ranks - 1, ranks, ranks + 1, prime_from(2 * ranks + 3), prime_from(16 * ranks)};
  keep_unique(counts);
  return counts;
}

/// A third of a block, so that pipelines come back to where they began.
inline std::int64_t tile_of(Collective collective, Rank ranks, std::int64_t count) {
  const bool has_parts = collective == Collective::kReduceScatter ||
                         collective == Collective::kAllToAll || collective == Collective::kScatter;
  return (count / 3 + 1) * (has_parts ? ranks : 1);
}

inline std::string name_of(const schedule::Entry& entry) {
  return std::string(shoal::name_of(entry.collective)) + "." +
         std::string(schedule::name_of(entry.algorithm));
}

/// For INSTANTIATE_TEST_SUITE_P over the catalog: "all_reduce_ring".
inline constexpr auto test_name = [](const auto& param) {
  std::string name = name_of(param.param);
  std::ranges::replace(name, '.', '_');
  return name;
};

inline std::string text_of(const schedule::Entry& entry, const schedule::Shape& shape) {
  return name_of(entry) + " ranks " + std::to_string(shape.ranks) + " node_ranks " +
         std::to_string(shape.node_ranks) + " root " + std::to_string(shape.root) + " count " +
         std::to_string(shape.count);
}

}  // namespace shoal::sweep
