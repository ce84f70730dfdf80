// What people read on stderr: failed assertions and the log. Each test looks at a child's stderr:
// the log's level is read once a process.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "core/assert.h"
#include "core/log.h"

namespace shoal {
namespace {

// The place is a path of the source tree, not of the machine that built it.
TEST(AssertDeathTest, AFailedOneSaysWhatAndWhereAndAborts) {
  const int two = 2;
  // ccache makes relative paths of absolute ones, if it is told to.
  EXPECT_DEATH(
      SHOAL_ASSERT(two == 3),
      "^shoal: bug: assertion failed: two == 3 \\((\\.\\./)*tests/core/messages_test.cc:[0-9]+\\)");
}

TEST(Assert, EvaluatesItsConditionOnce) {
  int evaluated = 0;
  SHOAL_ASSERT(++evaluated == 1);
  EXPECT_EQ(evaluated, 1);
}

[[noreturn]] void log_one_line_a_level(const char* level) {
  level == nullptr ? ::unsetenv("SHOAL_LOG") : ::setenv("SHOAL_LOG", level, 1);
  log(LogLevel::kError, "e%d", 1);
  log(LogLevel::kWarn, "w");
  log(LogLevel::kInfo, "i");
  log(LogLevel::kDebug, "d");
  std::exit(0);
}

TEST(LogDeathTest, TheLevelComesFromTheEnvironment) {
  const auto ends_well = ::testing::ExitedWithCode(0);
  const std::string error = "^shoal: e1\n", warn = error + "shoal: w\n", info = warn + "shoal: i\n";
  EXPECT_EXIT(log_one_line_a_level("error"), ends_well, error + "$");
  EXPECT_EXIT(log_one_line_a_level("info"), ends_well, info + "$");
  EXPECT_EXIT(log_one_line_a_level("debug"), ends_well, info + "shoal: d\n$");
  EXPECT_EXIT(log_one_line_a_level(nullptr), ends_well, warn + "$");
  EXPECT_EXIT(log_one_line_a_level("loud"), ends_well, warn + "$") << "unknown: the default";
}

TEST(LogDeathTest, ALineBeyondTheBufferIsCutAndStillEnds) {
  const std::string text(5000, 'x');
  const auto write = [&] {
    log(LogLevel::kError, "%s", text.c_str());
    std::exit(0);
  };
  EXPECT_EXIT(write(), ::testing::ExitedWithCode(0), "^shoal: " + std::string(1023, 'x') + "\n$");
}

}  // namespace
}  // namespace shoal
