#include "core/status.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <utility>

namespace shoal {
namespace {

TEST(Status, TheDefaultIsGoodAndConcernsNobody) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.rank, -1);
  EXPECT_TRUE(kOkStatus.ok());
}

TEST(Result, HoldsAValue) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(7);
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(result.status().ok());
  const std::unique_ptr<int> taken = std::move(result.value());
  EXPECT_EQ(*taken, 7);
}

TEST(Result, OrSaysWhyThereIsNone) {
  const Result<int> result = Status{ErrorCode::kOutOfMemory, 3, ENOMEM};
  EXPECT_FALSE(result.ok());
  EXPECT_EQ(result.status().code, ErrorCode::kOutOfMemory);
  EXPECT_EQ(result.status().rank, 3);
  EXPECT_EQ(result.status().detail, ENOMEM);
}

}  // namespace
}  // namespace shoal
