#include <gtest/gtest.h>

#include "transport/null/null_transport.h"

namespace shoal::transport {
namespace {

TEST(NullTransport, EverythingIsDoneAtOnceAndNothingIsTouched) {
  null::NullTransport transport;
  Operation out, in;
  char data[4] = "abc";
  ASSERT_TRUE(transport.send(1, {7, 1}, data, 4, out));
  EXPECT_TRUE(out.done() && out.status.ok());
  ASSERT_TRUE(transport.receive(1, {7, 0x123}, data, 4, in));
  EXPECT_TRUE(in.done() && in.status.ok());
  EXPECT_EQ(in.bytes, 4);
  EXPECT_EQ(in.fingerprint, 0x123);
  EXPECT_STREQ(data, "abc");
  EXPECT_TRUE(transport.probe(1, {7, 0x123}));  // a receive would have its message at once
  EXPECT_FALSE(transport.progress());
  EXPECT_LT(transport.arm(), 0);
}

}  // namespace
}  // namespace shoal::transport
