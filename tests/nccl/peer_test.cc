/// The other side is another process, which is killed, stopped, or ends. Whatever happens to it, no
/// request waits for ever, and NCCL's log says who it was. Once, not for each version: the tables
/// share all of this.
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <thread>

#include "pair.h"

namespace shoal::nccl::test {
namespace {

using namespace abi;

/// Beyond what connection.h promises: 5 s after a death at most, on a loaded machine.
constexpr int kBoundMs = 15'000;

/// A process that does one thing with its end of the pipe, and then waits to be killed.
class Peer {
 public:
  explicit Peer(const std::function<void(int pipe)>& act) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ends[0]);
      ::alarm(120);  // whatever becomes of the test
      act(ends[1]);
      ::_exit(::testing::Test::HasFailure() ? 1 : 0);
    }
    ::close(ends[1]);
    pipe_ = ends[0];
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer() {
    signal(SIGKILL);
    int status = status_;
    if (!ended_) ::waitpid(pid_, &status, 0);
    const bool as_meant = WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : status == 0;
    EXPECT_TRUE(as_meant) << name() << " ended by itself, with status " << status;
    ::close(pipe_);
  }
  void signal(int number) const {
    if (!ended_) ::kill(pid_, number);
  }
  /// By itself, within a bound.
  bool ends() {
    ended_ = poll_until([&] { return ::waitpid(pid_, &status_, WNOHANG) == pid_; }, kBoundMs);
    return ended_;
  }
  [[nodiscard]] int pipe() const { return pipe_; }
  [[nodiscard]] std::string name() const { return "pid " + std::to_string(pid_); }

 private:
  pid_t pid_ = -1;
  int pipe_ = -1;
  bool ended_ = false;
  int status_ = 0;
};

void tell(int pipe, const void* bytes, std::size_t count) {
  EXPECT_EQ(::write(pipe, bytes, count), static_cast<ssize_t>(count));
}
void hear(int pipe, void* bytes, std::size_t count) {
  EXPECT_EQ(::recv(pipe, bytes, count, MSG_WAITALL), static_cast<ssize_t>(count));
}
char hear_word(int pipe) {
  char word = 0;
  hear(pipe, &word, 1);
  return word;
}

void* connected(const Net& net, HandleBytes handle) {
  void* sender = nullptr;
  poll_until([&] {
    return net.connect(sending_device(), handle.data(), &sender) != kSuccess || sender != nullptr;
  });
  EXPECT_NE(sender, nullptr) << Log::warnings();
  return sender;
}
void* accepted(const Net& net, void* listener) {
  void* receiver = nullptr;
  poll_until([&] { return net.accept(listener, &receiver) != kSuccess || receiver != nullptr; });
  EXPECT_NE(receiver, nullptr) << Log::warnings();
  return receiver;
}

class NcclPeer : public ::testing::Test {
 protected:
  void SetUp() override {
    net = open_net(12);
    Log::clear();
    ASSERT_EQ(net.init(Log::write), kSuccess) << Log::warnings();
    ASSERT_EQ(net.listen(receiving_device(), handle.data(), &listener), kSuccess);
  }
  void TearDown() override {
    if (comm != nullptr) close();
    EXPECT_EQ(net.close_listen(listener), kSuccess);
    ::unsetenv("SHOAL_NCCL_TIMEOUT_MS");
  }
  /// In bounded time too, whatever the other side does.
  void close() {
    const auto begin = Clock::now();
    EXPECT_EQ(net.close_recv(std::exchange(comm, nullptr)), kSuccess);
    EXPECT_LT(Clock::now() - begin, std::chrono::seconds(10));
  }

  [[nodiscard]] void* post_receive(std::vector<std::byte>& data) {
    void *at = data.data(), *memory = nullptr, *request = nullptr;
    std::size_t bytes = data.size();
    int tag = 0;
    EXPECT_EQ(net.irecv(comm, 1, &at, &bytes, &tag, &memory, &request), kSuccess);
    return request;
  }
  [[nodiscard]] void* post_send(const std::vector<std::byte>& data) {
    void* request = nullptr;
    EXPECT_EQ(
        net.isend(comm, const_cast<std::byte*>(data.data()), data.size(), 0, nullptr, &request),
        kSuccess);
    return request;
  }
  /// kSuccess: done.
  Result outcome(void* request) {
    int done = 0;
    Result result = kSuccess;
    EXPECT_TRUE(poll_until(
        [&] {
          result = net.test(request, &done, nullptr);
          return done != 0 || result != kSuccess;
        },
        kBoundMs))
        << "the request hangs";
    return result;
  }
  void expect_named(const Peer& peer) const {
    EXPECT_NE(Log::warnings().find(peer.name()), std::string::npos) << Log::warnings();
  }

  /// Connects, sends `small` bytes, then 64 MiB, and polls.
  [[nodiscard]] Peer sending_peer(std::size_t small) {
    return Peer([this, small](int pipe) {
      const HandleBytes to = handle;
      comm = connected(net, to);
      if (comm == nullptr) return;
      const auto first = pattern(small, 1), second = pattern(64 << 20, 2);
      void *one = post_send(first), *two = post_send(second);
      int done = 0;
      for (;;) {
        if (one != nullptr && net.test(one, &done, nullptr) == kSuccess && done != 0) {
          one = nullptr;
          tell(pipe, "1", 1);
        }
        static_cast<void>(net.test(two, &done, nullptr));
      }
    });
  }
  /// Connects, says so, and makes no more calls.
  [[nodiscard]] Peer silent_peer() {
    return Peer([this](int pipe) {
      comm = connected(net, handle);
      if (comm == nullptr) return;  // and it has been said why
      tell(pipe, "c", 1);
      for (;;) ::pause();
    });
  }

  Net net;
  HandleBytes handle{};
  void* listener = nullptr;
  void* comm = nullptr;
};

TEST_F(NcclPeer, ASenderIsKilledInTheMiddleOfAMessage) {
  Peer peer = sending_peer(5000);
  comm = accepted(net, listener);
  std::vector<std::byte> first(5000), second(64 << 20);
  ASSERT_EQ(outcome(post_receive(first)), kSuccess);
  EXPECT_EQ(first, pattern(5000, 1)) << "what had come before";
  void* const request = post_receive(second);
  int done = 0;
  ASSERT_EQ(net.test(request, &done, nullptr), kSuccess);
  ASSERT_EQ(done, 0);
  peer.signal(SIGKILL);
  EXPECT_EQ(outcome(request), kRemoteError);
  expect_named(peer);
}

TEST_F(NcclPeer, AReceiverIsKilledInTheMiddleOfAMessage) {
  EXPECT_EQ(net.close_listen(listener), kSuccess);
  Peer peer([&](int pipe) {
    EXPECT_EQ(net.listen(receiving_device(), handle.data(), &listener), kSuccess);
    tell(pipe, handle.data(), handle.size());
    comm = accepted(net, listener);
    std::vector<std::byte> came(64 << 20);
    void* const request = post_receive(came);
    int done = 0;
    for (int i = 0; i < 3; ++i) static_cast<void>(net.test(request, &done, nullptr));
    tell(pipe, "r", 1);
    for (;;) ::pause();
  });
  hear(peer.pipe(), handle.data(), handle.size());
  comm = connected(net, handle);
  const auto sent = pattern(64 << 20, 1);
  void* const request = post_send(sent);
  EXPECT_EQ(hear_word(peer.pipe()), 'r');
  int done = 0;
  ASSERT_EQ(net.test(request, &done, nullptr), kSuccess);
  ASSERT_EQ(done, 0);
  peer.signal(SIGKILL);
  EXPECT_NE(outcome(request), kSuccess);
  expect_named(peer);
  ASSERT_EQ(net.listen(receiving_device(), handle.data(), &listener), kSuccess);
}

// Before the first message there is no connection for data yet.
TEST_F(NcclPeer, ASenderIsKilledBeforeItHasSentAnything) {
  Peer peer = silent_peer();
  comm = accepted(net, listener);
  EXPECT_EQ(hear_word(peer.pipe()), 'c');
  std::vector<std::byte> came(64);
  void* const request = post_receive(came);
  int done = 0;
  ASSERT_EQ(net.test(request, &done, nullptr), kSuccess);
  peer.signal(SIGKILL);
  EXPECT_EQ(outcome(request), kRemoteError);
  expect_named(peer);
  EXPECT_NE(Log::warnings().find("has ended"), std::string::npos) << Log::warnings();
}

TEST_F(NcclPeer, AReceiverIsKilledBeforeItHasAccepted) {
  EXPECT_EQ(net.close_listen(listener), kSuccess);
  Peer peer([&](int pipe) {
    EXPECT_EQ(net.listen(receiving_device(), handle.data(), &listener), kSuccess);
    tell(pipe, handle.data(), handle.size());
    for (;;) ::pause();
  });
  hear(peer.pipe(), handle.data(), handle.size());
  void* sender = nullptr;
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(net.connect(sending_device(), handle.data(), &sender), kSuccess);
    ASSERT_EQ(sender, nullptr);
  }
  peer.signal(SIGKILL);
  Result result = kSuccess;
  EXPECT_TRUE(poll_until(
      [&] {
        result = net.connect(sending_device(), handle.data(), &sender);
        return result != kSuccess;
      },
      kBoundMs));
  EXPECT_EQ(result, kRemoteError);
  ASSERT_EQ(net.listen(receiving_device(), handle.data(), &listener), kSuccess);
}

// What another peer suffers reaches no other connection.
TEST_F(NcclPeer, OtherConnectionsGoOn) {
  Peer peer = silent_peer();
  comm = accepted(net, listener);
  EXPECT_EQ(hear_word(peer.pipe()), 'c');
  Pair other(net);
  other.connect();
  std::vector<std::byte> waits(64);
  void* const request = post_receive(waits);
  peer.signal(SIGKILL);
  for (int i = 0; i < 20; ++i) {
    const auto sent = pattern(3000, static_cast<unsigned>(i));
    std::vector<std::byte> came(3000);
    void* const receive = other.receive(came);
    ASSERT_TRUE(other.finish_both(other.send(sent), receive).done);
    ASSERT_EQ(sent, came);
  }
  EXPECT_EQ(outcome(request), kRemoteError);
  const auto sent = pattern(100, 9);
  std::vector<std::byte> came(100);
  void* const receive = other.receive(came);
  EXPECT_TRUE(other.finish_both(other.send(sent), receive).done);
}

TEST_F(NcclPeer, AStoppedProcessIsNamedAtTheDeadline) {
  Peer peer = silent_peer();
  ::setenv("SHOAL_NCCL_TIMEOUT_MS", "3000", 1);  // of this side: setting up may take longer
  comm = accepted(net, listener);
  EXPECT_EQ(hear_word(peer.pipe()), 'c');
  std::vector<std::byte> came(64);
  void* const request = post_receive(came);
  peer.signal(SIGSTOP);
  EXPECT_EQ(outcome(request), kRemoteError);
  expect_named(peer);
  EXPECT_NE(Log::warnings().find("is it stopped?"), std::string::npos) << Log::warnings();
}

// The peer's NCCL makes no calls, yet its process answers: another cause, and it is said.
TEST_F(NcclPeer, AProcessThatLivesButDoesNotSendIsNamedAtTheDeadline) {
  Peer peer = silent_peer();
  ::setenv("SHOAL_NCCL_TIMEOUT_MS", "3000", 1);
  comm = accepted(net, listener);
  EXPECT_EQ(hear_word(peer.pipe()), 'c');
  std::vector<std::byte> came(64);
  EXPECT_EQ(outcome(post_receive(came)), kRemoteError);
  expect_named(peer);
  EXPECT_NE(Log::warnings().find("is alive"), std::string::npos) << Log::warnings();
}

TEST_F(NcclPeer, AStoppedReceiverDoesNotHoldUpACloseForLong) {
  Peer peer = sending_peer(5000);
  comm = accepted(net, listener);
  std::vector<std::byte> first(5000), second(64 << 20);
  ASSERT_EQ(outcome(post_receive(first)), kSuccess);
  void* const request = post_receive(second);
  int done = 0;
  peer.signal(SIGSTOP);
  ASSERT_EQ(net.test(request, &done, nullptr), kSuccess);
  close();
  std::fill(second.begin(), second.end(), std::byte{0xee});
  peer.signal(SIGCONT);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_TRUE(std::all_of(second.begin(), second.end(), [](std::byte b) {
    return b == std::byte{0xee};
  })) << "written after closeRecv had returned";
}

TEST_F(NcclPeer, AProcessThatEndsInOrderIsAnErrorToWhoStillWaits) {
  Peer peer([&](int) {
    comm = connected(net, handle);
    EXPECT_EQ(net.close_send(std::exchange(comm, nullptr)), kSuccess);
  });
  comm = accepted(net, listener);
  std::vector<std::byte> came(64);
  EXPECT_EQ(outcome(post_receive(came)), kRemoteError);
  expect_named(peer);
}

// As a program does that forgets ncclCommDestroy: libraries go while connections are open.
TEST_F(NcclPeer, AProcessExitsWithoutClosingAnything) {
  Peer peer([&](int pipe) {
    comm = connected(net, handle);
    const auto sent = pattern(100, 1);
    void* const request = post_send(sent);
    if (outcome(request) == kSuccess) tell(pipe, "s", 1);
    std::exit(0);  // NOLINT: not _exit(), whose end is no such thing
  });
  comm = accepted(net, listener);
  std::vector<std::byte> came(100);
  EXPECT_EQ(outcome(post_receive(came)), kSuccess);
  EXPECT_EQ(hear_word(peer.pipe()), 's');
  EXPECT_TRUE(peer.ends()) << "the process hangs in its exit";
}

}  // namespace
}  // namespace shoal::nccl::test
