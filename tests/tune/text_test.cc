// A table survives its text, and whoever edits one by hand is told what is wrong with it and where.

#include "tune/text.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "rows.h"
#include "shoal/error.h"

namespace shoal::tune {
namespace {

constexpr std::string_view kHead = "shoal-tuning 1; date 2026-03-01; hosts a; network TCP\n";

std::string error_of(const std::string& text) {
  try {
    parse(text, "some/file");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(Text, ComesBackAsTheSameTable) {
  Row alone = all_reduce(4, 2, 4096, Algorithm::kHierarchical);
  alone.collective = Collective::kBarrier;
  alone.up_to_bytes = 0;
  alone.next.reset();
  alone.next_us = 0;
  Row later = all_reduce(6, 1, std::int64_t{1} << 33, Algorithm::kRing);
  later.origin = 1;
  const Table table({Origin{"2026-03-01", "a, b", "UCX 1.22, tcp"}, Origin{"2026-04-02", "c", ""}},
                    {all_reduce(4, 2, 64, Algorithm::kRabenseifner), alone, later});
  const std::string text = to_text(table);
  const Table again = parse(text, "text");
  EXPECT_TRUE(std::ranges::equal(again.rows(), table.rows())) << text;
  EXPECT_TRUE(std::ranges::equal(again.origins(), table.origins())) << text;
  EXPECT_EQ(to_text(again), text);
  EXPECT_EQ(to_text(Table()), "");
}

TEST(Text, TwoTextsAreOneTable) {
  const std::string both = to_text(table_of({all_reduce(4, 1, 64, Algorithm::kRing)})) +
                           to_text(table_of({all_reduce(8, 1, 64, Algorithm::kRing)}));
  EXPECT_EQ(parse(both, "both").rows().size(), 2U);
}

TEST(Text, CommentsBlankLinesAndAlignmentAreFree) {
  const Table table = parse("# by hand\r\n\n" + std::string(kHead) +
                                "\t all_reduce   4 1\t64 ring 1e1 ordered 12 # why not\r\n\n",
                            "text");
  ASSERT_EQ(table.rows().size(), 1U);
  EXPECT_EQ(table.rows()[0].us, 10);
}

// A host's or a network's name must not break the file it is written into.
TEST(Text, FieldsCannotEndTheirLine) {
  Table table({Origin{"today", "a; b\n# c", "x # y"}}, {all_reduce(4, 1, 64, Algorithm::kRing)});
  EXPECT_EQ(parse(to_text(table), "text").origins()[0].hosts, "a, b,, c");
}

struct Malformed {
  std::string text;
  std::vector<std::string> says;
};

TEST(Text, EveryErrorNamesFileLineAndRemedy) {
  const std::string head(kHead);
  const std::vector<Malformed> cases = {
      {"", {"some/file:1", "no line \"shoal-tuning 1", "shoal tune"}},
      {"all_reduce 4 1 64 ring 1 - -\n", {"some/file:1", "before the line"}},
      {"shoal-tuning 2; date x; hosts y; network z\n", {":1", "version \"2\"", "measure again"}},
      {"shoal-tuning 1; when x; hosts y; network z\n", {":1", "\"when x\"", "\"date\""}},
      {"shoal-tuning 1; date x; hosts y\n", {":1", "\"network\""}},
      {head + "all_reduce 4 1 64 ring\n", {"some/file:2", "has 5 words, needs 8", "a line reads"}},
      {head + "all_redcue 4 1 64 ring 1 - -\n", {":2", "\"all_redcue\"", "known are barrier"}},
      {head + "\nall_reduce 4 1 64 rign 1 - -\n", {":3", "\"rign\"", "shoal plan --list"}},
      {head + "broadcast 4 1 64 ring 1 - -\n", {":2", "no algorithm \"ring\"", "binomial"}},
      {head + "all_reduce 4 1 64 direct 1 - -\n", {":2", "\"direct\" between nodes"}},
      {head + "all_reduce 4 1 64 hierarchical 1 - -\n", {":2", "cannot run", "1 a node"}},
      {head + "all_reduce 4 1 64 ring 1 hierarchical 2\n", {":2", "cannot run", "1 a node"}},
      {head + "all_reduce 4 4 64 ring 1 - -\n", {":2", "in one node"}},
      {head + "all_reduce 4 3 64 ring 1 - -\n", {":2", "must divide"}},
      {head + "all_reduce 1 1 64 ring 1 - -\n", {":2", "at least two ranks"}},
      {head + "all_reduce four 1 64 ring 1 - -\n", {":2", "ranks \"four\""}},
      {head + "all_reduce 4 1 64K ring 1 - -\n", {":2", "up_to_bytes \"64K\""}},
      {head + "all_reduce 4 1 -1 ring 1 - -\n", {":2", "not negative"}},
      {head + "all_reduce 4 1 64 ring 0 - -\n", {":2", "positive"}},
      {head + "all_reduce 4 1 64 ring nan - -\n", {":2", "positive"}},
      {head + "all_reduce 4 1 64 ring 1 ring 2\n", {":2", "next best"}},
      {head + "all_reduce 4 1 64 ring 1 - 2\n", {":2", "\"-\" is not known"}},
      {head + "all_reduce 4 1 64 ring 1 - -\nall_reduce 4 1 64 ordered 1 - -\n",
       {":3", "same calls as line 2", "remove"}},
  };
  for (const Malformed& malformed : cases) {
    const std::string error = error_of(malformed.text);
    for (const std::string& part : malformed.says) {
      EXPECT_NE(error.find(part), std::string::npos) << malformed.text << "\nsays " << error;
    }
  }
}

TEST(Text, ARowIsDescribedWithWhatWasMeasured) {
  const Table table = table_of({all_reduce(4, 2, 65536, Algorithm::kHierarchical)});
  const Row& row = table.rows()[0];
  EXPECT_EQ(describe(table, row, shape_of(Collective::kAllReduce, 4, 2)),
            "measured by `shoal tune` on 2026-03-01: 12.3 us, next best ordered 15.0 us; up to "
            "65536 bytes, 4 ranks, 2 a node");
  EXPECT_NE(describe(table, row, shape_of(Collective::kAllReduce, 8, 4)).find("nearest shape"),
            std::string::npos);
}

}  // namespace
}  // namespace shoal::tune
