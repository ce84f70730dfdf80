// The verifier is worth what it objects to: every mutant of every schedule must be refused, or be
// shown to be equivalent by the explorer, which knows nothing of the verifier's reasoning.

#include <gtest/gtest.h>

#include <array>
#include <cstdio>

#include "../golden/golden.h"
#include "explorer.h"
#include "schedule/dump.h"
#include "sweep.h"
#include "verify/verify.h"

namespace shoal::verify {
namespace {

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
  kOwnInput,
  kOwnOutput,
  kKind,
  kEarly,
};
constexpr int kMutations = 19;
constexpr std::array<const char*, kMutations> kNames = {
    "drop",      "swap",      "repeat",     "redirect", "shift dst", "shift src", "shrink",
    "slot",      "finish",    "blocks",     "stride",   "space dst", "space src", "owner dst",
    "owner src", "own input", "own output", "kind",     "early"};

bool has_src(const Step& s) {
  return s.kind == StepKind::kSend || s.kind == StepKind::kPut || s.kind == StepKind::kCopy ||
         s.kind == StepKind::kReduce || s.kind == StepKind::kCombine || s.kind == StepKind::kFold;
}
bool has_dst(const Step& s) {
  return s.kind == StepKind::kRecv || s.kind == StepKind::kPut || s.kind == StepKind::kLand ||
         s.kind == StepKind::kCopy || s.kind == StepKind::kReduce || s.kind == StepKind::kCombine ||
         s.kind == StepKind::kFold;
}
bool is_one_sided(const Step& s) {
  return s.kind == StepKind::kOffer || s.kind == StepKind::kAccept || s.kind == StepKind::kPut ||
         s.kind == StepKind::kLand;
}
bool is_message(const Step& s) {
  return s.kind == StepKind::kSend || s.kind == StepKind::kRecv || is_one_sided(s);
}

Space other(Space space) { return space == Space::kOutput ? Space::kInput : Space::kOutput; }

/// The other rank of a node's buffer that could be meant by mistake.
std::int32_t other_owner(std::int32_t owner, Rank rank, const Shape& shape) {
  const Rank node = rank / shape.node_ranks * shape.node_ranks;
  if (owner == kSelf || owner == kEvery) return node + (rank - node + 1) % shape.node_ranks;
  return node + (owner - node + 1) % shape.node_ranks;
}

/// Does the mutation move or reduce other data than the original? No such mutant is equivalent.
bool changes_data(const Step& step, Mutation mutation) {
  const bool has_elements = step.src.count > 0 || step.dst.count > 0;
  switch (mutation) {
    case Mutation::kShiftDst:
    case Mutation::kShiftSrc:
    case Mutation::kShrink:
      return has_elements;
    case Mutation::kRedirect:
    case Mutation::kFinish:
    case Mutation::kBlocks:
    case Mutation::kStride:
    case Mutation::kKind:
    case Mutation::kEarly:
      return true;
    default:
      return false;
  }
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
      if (s.kind == StepKind::kPut) s.dst.rank = s.peer;
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
      if (s.kind != StepKind::kReduce && s.kind != StepKind::kCombine &&
          s.kind != StepKind::kFold) {
        return false;
      }
      s.finish = !s.finish;
      return true;
    case Mutation::kBlocks:
      return s.kind == StepKind::kFold ? --s.blocks, true : false;
    case Mutation::kStride:
      if (s.kind == StepKind::kCombine) return ++s.stride, true;
      if (s.kind != StepKind::kFold) return false;
      return s.src.rank == kSelf || s.own_input ? ++s.stride, true : false;
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
    case Mutation::kOwnInput:
      return s.kind == StepKind::kFold && s.own_input ? s.own_input = false, true : false;
    case Mutation::kOwnOutput:
      return s.kind == StepKind::kFold && s.own_output ? s.own_output = false, true : false;
    case Mutation::kKind:
      if (s.kind != StepKind::kPut && s.kind != StepKind::kLand) return false;
      s.kind = s.kind == StepKind::kPut ? StepKind::kSend : StepKind::kRecv;
      return true;
    case Mutation::kEarly: {  // before the rank knows that the place is free
      if (s.kind != StepKind::kPut) return false;
      const Step put = s;
      steps.erase(at);
      steps.insert(steps.begin(), put);
      return true;
    }
  }
  return false;
}

struct Tally {
  int refused = 0, equivalent = 0;
  int harmless = 0;  ///< of those refused: no order of events gives a wrong result
};
using Tallies = std::array<Tally, kMutations>;

bool is_refused(const std::vector<Program>& programs, const Shape& shape) {
  return std::ranges::any_of(kAliasModes,
                             [&](AliasMode mode) { return !verify(programs, shape, mode); });
}

/// No order of events gives a wrong result; false also if there are too many orders to try all.
bool is_harmless(const std::vector<Program>& programs, const Shape& shape, std::string& what) {
  for (const AliasMode mode : kAliasModes) {
    const Exploration result = explore(programs, shape, mode);
    what = result.ok && !result.exhaustive ? "too many states to try all" : result.what;
    if (!result.ok || !result.exhaustive) return false;
  }
  return true;
}

/// Calls each(rank, step, mutation) with `programs` changed so, for all mutants of a schedule.
template <class Each>
void for_each_mutant(std::vector<Program>& programs, const Shape& shape, Each&& each) {
  for (Rank rank = 0; rank < shape.ranks; ++rank) {
    Program& program = programs[static_cast<std::size_t>(rank)];
    const std::vector<Step> original = program.steps;
    for (std::size_t i = 0; i < original.size(); ++i) {
      for (int m = 0; m < kMutations; ++m) {
        program.steps = original;
        const auto mutation = static_cast<Mutation>(m);
        if (!mutate(program.steps, i, mutation, rank, shape)) continue;
        each(rank, original[i], mutation);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
    program.steps = original;
  }
}

std::string text_of(const Entry& entry, const Shape& shape, Rank rank, const Step& step,
                    Mutation m) {
  return sweep::text_of(entry, shape) + " rank " + std::to_string(rank) + " (" +
         schedule::describe(step) + ") " + kNames[static_cast<std::size_t>(m)];
}

void try_mutants(const Entry& entry, const Shape& shape, Tallies& tallies) {
  std::vector<Program> programs = programs_of(entry.algorithm, shape);
  for_each_mutant(programs, shape, [&](Rank rank, const Step& step, Mutation mutation) {
    Tally& tally = tallies[static_cast<std::size_t>(mutation)];
    std::string what;
    if (is_refused(programs, shape)) {
      ++tally.refused;
      // A check of the explorer more than of the verifier, for which small shapes are enough.
      tally.harmless += shape.ranks <= 3 && is_harmless(programs, shape, what);
    } else {
      ++tally.equivalent;
      ASSERT_TRUE(is_harmless(programs, shape, what))
          << text_of(entry, shape, rank, step, mutation) << ": not refused, but " << what;
    }
  });
}

/// Most of the time goes into four ranks: three minutes under a sanitizer, of the same code.
Rank max_ranks(Rank otherwise) { return sweep::max_ranks(otherwise, 3); }

/// Shapes whose mutants are tried: in-place or not makes no difference to a barrier without
/// elements.
std::vector<Shape> shapes_of(const Entry& entry, std::initializer_list<Rank> rank_counts) {
  std::vector<Shape> shapes;
  for (const Rank ranks : rank_counts) {
    if (ranks > max_ranks(ranks)) continue;
    const std::int64_t count = entry.collective == Collective::kBarrier ? 0 : ranks + 1;
    const Rank root = has_root(entry.collective) ? 1 : 0;
    for (const Rank node_ranks : sweep::node_ranks_of(entry, ranks)) {
      Shape shape{entry.collective, 0, ranks, root, node_ranks, count};
      // With several tiles at 4 ranks there are too many orders of events to try them all.
      if (ranks < 4) shape.tile = sweep::tile_of(entry.collective, ranks, count);
      shapes.push_back(shape);
    }
  }
  return shapes;
}

std::string table_of(const Entry& entry, const Tallies& tallies) {
  std::string text;
  for (std::size_t m = 0; m < kMutations; ++m) {
    const Tally& tally = tallies[m];
    if (tally.refused + tally.equivalent == 0) continue;
    std::array<char, 128> line{};
    std::snprintf(line.data(), line.size(), "%-30s  %-10s %8d %10d\n",
                  sweep::name_of(entry).c_str(), kNames[m], tally.refused, tally.equivalent);
    text += line.data();
  }
  return text;
}

// P = 2, 3, 4. The list of equivalents is kept: it grows only if somebody has looked at the reason.
// They are
//   swap, repeat   of steps that do not depend on each other, or do the same again
//   slot           to another that is free, where a wait for all follows
//   drop           of the entry's await at a rank that touches no other before its peers' next post
//   shift, space   of messages without elements (barriers)
//   space src      of a place that holds the same at that moment (the root's input and output)
TEST(Mutants, AreRefusedOrEquivalent) {
  std::string table = "algorithm                       mutation    refused equivalent\n";
  Tally all;
  for (const Entry& entry : schedule::catalog()) {
    Tallies tallies{};
    for (const Shape& shape : shapes_of(entry, {2, 3, 4})) {
      try_mutants(entry, shape, tallies);
      if (HasFatalFailure()) return;
    }
    for (const Tally& tally : tallies) {
      all.refused += tally.refused, all.equivalent += tally.equivalent;
      all.harmless += tally.harmless;
    }
    table += table_of(entry, tallies);
  }
  std::printf("  %d mutants refused, %d shown to be equivalent\n", all.refused, all.equivalent);
  std::printf("  of those refused at P <= 3, %d would do no harm\n", all.harmless);
  if (max_ranks(4) == 4) golden::expect_golden("mutants.txt", table);
}

// Where no equivalent is conceivable none is allowed, and more ranks can be tried.
TEST(Mutants, WrongDataIsAlwaysRefused) {
  if (max_ranks(5) < 5) GTEST_SKIP() << "of five ranks and more, which is too slow here";
  for (const Entry& entry : schedule::catalog()) {
    for (const Shape& shape : shapes_of(entry, {5, 6, 8})) {
      std::vector<Program> programs = programs_of(entry.algorithm, shape);
      for_each_mutant(programs, shape, [&](Rank rank, const Step& step, Mutation mutation) {
        if (!changes_data(step, mutation)) return;
        ASSERT_TRUE(is_refused(programs, shape)) << text_of(entry, shape, rank, step, mutation);
      });
      if (HasFatalFailure()) return;
    }
  }
}

// ------------------------------------------------------------- what the explorer itself is worth

/// Two ranks of one node, or of two.
Shape two_ranks(Collective collective, Rank node_ranks) {
  return {collective, 0, 2, 0, node_ranks, 1};
}

const Ref kIn = input(0, 1), kOut = output(0, 1), kTmp = scratch(0, 1);

void expect_both_refuse(const std::vector<Program>& programs, const Shape& shape,
                        const std::string& verifier_says, const std::string& explorer_says) {
  const Verdict verdict = verify(programs, shape, AliasMode::kNone);
  EXPECT_FALSE(verdict.ok);
  EXPECT_NE(verdict.what.find(verifier_says), std::string::npos) << verdict.what;
  const Exploration exploration = explore(programs, shape, AliasMode::kNone);
  EXPECT_FALSE(exploration.ok);
  EXPECT_EQ(exploration.what, explorer_says);
}

// One copy of both blocks is right where they lie one behind the other.
TEST(Verifier, RefusesAStepOverTwoBlocksThatMayLieAnywhere) {
  const auto program = [](Rank peer) {
    const Ref both = input(0, 2);
    return Program{
        {Step::post(), Step::await(kEvery), Step::copy(scratch(0, 2), both.of(peer)),
         Step::copy(output(peer, 1), scratch(1 - peer, 1)),
         Step::copy(output(1 - peer, 1), input(1 - peer, 1)), Step::post(), Step::await(kEvery)},
        2};
  };
  const std::vector<Program> programs = {program(1), program(0)};
  const Shape shape = two_ranks(Collective::kAllToAll, 2);
  EXPECT_TRUE(verify(programs, shape, AliasMode::kNone).ok);
  const Verdict verdict = verify(programs, shape, AliasMode::kNone, BlockMode::kAnywhere);
  EXPECT_FALSE(verdict.ok);
  EXPECT_NE(verdict.what.find("border of a block"), std::string::npos) << verdict.what;
}

// Both send first and wait: right with eager sends only.
TEST(Both, RefuseWhatNeedsBufferedSends) {
  const auto program = [](Rank peer) {
    return Program{{Step::send(peer, kIn, 0), Step::wait(0), Step::recv(peer, output(peer, 1), 0),
                    Step::wait(0), Step::copy(output(1 - peer, 1), kIn)},
                   0};
  };
  expect_both_refuse({program(1), program(0)}, two_ranks(Collective::kAllGather, 1), "deadlock",
                     "stuck");
}

// The receiver has got the message, so the sender's buffer looks free: but sends may be eager, and
// the message says nothing of the receiver's next step.
TEST(Both, RefuseAReadBeforeTheOwnersWrite) {
  const Program root{
      {Step::post(), Step::await(kEvery), Step::copy(kOut, kIn), Step::post(), Step::await(kEvery)},
      0};
  const Program other{{Step::post(), Step::await(kEvery), Step::copy(kOut, kOut.of(0)),
                       Step::post(), Step::await(kEvery)},
                      0};
  expect_both_refuse({root, other}, two_ranks(Collective::kBroadcast, 2), "never been written",
                     "wrong result");
}

TEST(Both, RefuseAReturnBeforeTheReaderHasRead) {
  const Program root{{Step::post(), Step::await(kEvery), Step::copy(kOut, kIn), Step::post()}, 0};
  const Program other{
      {Step::post(), Step::await(kEvery), Step::copy(kOut, kIn.of(0)), Step::post()}, 0};
  expect_both_refuse({root, other}, two_ranks(Collective::kBroadcast, 2), "returns while",
                     "wrong result");
}

// The receive's buffer is read before the wait.
TEST(Both, RefuseATouchInFlight) {
  const Program root{{Step::send(1, kIn, 0), Step::copy(kOut, kIn), Step::wait(0)}, 0};
  const Program other{{Step::recv(0, kTmp, 0), Step::copy(kOut, kTmp), Step::wait(0)}, 1};
  expect_both_refuse({root, other}, two_ranks(Collective::kBroadcast, 1), "being received",
                     "wrong result");
}

/// The root puts the two elements of a broadcast through one place. `credit`: it awaits word that
/// the first one has been taken out.
std::vector<Program> through_one_place(bool credit) {
  const Ref nothing = scratch(0, 0);
  Program root{{Step::accept(1, 0), Step::wait(0), Step::put(1, kTmp, input(0, 1), 0)}, 0};
  Program other{
      {Step::offer(0, 0), Step::land(0, kTmp, 1), Step::wait_all(), Step::copy(output(0, 1), kTmp)},
      1};
  if (credit) {
    root.steps.push_back(Step::recv(1, nothing, 1));
    other.steps.push_back(Step::send(0, nothing, 0));
  }
  for (const Step& step : {Step::wait_all(), Step::put(1, kTmp, input(1, 1), 0), Step::wait_all(),
                           Step::copy(output(0, 2), input(0, 2))}) {
    root.steps.push_back(step);
  }
  for (const Step& step :
       {Step::land(0, kTmp, 1), Step::wait_all(), Step::copy(output(1, 1), kTmp)}) {
    other.steps.push_back(step);
  }
  return {root, other};
}

TEST(Both, RefuseAPutBeforeItsPlaceIsKnownToBeFree) {
  Shape shape = two_ranks(Collective::kBroadcast, 1);
  shape.count = 2;
  expect_both_refuse(through_one_place(false), shape, "has not landed", "wrong result");
  const std::vector<Program> right = through_one_place(true);
  const Verdict verdict = verify(right, shape, AliasMode::kNone);
  EXPECT_TRUE(verdict.ok) << verdict.what;
  const Exploration exploration = explore(right, shape, AliasMode::kNone);
  EXPECT_TRUE(exploration.ok && exploration.exhaustive) << exploration.what;
}

TEST(Both, RefuseAReadBeforeTheFlagOfThePut) {
  const Program root{{Step::accept(1, 0), Step::wait(0), Step::put(1, kTmp, kIn, 0),
                      Step::copy(kOut, kIn), Step::wait_all()},
                     0};
  const Program other{
      {Step::offer(0, 0), Step::land(0, kTmp, 1), Step::copy(kOut, kTmp), Step::wait_all()}, 1};
  expect_both_refuse({root, other}, two_ranks(Collective::kBroadcast, 1), "being received",
                     "wrong result");
}

// Rank 2 knows that rank 0 has started its put, from rank 0 itself, and tells rank 1 so: but only a
// flag that takes the way of the put comes behind it.
TEST(Both, RefuseAFlagThatTakesAnotherWay) {
  const Ref nothing = scratch(0, 0);
  const Program root{{Step::accept(1, 0), Step::wait(0), Step::put(1, kTmp, kIn, 0),
                      Step::send(2, kIn, 1), Step::copy(kOut, kIn), Step::wait_all()},
                     0};
  const Program reader{{Step::offer(0, 0), Step::recv(2, nothing, 2), Step::wait(2),
                        Step::copy(kOut, kTmp), Step::land(0, kTmp, 1), Step::wait_all()},
                       1};
  const Program messenger{
      {Step::recv(0, kOut, 0), Step::wait(0), Step::send(1, nothing, 1), Step::wait_all()}, 0};
  Shape shape = two_ranks(Collective::kBroadcast, 1);
  shape.ranks = 3;
  expect_both_refuse({root, reader, messenger}, shape, "has not landed", "wrong result");
}

TEST(Both, RefuseASumThatCountsARankTwice) {
  const Program root{{Step::recv(1, kTmp, 0), Step::copy(kOut, kIn), Step::wait(0),
                      Step::reduce(kOut, kTmp), Step::reduce(kOut, kTmp, true)},
                     1};
  const Program other{{Step::send(0, kIn, 0), Step::wait(0)}, 0};
  expect_both_refuse({root, other}, two_ranks(Collective::kReduce, 1), "twice", "wrong result");
}

TEST(Both, RefuseABarrierThatDoesNotHold) {
  const Program early{{Step::post()}, 0};
  const Program late{{Step::post(), Step::await(kEvery)}, 0};
  Shape shape = two_ranks(Collective::kBarrier, 2);
  shape.count = 0;
  expect_both_refuse({early, late}, shape, "leaves the barrier", "left the barrier early");
}

}  // namespace
}  // namespace shoal::verify
