// The verifier is worth what it objects to: every mutant of every schedule must be refused, or be
// shown to be equivalent by the explorer, which knows nothing of the verifier's reasoning.

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <map>

#include "explorer.h"
#include "schedule/dump.h"
#include "sweep.h"
#include "verify/verify.h"

namespace shoal::verify {
namespace {

using schedule::Algorithm;
using schedule::Entry;
using schedule::input;
using schedule::kEvery;
using schedule::kMaxSlots;
using schedule::kSelf;
using schedule::output;
using schedule::Ref;
using schedule::scratch;
using schedule::Shape;
using schedule::Space;
using schedule::Step;
using schedule::StepKind;

enum class Mutation : std::uint8_t {
  kDrop,
  kSwap,
  kRepeat,
  kRedirect,
  kShiftDst,
  kShiftSrc,
  kShrink,
  kSlot,
  kFinish,
  kBlocks,
  kStride,
  kSpaceDst,
  kSpaceSrc,
  kOwnerDst,
  kOwnerSrc,
};
constexpr int kMutations = 15;
constexpr std::array<const char*, kMutations> kNames = {
    "drop",   "swap",   "repeat", "redirect",  "shift dst", "shift src", "shrink",   "slot",
    "finish", "blocks", "stride", "space dst", "space src", "owner dst", "owner src"};

bool has_src(const Step& s) {
  return s.kind == StepKind::kSend || s.kind == StepKind::kCopy || s.kind == StepKind::kReduce ||
         s.kind == StepKind::kFold;
}
bool has_dst(const Step& s) {
  return s.kind == StepKind::kRecv || s.kind == StepKind::kCopy || s.kind == StepKind::kReduce ||
         s.kind == StepKind::kFold;
}
bool is_message(const Step& s) { return s.kind == StepKind::kSend || s.kind == StepKind::kRecv; }

Space other(Space space) { return space == Space::kOutput ? Space::kInput : Space::kOutput; }

/// The other rank of a node's buffer that could be meant by mistake.
std::int32_t other_owner(std::int32_t owner, Rank rank, const Shape& shape) {
  const Rank node = rank / shape.node_ranks * shape.node_ranks;
  if (owner == kSelf || owner == kEvery) return node + (rank - node + 1) % shape.node_ranks;
  return node + (owner - node + 1) % shape.node_ranks;
}

/// Changes one step (or two neighbours); false if the mutation says nothing about it.
bool mutate(std::vector<Step>& steps, std::size_t i, Mutation mutation, Rank rank,
            const Shape& shape) {
  Step& s = steps[i];
  const auto at = steps.begin() + static_cast<std::ptrdiff_t>(i);
  switch (mutation) {
    case Mutation::kDrop:
      steps.erase(at);
      return true;
    case Mutation::kSwap:
      if (i + 1 == steps.size()) return false;
      std::swap(steps[i], steps[i + 1]);
      return true;
    case Mutation::kRepeat:
      steps.insert(at, Step(s));
      return true;
    case Mutation::kRedirect:
      if (shape.ranks < 3 || !is_message(s)) return false;
      do s.peer = (s.peer + 1) % shape.ranks;
      while (s.peer == rank);
      return true;
    case Mutation::kShiftDst:
      return has_dst(s) ? ++s.dst.offset, true : false;
    case Mutation::kShiftSrc:
      return has_src(s) ? --s.src.offset, true : false;
    case Mutation::kShrink:
      if (!has_src(s) && !has_dst(s)) return false;
      --s.src.count, --s.dst.count;
      return true;
    case Mutation::kSlot:
      if (!is_message(s) && s.kind != StepKind::kWait) return false;
      s.slot = static_cast<std::uint8_t>((s.slot + 1) % kMaxSlots);
      return true;
    case Mutation::kFinish:
      if (s.kind != StepKind::kReduce && s.kind != StepKind::kFold) return false;
      s.finish = !s.finish;
      return true;
    case Mutation::kBlocks:
      return s.kind == StepKind::kFold ? --s.blocks, true : false;
    case Mutation::kStride:
      return s.kind == StepKind::kFold && s.src.rank == kSelf ? ++s.stride, true : false;
    case Mutation::kSpaceDst:
      return has_dst(s) ? s.dst.space = other(s.dst.space), true : false;
    case Mutation::kSpaceSrc:
      return has_src(s) ? s.src.space = other(s.src.space), true : false;
    case Mutation::kOwnerDst:
      if (shape.node_ranks == 1 || !has_dst(s) || is_message(s)) return false;
      s.dst.rank = other_owner(s.dst.rank, rank, shape);
      return true;
    case Mutation::kOwnerSrc:
      if (shape.node_ranks == 1 || !has_src(s) || is_message(s)) return false;
      s.src.rank = other_owner(s.src.rank, rank, shape);
      return true;
  }
  return false;
}

struct Tally {
  int refused = 0, equivalent = 0, sampled = 0;
};
using Tallies = std::array<Tally, kMutations>;

/// Empty if some alias mode is refused, else the programs passed all proofs.
bool is_refused(const std::vector<Program>& programs, const Shape& shape) {
  return std::ranges::any_of(kAliasModes,
                             [&](AliasMode mode) { return !verify(programs, shape, mode); });
}

/// Shows that a mutant that was not refused gives the right results in every order.
void show_equivalent(const std::vector<Program>& programs, const Shape& shape, Tally& tally,
                     const std::string& mutant) {
  bool exhaustive = true;
  for (const AliasMode mode : kAliasModes) {
    const Exploration result = explore(programs, shape, mode);
    ASSERT_TRUE(result.ok) << mutant << ": not refused, but goes wrong: " << result.what;
    exhaustive = exhaustive && result.exhaustive;
  }
  if (std::getenv("SHOAL_LIST_EQUIVALENTS") != nullptr)
    std::printf("  equivalent: %s\n", mutant.c_str());
  ++tally.equivalent;
  tally.sampled += !exhaustive;
}

void try_mutants(const Entry& entry, const Shape& shape, Tallies& tallies) {
  std::vector<Program> programs = programs_of(entry.algorithm, shape);
  for (Rank rank = 0; rank < shape.ranks; ++rank) {
    Program& program = programs[static_cast<std::size_t>(rank)];
    const std::vector<Step> original = program.steps;
    for (std::size_t i = 0; i < original.size(); ++i) {
      for (int m = 0; m < kMutations; ++m) {
        program.steps = original;
        if (!mutate(program.steps, i, static_cast<Mutation>(m), rank, shape)) continue;
        Tally& tally = tallies[static_cast<std::size_t>(m)];
        if (is_refused(programs, shape)) {
          ++tally.refused;
          continue;
        }
        show_equivalent(programs, shape, tally,
                        sweep::text_of(entry, shape) + " rank " + std::to_string(rank) + " step " +
                            std::to_string(i) + " (" + schedule::describe(original[i]) + ") " +
                            kNames[static_cast<std::size_t>(m)]);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
    program.steps = original;
  }
}

class Mutants : public testing::TestWithParam<Entry> {};

TEST_P(Mutants, AreRefusedOrEquivalent) {
  const Entry& entry = GetParam();
  Tallies tallies;
  for (Rank ranks = 2; ranks <= sweep::max_ranks(4); ++ranks) {
    const std::int64_t count = entry.collective == Collective::kBarrier ? 0 : ranks + 1;
    for (const Rank node_ranks : sweep::node_ranks_of(entry, ranks)) {
      const Rank root = has_root(entry.collective) ? 1 : 0;
      try_mutants(entry, {entry.collective, 0, ranks, root, node_ranks, count}, tallies);
      if (HasFatalFailure()) return;
    }
  }
  for (std::size_t m = 0; m < kMutations; ++m) {
    const Tally& t = tallies[m];
    if (t.equivalent > 0) {
      std::printf("  %-32s %-10s %5d refused %5d equivalent (%d of them by samples)\n",
                  sweep::name_of(entry).c_str(), kNames[m], t.refused, t.equivalent, t.sampled);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Catalog, Mutants,
                         testing::ValuesIn(schedule::catalog().begin(), schedule::catalog().end()),
                         [](const auto& param) {
                           std::string name = sweep::name_of(param.param);
                           std::ranges::replace(name, '.', '_');
                           return name;
                         });

}  // namespace
}  // namespace shoal::verify
