#include "bootstrap/auth.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "bootstrap/link.h"

namespace shoal::bootstrap {
namespace {

// RFC 4231, test case 2.
TEST(Auth, HmacMatchesTheRfc) {
  EXPECT_EQ(to_hex(hmac_sha256("Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(Auth, ComparisonSeesEveryDifference) {
  EXPECT_TRUE(equal_in_constant_time("abc", "abc"));
  EXPECT_FALSE(equal_in_constant_time("abc", "abd"));
  EXPECT_FALSE(equal_in_constant_time("abc", "abcd"));
}

// Each thing a proof covers changes it: direction, secret, job, either hello.
TEST(Auth, ProofDependsOnAllItCovers) {
  const Credentials credentials{"job", "secret"};
  const std::string proof = proof_of(Prover::kDialler, credentials, "d", "a");
  EXPECT_EQ(proof, proof_of(Prover::kDialler, credentials, "d", "a"));
  EXPECT_NE(proof, proof_of(Prover::kAcceptor, credentials, "d", "a"));
  EXPECT_NE(proof, proof_of(Prover::kDialler, {"job", "secreT"}, "d", "a"));
  EXPECT_NE(proof, proof_of(Prover::kDialler, {"joB", "secret"}, "d", "a"));
  EXPECT_NE(proof, proof_of(Prover::kDialler, credentials, "D", "a"));
  EXPECT_NE(proof, proof_of(Prover::kDialler, credentials, "d", "A"));
}

// One link over a socket pair; the other end is held by the test.
class LinkAttack : public ::testing::Test {
 protected:
  LinkAttack() {
    int pair[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    ours_.reset(pair[0]);
    theirs_.reset(pair[1]);
  }
  Link link(Prover end, Role role, Role expected) {
    return Link(std::move(theirs_), end, {role, 0, 2, expected}, credentials_, 1024);
  }
  void write(std::string_view bytes) {
    ASSERT_EQ(::send(ours_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  std::string read() {
    char bytes[4096];
    const ssize_t count = ::recv(ours_.get(), bytes, sizeof bytes, 0);
    return std::string(bytes, static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  }
  /// The dialler's side of a handshake up to its proof; returns the acceptor's hello.
  std::string greet(Link& acceptor, const std::string& hello) {
    write(hello);
    acceptor.pump();
    return read();
  }
  static std::string hello_of(Role role) {
    Hello hello{.role = role, .rank = 1, .ranks = 2};
    hello.nonce.fill('n');
    return encode(hello);
  }

  Credentials credentials_{"job", "secret"};
  Fd ours_, theirs_;
};

TEST_F(LinkAttack, TheRightProofOpensAndFramesFlow) {
  Link acceptor = link(Prover::kAcceptor, Role::kStore, Role::kRank);
  const std::string mine = hello_of(Role::kRank);
  const std::string theirs = greet(acceptor, mine);
  write(proof_of(Prover::kDialler, credentials_, mine, theirs));
  acceptor.pump();
  ASSERT_TRUE(acceptor.open());
  EXPECT_EQ(read(), proof_of(Prover::kAcceptor, credentials_, mine, theirs));
  write(std::string("\3\0\0\0\7abc", 8));
  acceptor.pump();
  const auto frame = acceptor.next();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->payload, "abc");
  EXPECT_EQ(static_cast<int>(frame->type), 7);
}

TEST_F(LinkAttack, AnAcceptorShowsNothingOfTheSecretBeforeTheDiallersProof) {
  Link acceptor = link(Prover::kAcceptor, Role::kStore, Role::kRank);
  EXPECT_EQ(greet(acceptor, hello_of(Role::kRank)).size(), kHelloBytes);
}

// A proof recorded from one connection is worthless in the next: the acceptor's nonce differs.
TEST_F(LinkAttack, ReplayIsRefused) {
  const std::string mine = hello_of(Role::kRank);
  std::string recorded;
  {
    LinkAttack::credentials_ = {"job", "secret"};
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    const Fd victim(pair[0]);
    Link first(Fd(pair[1]), Prover::kAcceptor, {Role::kStore, 0, 2, Role::kRank}, credentials_,
               1024);
    ASSERT_EQ(::send(victim.get(), mine.data(), mine.size(), 0), 64);
    first.pump();
    char hello[kHelloBytes];
    ASSERT_EQ(::recv(victim.get(), hello, sizeof hello, 0), 64);
    recorded = proof_of(Prover::kDialler, credentials_, mine, std::string(hello, sizeof hello));
    ASSERT_EQ(::send(victim.get(), recorded.data(), recorded.size(), 0), 32);
    first.pump();
    ASSERT_TRUE(first.open());  // it was good there
  }
  Link second = link(Prover::kAcceptor, Role::kStore, Role::kRank);
  greet(second, mine);
  write(recorded);
  second.pump();
  EXPECT_TRUE(second.closed());
  EXPECT_EQ(second.end(), LinkEnd::kForeign);
  EXPECT_EQ(read(), std::string(kProofBytes, '\0'));
}

// A stranger who answers a dialler with its own hello and proof proves nothing.
TEST_F(LinkAttack, ReflectionIsRefused) {
  Link dialler = link(Prover::kDialler, Role::kDiallingPeer, Role::kDiallingPeer);
  dialler.pump();
  write(read());  // its own hello; the role is let through here on purpose
  dialler.pump();
  const std::string proof = read();
  ASSERT_EQ(proof.size(), kProofBytes);
  write(proof);
  dialler.pump();
  EXPECT_TRUE(dialler.closed());
  EXPECT_EQ(dialler.end(), LinkEnd::kForeign);
}

TEST_F(LinkAttack, AnotherRoleIsRefused) {
  Link acceptor = link(Prover::kAcceptor, Role::kStore, Role::kRank);
  greet(acceptor, hello_of(Role::kDiallingPeer));
  EXPECT_TRUE(acceptor.closed());
}

TEST_F(LinkAttack, GarbageIsRefusedAtTheFirstByte) {
  Link acceptor = link(Prover::kAcceptor, Role::kStore, Role::kRank);
  write("GET / HTTP/1.1\r\n\r\n");
  acceptor.pump();
  EXPECT_EQ(acceptor.end(), LinkEnd::kForeign);
}

TEST_F(LinkAttack, AnotherVersionIsNamedOnBothSides) {
  Link acceptor = link(Prover::kAcceptor, Role::kStore, Role::kRank);
  const Hello old{.protocol = 9, .role = Role::kRank, .library = 0x010203};
  const std::string answer = greet(acceptor, encode(old));
  EXPECT_EQ(acceptor.end(), LinkEnd::kVersion);
  EXPECT_NE(acceptor.why().find("shoal 1.2.3 (protocol 9)"), std::string::npos) << acceptor.why();
  EXPECT_NE(acceptor.why().find(version_text(kProtocolVersion, kLibraryVersion)),
            std::string::npos);
  const auto hello = decode_hello(answer);  // what the other side needs to say the same
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->protocol, kProtocolVersion);
  EXPECT_EQ(hello->library, kLibraryVersion);
}

TEST_F(LinkAttack, AFrameBeyondTheLimitClosesBeforeItIsRead) {
  Link acceptor = link(Prover::kAcceptor, Role::kStore, Role::kRank);
  const std::string mine = hello_of(Role::kRank);
  const std::string theirs = greet(acceptor, mine);
  write(proof_of(Prover::kDialler, credentials_, mine, theirs));
  write(std::string("\1\4\0\0\7", 5));  // 1025 bytes are announced
  acceptor.pump();
  EXPECT_FALSE(acceptor.next());
  EXPECT_EQ(acceptor.end(), LinkEnd::kMalformed);
}

}  // namespace
}  // namespace shoal::bootstrap
