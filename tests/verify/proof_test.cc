// The proofs: every algorithm of the catalog is right for every P from 1 to 64.

#include <gtest/gtest.h>

#include "sweep.h"
#include "verify/verify.h"

namespace shoal::verify {
namespace {

using schedule::Algorithm;
using schedule::Entry;
using schedule::Shape;

std::string alias_name(AliasMode mode) {
  constexpr const char* kNames[] = {"nobody", "everybody", "odd ranks"};
  return kNames[static_cast<int>(mode)];
}

/// Proves one shape in all alias modes.
void prove(const Entry& entry, const Shape& shape) {
  const std::vector<Program> programs = programs_of(entry.algorithm, shape);
  for (const AliasMode mode : kAliasModes) {
    const Verdict verdict = verify(programs, shape, mode, block_mode(entry.algorithm));
    ASSERT_TRUE(verdict.ok) << sweep::text_of(entry, shape) << ", in place: " << alias_name(mode)
                            << "\n  " << verdict.what;
  }
}

class Proof : public testing::TestWithParam<Entry> {
 protected:
  void prove_all(Rank ranks, const std::vector<std::int64_t>& counts) {
    const Entry& entry = GetParam();
    for (const Rank node_ranks : sweep::node_ranks_of(entry, ranks)) {
      for (const Rank root : sweep::roots_of(entry.collective, ranks)) {
        for (const std::int64_t count : counts) {
          prove(entry, {entry.collective, 0, ranks, root, node_ranks, count,
                        sweep::tile_of(entry.collective, ranks, count), 2 + ranks % 2});
          if (HasFatalFailure()) return;
        }
      }
    }
  }
};

TEST_P(Proof, EveryRankCountRootAndCountUpTo64Ranks) {
  for (Rank ranks = 1; ranks <= sweep::max_ranks(64) && !HasFatalFailure(); ++ranks) {
    prove_all(ranks, sweep::counts_of(GetParam(), ranks));
  }
}

// Nothing in the algorithms ends at 64: tables, slots or windows that did would show here.
TEST_P(Proof, SomeRankCountsBeyond) {
  for (const Rank ranks : {65, 96, 127, 128}) {
    if (ranks > sweep::max_ranks(kMaxProvedRanks) || HasFatalFailure()) return;
    prove_all(ranks, {GetParam().collective == Collective::kBarrier ? 0 : ranks + 1});
  }
}

INSTANTIATE_TEST_SUITE_P(Catalog, Proof,
                         testing::ValuesIn(schedule::catalog().begin(), schedule::catalog().end()),
                         sweep::test_name);

// Large slices take other network algorithms (ring, Rabenseifner) than small ones.
TEST(Proof, HierarchicalAllReduceOfLargeSlices) {
  const Entry& entry = *schedule::find(Collective::kAllReduce, Algorithm::kHierarchical);
  for (Rank ranks = 4; ranks <= sweep::max_ranks(64); ++ranks) {
    for (const Rank node_ranks : sweep::node_ranks_of(entry, ranks)) {
      prove(entry, {entry.collective, 0, ranks, 0, node_ranks, 2048 * node_ranks + 1009 * ranks});
      // Slices on both sides of the limit at once.
      prove(entry, {entry.collective, 0, ranks, 0, node_ranks, 2048 * node_ranks + 1});
      if (HasFatalFailure()) return;
    }
  }
}

// Whose memory is private is known within a node only: nodes choose by themselves, and their
// messages must fit.
TEST(Proof, NodesWithPrivateAndWithSharedMemoryWorkTogether) {
  for (const Entry& entry : schedule::catalog()) {
    if (entry.algorithm != Algorithm::kHierarchicalStaged) continue;
    for (Rank ranks = 4; ranks <= sweep::max_ranks(24); ++ranks) {
      for (const Rank node_ranks : sweep::node_ranks_of(entry, ranks)) {
        for (const std::int64_t count : sweep::counts_of(entry, ranks)) {
          const Shape shape{entry.collective,
                            0,
                            ranks,
                            0,
                            node_ranks,
                            count,
                            sweep::tile_of(entry.collective, ranks, count)};
          std::vector<Program> mixed = programs_of(Algorithm::kHierarchical, shape);
          std::vector<Program> staged = programs_of(Algorithm::kHierarchicalStaged, shape);
          for (Rank r = 0; r < ranks; ++r) {
            if (r / node_ranks % 2 == 1) mixed[r] = std::move(staged[r]);
          }
          for (const AliasMode mode : kAliasModes) {
            const Verdict verdict = verify(mixed, shape, mode);
            ASSERT_TRUE(verdict.ok) << sweep::text_of(entry, shape) << ": " << verdict.what;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace shoal::verify
