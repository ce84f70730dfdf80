#include "core/probes.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

namespace shoal {
namespace {

// bpftrace and perf find a probe by its ELF note, which holds provider and name side by side.
TEST(Probes, AreInTheProgramWhereBuiltIn) {
  SHOAL_PROBE(begin, 1, 2, 3);
  SHOAL_PROBE(end, 1, 2, 3);
  SHOAL_PROBE(stall, 1, 2, 3);
  SHOAL_PROBE(error, 1, 2, 3);
  std::stringstream text;
  text << std::ifstream("/proc/self/exe", std::ios::binary).rdbuf();
  const std::string program = text.str();
  for (const std::string name : {"begin", "end", "stall", "error"}) {
    const std::string note = std::string("shoal") + '\0' + name + '\0';
    EXPECT_EQ(program.find(note) != std::string::npos, probes_available()) << name;
  }
}

#if SHOAL_HAVE_SDT
// A tracer raises the semaphore when it attaches; before that not even the arguments are evaluated.
TEST(Probes, CostOnlyATestUntilATracerRaisesTheSemaphore) {
  bool evaluated = false;
  const auto fire = [&] { SHOAL_PROBE(begin, (evaluated = true, 1), 2, 3); };
  fire();
  EXPECT_FALSE(evaluated);
  shoal_begin_semaphore = 1;
  fire();
  shoal_begin_semaphore = 0;
  EXPECT_TRUE(evaluated);
}
#endif

}  // namespace
}  // namespace shoal
