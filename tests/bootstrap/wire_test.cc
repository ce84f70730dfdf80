#include "bootstrap/wire.h"

#include <gtest/gtest.h>

namespace shoal::bootstrap {
namespace {

TEST(Wire, HelloSurvivesTheJourney) {
  Hello hello{.role = Role::kStore, .rank = -1, .ranks = 70000};
  hello.nonce.fill('\xfe');
  const std::string bytes = encode(hello);
  ASSERT_EQ(bytes.size(), kHelloBytes);
  const auto read = decode_hello(bytes);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->protocol, kProtocolVersion);
  EXPECT_EQ(read->library, kLibraryVersion);
  EXPECT_EQ(read->role, Role::kStore);
  EXPECT_EQ(read->rank, -1);
  EXPECT_EQ(read->ranks, 70000);
  EXPECT_EQ(read->nonce, hello.nonce);
}

TEST(Wire, AnotherMagicIsNoHello) {
  std::string bytes = encode(Hello{});
  bytes[3] = 'K';
  EXPECT_FALSE(decode_hello(bytes));
  EXPECT_FALSE(decode_hello("SHOL"));
}

// Whatever arrives, the reader neither reads past the end nor believes a length.
TEST(Wire, TruncatedTextIsSeen) {
  const std::string whole = Writer().number(std::int64_t{-5}).text("abc").bytes();
  Reader good(whole);
  EXPECT_EQ(good.number<std::int64_t>(), -5);
  EXPECT_EQ(good.text(), "abc");
  EXPECT_TRUE(good.done());
  for (std::size_t length = 0; length < whole.size(); ++length) {
    Reader reader(std::string_view(whole).substr(0, length));
    reader.number<std::int64_t>();
    EXPECT_EQ(reader.text(), "") << length;
    EXPECT_FALSE(reader.ok()) << length;
  }
  const std::string more = whole + "x";
  Reader longer(more);
  longer.number<std::int64_t>();
  longer.text();
  EXPECT_FALSE(longer.done());
}

}  // namespace
}  // namespace shoal::bootstrap
