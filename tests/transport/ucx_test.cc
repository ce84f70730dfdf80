// UCX over TCP's loopback, several workers in one process. ctest runs it once for each UCX that
// was found (SHOAL_UCX_DIR); tests/vm runs it over verbs.
#include <cstdlib>
#include <vector>

#include "conformance.h"
#include "shoal/error.h"
#include "transport/ucx/loader.h"
#include "transport/ucx/wire_tag.h"
#include "ucx_member.h"

namespace shoal::transport {
namespace {

using ucx::UcxOptions;
using ucx::UcxTransport;

class UcxWorld final : public Fabric {
 public:
  explicit UcxWorld(int peers) {
    for (int r = 0; r < peers; ++r) members_.push_back(ucx::make_ucx(ucx_member(r, peers)));
    for (auto& member : members_) {
      for (int r = 0; r < peers; ++r) {
        member->set_peer_address(r, members_[static_cast<std::size_t>(r)]->address());
      }
    }
  }
  Transport& at(int rank) override { return *members_[static_cast<std::size_t>(rank)]; }
  UcxTransport& ucx(int rank) { return *members_[static_cast<std::size_t>(rank)]; }

 private:
  std::vector<std::unique_ptr<UcxTransport>> members_;
};

INSTANTIATE_TEST_SUITE_P(Ucx, TransportConformance,
                         testing::Values(Member{
                             "tcp", [](int peers) { return std::make_unique<UcxWorld>(peers); }}),
                         member_name);

TEST(WireTag, EachFieldHasItsBitsAndTheFingerprintIsNotMatched) {
  const Match widest{p2p_key(kMaxCommunicators - 1, kMaxTag), 0xfff};
  EXPECT_EQ(ucx::wire_tag(kMaxPeers - 1, widest), ~std::uint64_t{0});
  EXPECT_EQ(ucx::fingerprint_of(ucx::wire_tag(0, {0, 0xabc})), 0xabc);
  const std::uint64_t base = ucx::wire_tag(0, {collective_key(0, 0), 0});
  for (const std::uint64_t other :
       {ucx::wire_tag(1, {0, 0}), ucx::wire_tag(0, {collective_key(1, 0), 0}),
        ucx::wire_tag(0, {collective_key(0, 1), 0}), ucx::wire_tag(0, {p2p_key(0, 0), 0})}) {
    EXPECT_NE(base & ucx::kMatchedBits, other & ucx::kMatchedBits);
  }
  EXPECT_EQ(base & ucx::kMatchedBits, ucx::wire_tag(0, {0, 0xfff}) & ucx::kMatchedBits);
}

TEST(FindUcx, SaysWhichWasFoundAndLeavesTheEnvironmentAsItWas) {
  const ucx::UcxFound& found = ucx::find_ucx();
  ASSERT_FALSE(found.path.empty()) << found.reason;
  EXPECT_FALSE(found.reason.empty());
  if (const char* directory = std::getenv("SHOAL_UCX_DIR")) {
    EXPECT_TRUE(found.path.starts_with(directory)) << found.path << " is not in " << directory;
  }
  EXPECT_TRUE(found.version.starts_with("1.")) << found.version;
  EXPECT_NE(std::find(found.transports.begin(), found.transports.end(), "tcp"),
            found.transports.end());
  EXPECT_EQ(std::getenv("UCX_MEM_MMAP_HOOK_MODE"), nullptr);
  EXPECT_EQ(std::getenv("UCX_ERROR_SIGNALS"), nullptr);
  const std::string line = ucx::make_ucx(ucx_member(0, 1))->describe();
  EXPECT_NE(line.find(found.version), std::string::npos) << line;
}

TEST(FindUcx, AnImpossibleTransportIsAnErrorThatSaysWhatWasAsked) {
  UcxOptions options = ucx_member(0, 2);
  options.transports = "nosuchtransport";
  try {
    ucx::make_ucx(options);
    FAIL() << "it was made";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kTransport);
    EXPECT_NE(std::string(error.what()).find("nosuchtransport"), std::string::npos) << error.what();
  }
}

// Registered memory is found through the callback and its handle is what UCX gets; results are as
// without.
TEST(UcxRegistration, MessagesInRegisteredMemoryArrive) {
  const auto sent = message(3 << 20, 1);
  std::vector<std::byte> received(sent.size());
  void* handles[2] = {};
  int asked = 0;
  std::vector<std::unique_ptr<UcxTransport>> members;
  for (int r = 0; r < 2; ++r) {
    UcxOptions options = ucx_member(r, 2);
    options.registration = [&, r](const void*, std::int64_t) { return ++asked, handles[r]; };
    members.push_back(ucx::make_ucx(options));
  }
  members[0]->set_peer_address(1, members[1]->address());
  members[1]->set_peer_address(0, members[0]->address());
  const auto bytes = static_cast<std::int64_t>(sent.size());
  auto first = members[0]->register_memory(const_cast<std::byte*>(sent.data()), bytes);
  auto second = members[1]->register_memory(received.data(), bytes);
  ASSERT_TRUE(first.ok() && second.ok());
  handles[0] = first.value();
  handles[1] = second.value();
  Operation out, in;
  ASSERT_TRUE(members[1]->receive(0, {1, 0}, received.data(), bytes, in));
  ASSERT_TRUE(members[0]->send(1, {1, 0}, sent.data(), bytes, out));
  const Deadline deadline = Deadline::after_ms(kPatienceMs);
  while (!(in.done() && out.done()) && !deadline.passed()) {
    for (auto& member : members) member->progress();
  }
  ASSERT_TRUE(in.done() && out.done());
  EXPECT_TRUE(in.status.ok() && out.status.ok());
  EXPECT_TRUE(sent == received);
  EXPECT_EQ(asked, 2);
  for (std::size_t r = 0; r < 2; ++r) members[r]->deregister_memory(handles[r]);
}

/// Two members, and memory of rank 1 that rank 0 may put to.
class UcxPut : public testing::Test {
 protected:
  static constexpr std::int64_t kBytes = 1 << 20;

  void SetUp() override {
    for (int r = 0; r < 2; ++r) {
      UcxOptions options = ucx_member(r, 2);
      if (r == 1) options.registration = [this](const void*, std::int64_t) { return handle_; };
      members_.push_back(ucx::make_ucx(options));
    }
    if (!members_[0]->has_put() || !members_[1]->has_put()) GTEST_SKIP() << members_[0]->describe();
    members_[0]->set_peer_address(1, members_[1]->address());
    members_[1]->set_peer_address(0, members_[0]->address());
    handle_ = members_[1]->register_memory(place_.data(), kBytes).value();
  }
  void TearDown() override {
    if (handle_ != nullptr) members_[1]->deregister_memory(handle_);
  }

  /// Puts `sent` to `offset`; true if it came straight. Whichever way it came, it must be there.
  bool put(const std::vector<std::byte>& sent, std::int64_t offset) {
    const auto bytes = static_cast<std::int64_t>(sent.size());
    const Key key = members_[1]->key_to(place_.data(), kBytes);
    EXPECT_FALSE(key.empty());
    Operation in, out;
    EXPECT_TRUE(members_[0]->put(1, {1, 7}, key, offset, sent.data(), bytes, out));
    EXPECT_TRUE(members_[1]->receive(0, {1, 7}, place_.data() + offset, bytes, in));
    const Deadline deadline = Deadline::after_ms(kPatienceMs);
    bool is_there = false;
    while (!(in.done() && out.done()) && !deadline.passed()) {
      for (auto& member : members_) member->progress();
      if (!in.done() || is_there) continue;
      is_there = std::equal(sent.begin(), sent.end(), place_.begin() + offset);
      EXPECT_TRUE(is_there) << "the flag came before the data";
      if (!is_there) return false;
    }
    EXPECT_TRUE(in.done() && out.done());
    EXPECT_TRUE(in.status.ok() && out.status.ok());
    EXPECT_EQ(in.fingerprint, 7);
    return in.bytes == 0;
  }

  std::vector<std::byte> place_ = std::vector<std::byte>(kBytes);
  void* handle_ = nullptr;
  std::vector<std::unique_ptr<UcxTransport>> members_;
};

// The first ones find an endpoint that is not connected yet, and are messages.
TEST_F(UcxPut, ComesStraightToItsPlaceAndBeforeItsFlag) {
  int straight = 0, puts = 0;
  for (const std::int64_t bytes : {8, 1000, 8192, 8200, 65'536, 99'991, 1 << 20}) {
    for (int n = 0; n < 6; ++n, ++puts)
      straight += put(message(bytes, puts), (n * 8) % (kBytes - bytes + 8));
    if (HasFailure()) return;
  }
  EXPECT_GE(straight, puts - 6) << members_[0]->describe();
}

// Each key is of another registration, and there are more of them than are kept.
TEST_F(UcxPut, KeysOfMemoryThatIsRegisteredAnewAreNewOnes) {
  int straight = 0;
  for (int n = 0; n < 40; ++n) {
    members_[1]->deregister_memory(handle_);
    handle_ = members_[1]->register_memory(place_.data(), kBytes).value();
    straight += put(message(20'000, n), 0);
    if (HasFailure()) return;
  }
  EXPECT_GE(straight, 34);
}

// Before anything has been connected, and to a peer that does not exist any more.
TEST_F(UcxPut, EndsByCancelAlsoWhereThePeerIsGone) {
  const auto sent = message(kBytes, 1);
  for (int n = 0; n < 8; ++n) put(message(64, n), 0);
  const Key key = members_[1]->key_to(place_.data(), kBytes);
  Operation out;
  ASSERT_TRUE(members_[0]->put(1, {1, 7}, key, 0, sent.data(), kBytes, out));
  members_[0]->cancel(out);
  EXPECT_TRUE(out.done());
  members_[1]->deregister_memory(handle_);
  handle_ = nullptr;
  members_.pop_back();
  for (int n = 0; n < 3; ++n) {
    Operation late;
    ASSERT_TRUE(members_[0]->put(1, {1, 7}, key, 0, sent.data(), kBytes, late));
    members_[0]->progress();
    members_[0]->cancel(late);
    EXPECT_TRUE(late.done());
  }
}

}  // namespace
}  // namespace shoal::transport
