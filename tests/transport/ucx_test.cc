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

}  // namespace
}  // namespace shoal::transport
