// The inbox without sockets: whatever the sizes of the pieces that a stream comes in, and whatever
// order receives are posted in, each message ends where it belongs.
#include "transport/tcp/inbox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <random>
#include <vector>

namespace shoal::transport::tcp {
namespace {

struct Message {
  Match match;
  std::vector<std::byte> content;
};

std::vector<std::byte> stream_of(const std::vector<Message>& messages) {
  std::vector<std::byte> stream;
  for (const Message& message : messages) {
    const Header header =
        header_of(message.match, static_cast<std::int64_t>(message.content.size()));
    const auto* begin = reinterpret_cast<const std::byte*>(&header);
    stream.insert(stream.end(), begin, begin + sizeof header);
    stream.insert(stream.end(), message.content.begin(), message.content.end());
  }
  return stream;
}

/// Gives the inbox up to `most` bytes of the stream, as a socket would; how many it took.
std::size_t give(Inbox& inbox, const std::vector<std::byte>& stream, std::size_t at,
                 std::size_t most) {
  Inbox::Spaces spaces;
  const int count = inbox.spaces(spaces);
  EXPECT_GT(count, 0);
  std::size_t given = 0;
  for (int i = 0; i < count; ++i) {
    const std::size_t n = std::min({spaces[i].iov_len, most - given, stream.size() - at - given});
    std::memcpy(spaces[i].iov_base, stream.data() + at + given, n);
    given += n;
    if (n < spaces[i].iov_len) break;
  }
  EXPECT_TRUE(inbox.arrived(static_cast<std::int64_t>(given)));
  return given;
}

// 400 random streams of messages with few keys, cut at random places, with receives posted before,
// within and after them in random order of keys; some too small, some cancelled on the way.
TEST(Inbox, RandomStreamsArriveWhereTheyBelong) {
  for (unsigned seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto below = [&](unsigned n) { return random() % n; };
    std::vector<Message> messages(1 + below(12));
    for (std::size_t i = 0; i < messages.size(); ++i) {
      messages[i].match = {collective_key(0, below(4)), static_cast<std::uint16_t>(i)};
      messages[i].content.assign(below(4) == 0 ? 0 : below(300), std::byte(i + 1));
    }
    // What is received: the messages of each key in their order, the keys mixed.
    std::vector<std::size_t> order(messages.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    std::vector<std::size_t> next;  // k-th receive of a key takes the k-th message of the key
    for (std::size_t i : order) {
      const auto nth = std::count_if(next.begin(), next.end(), [&](std::size_t j) {
        return messages[j].match.key == messages[i].match.key;
      });
      std::size_t j = 0;
      for (auto left = nth; messages[j].match.key != messages[i].match.key || left-- > 0; ++j) {
      }
      next.push_back(j);
    }
    const std::vector<std::byte> stream = stream_of(messages);
    std::deque<Operation> operations(messages.size());
    std::vector<std::vector<std::byte>> memory(messages.size());
    Inbox inbox;
    std::size_t at = 0, posted = 0;
    while (posted < next.size() || (at < stream.size() && inbox.wants())) {
      const bool post = posted < next.size() && (!inbox.wants() || below(3) == 0);
      if (post) {
        const std::size_t j = next[posted++];
        const std::size_t bytes = messages[j].content.size();
        const bool too_small = bytes > 0 && below(8) == 0;
        const std::size_t capacity = too_small ? bytes - 1 : bytes + below(3) * 50;
        memory[j].assign(capacity + 8, std::byte{0xee});
        operations[j].state = Operation::State::kActive;
        inbox.receive(messages[j].match, memory[j].data(), static_cast<std::int64_t>(capacity),
                      operations[j]);
      } else if (at < stream.size()) {
        at += give(inbox, stream, at, 1 + below(200));
      } else {
        break;
      }
    }
    ASSERT_EQ(at, stream.size());
    for (std::size_t j = 0; j < messages.size(); ++j) {
      const auto& content = messages[j].content;
      ASSERT_TRUE(operations[j].done()) << "message " << j;
      EXPECT_EQ(operations[j].fingerprint, messages[j].match.fingerprint);
      const std::size_t capacity = memory[j].size() - 8;
      EXPECT_EQ(operations[j].status.code,
                content.size() <= capacity ? ErrorCode::kOk : ErrorCode::kMismatch);
      EXPECT_EQ(std::count(memory[j].end() - 8, memory[j].end(), std::byte{0xee}), 8);
      if (content.size() <= capacity) {
        EXPECT_EQ(operations[j].bytes, static_cast<std::int64_t>(content.size()));
        EXPECT_TRUE(std::equal(content.begin(), content.end(), memory[j].begin())) << j;
      }
    }
  }
}

TEST(Inbox, ACancelledReceiveIsNotWrittenAndTheStreamGoesOn) {
  const std::vector<Message> messages = {{{1, 0}, std::vector<std::byte>(100, std::byte{1})},
                                         {{2, 0}, std::vector<std::byte>(10, std::byte{2})}};
  const auto stream = stream_of(messages);
  Inbox inbox;
  Operation first, second;
  std::vector<std::byte> abandoned(100), kept(10);
  inbox.receive({1, 0}, abandoned.data(), 100, first);
  std::size_t at = give(inbox, stream, 0, 50);
  ASSERT_TRUE(inbox.cancel(first));
  EXPECT_EQ(first.status.code, ErrorCode::kAborted);
  std::fill(abandoned.begin(), abandoned.end(), std::byte{0x77});
  inbox.receive({2, 0}, kept.data(), 10, second);
  while (at < stream.size()) at += give(inbox, stream, at, 7);
  EXPECT_TRUE(second.done());
  EXPECT_TRUE(kept == messages[1].content);
  EXPECT_EQ(std::count(abandoned.begin(), abandoned.end(), std::byte{0x77}), 100);
}

TEST(Inbox, AnImpossibleLengthIsNoStreamOfOurs) {
  Inbox inbox;
  Operation operation;
  std::byte memory[8];
  inbox.receive({1, 0}, memory, 8, operation);
  for (const std::int64_t bytes : {std::int64_t{-1}, kMaxMessageBytes + 1}) {
    Inbox broken;
    broken.receive({1, 0}, memory, 8, operation);
    Inbox::Spaces spaces;
    ASSERT_GT(broken.spaces(spaces), 0);
    const Header header = header_of({1, 0}, bytes);
    std::memcpy(spaces[0].iov_base, &header, sizeof header);
    EXPECT_FALSE(broken.arrived(sizeof header));
  }
}

}  // namespace
}  // namespace shoal::transport::tcp
