// What `shoal plan` prints, for every algorithm and P = 2, 3, 4, 5, 8: a change of a schedule is
// seen.

#include "../golden/golden.h"

#include "../verify/sweep.h"
#include "schedule/dump.h"

namespace shoal::schedule {
namespace {

/// All ranks of the small shapes; of the larger ones the first and the last.
std::string listing(const Entry& entry, const Shape& shape) {
  if (shape.ranks <= 4) return dump_all(entry.algorithm, shape);
  Shape last = shape;
  last.rank = shape.ranks - 1;
  return dump(entry.algorithm, shape) + '\n' + dump(entry.algorithm, last);
}

class Golden : public testing::TestWithParam<Entry> {};

TEST_P(Golden, DumpIsAsItWas) {
  const Entry& entry = GetParam();
  std::string text;
  for (const Rank ranks : {2, 3, 4, 5, 8}) {
    for (const Rank node_ranks : sweep::node_ranks_of(entry, ranks)) {
      const Rank root = has_root(entry.collective) ? 1 : 0;
      const std::int64_t count = entry.collective == Collective::kBarrier ? 0 : 16 * ranks + 3;
      text += listing(entry, {entry.collective, 0, ranks, root, node_ranks, count,
                              sweep::tile_of(entry.collective, ranks, count)}) +
              '\n';
    }
  }
  golden::expect_golden(sweep::name_of(entry) + ".txt", text);
}

INSTANTIATE_TEST_SUITE_P(Catalog, Golden, testing::ValuesIn(catalog().begin(), catalog().end()),
                         sweep::test_name);

}  // namespace
}  // namespace shoal::schedule
