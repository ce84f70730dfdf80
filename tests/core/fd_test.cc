#include "core/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <utility>

namespace shoal {
namespace {

int open_null() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }
bool is_open(int fd) { return ::fcntl(fd, F_GETFD) != -1; }

TEST(Fd, ClosesWhatItOwns) {
  const int number = open_null();
  {
    const Fd fd(number);
    EXPECT_TRUE(fd.valid());
    EXPECT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST(Fd, AMoveLeavesOneOwner) {
  const int first = open_null(), second = open_null();
  Fd from(first);
  Fd to(second);
  to = std::move(from);
  EXPECT_FALSE(from.valid());  // NOLINT(bugprone-use-after-move): empty by contract
  EXPECT_EQ(to.get(), first);
  EXPECT_TRUE(is_open(first));
  EXPECT_FALSE(is_open(second)) << "what it held before is closed";
  Fd& same = to;
  to = std::move(same);
  EXPECT_TRUE(is_open(to.get())) << "moved into itself";
}

TEST(Fd, ReleaseGivesTheDutyToCloseAway) {
  Fd fd(open_null());
  const int number = fd.release();
  EXPECT_FALSE(fd.valid());
  fd.reset();
  EXPECT_TRUE(is_open(number));
  ::close(number);
}

}  // namespace
}  // namespace shoal
