// What happens when a peer dies, stops, or is given up: the same for every Network. A network's own
// test includes this header and says how it is made:
//
//   INSTANTIATE_TEST_SUITE_P(Tcp, NetworkPeer, testing::Values(NetworkMember{"tcp", make}));
//
// Each test runs two new processes: UCX does not support a fork after it has been loaded, so the
// test program itself never loads it.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/fd.h"
#include "transport/network.h"

namespace shoal::transport {

/// One of two: makes the transport of rank `self`.
using MakeNetwork = std::function<std::unique_ptr<Network>(int self)>;
struct NetworkMember {
  std::string name;
  MakeNetwork make;
};
inline void PrintTo(const NetworkMember& member, std::ostream* out) { *out << member.name; }
inline std::string network_name(const testing::TestParamInfo<NetworkMember>& info) {
  return info.param.name;
}

inline constexpr std::int64_t kPeerPatienceMs = 20'000;
inline constexpr std::int64_t kLarge = 64 << 20;  // takes long enough to be met in its middle
inline constexpr std::byte kSent{0x11}, kRefilled{0x77};

/// Runs `body`, with its assertions, in a new process that has at most 60 s.
template <class Body>
void in_new_process(Body&& body) {
  const pid_t pid = ::fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    body();
    std::fflush(nullptr);
    std::_Exit(testing::Test::HasFailure() ? 1 : 0);
  }
  const Deadline deadline = Deadline::after_ms(60'000);
  int status = 0;
  while (::waitpid(pid, &status, WNOHANG) == 0) {
    if (deadline.passed()) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
      FAIL() << "the process of the test did not end";
    }
    ::usleep(5000);
  }
  EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

inline void write_all(int fd, const void* data, std::size_t bytes) {
  if (::write(fd, data, bytes) != static_cast<ssize_t>(bytes)) std::_Exit(3);
}

inline bool read_all(int fd, void* data, std::size_t bytes) {
  for (std::size_t have = 0; have < bytes;) {
    pollfd waiting{fd, POLLIN, 0};
    if (::poll(&waiting, 1, kPeerPatienceMs) <= 0) return false;
    const ssize_t got = ::read(fd, static_cast<char*>(data) + have, bytes - have);
    if (got <= 0) return false;
    have += static_cast<std::size_t>(got);
  }
  return true;
}

/// Exchanges addresses over a socket and returns this side's transport.
inline std::unique_ptr<Network> meet(const MakeNetwork& make, int self, int socket) {
  auto transport = make(self);
  const auto& mine = transport->address();
  const std::uint64_t length = mine.size();
  write_all(socket, &length, sizeof length);
  write_all(socket, mine.data(), mine.size());
  std::uint64_t theirs_length = 0;
  if (!read_all(socket, &theirs_length, sizeof theirs_length) || theirs_length > 65536) return {};
  std::vector<std::byte> theirs(theirs_length);
  if (!read_all(socket, theirs.data(), theirs.size())) return {};
  transport->set_peer_address(1 - self, theirs);
  return transport;
}

inline void serve(Network& transport, std::int64_t ms = kPeerPatienceMs) {
  const Deadline deadline = Deadline::after_ms(ms);
  while (!deadline.passed()) transport.progress();
}

/// Rank 1: sends kLarge bytes of kSent with key 1 and goes on.
inline void send_large(Network& peer) {
  const std::vector<std::byte> large(kLarge, kSent);
  Operation out;
  peer.send(0, {1, 0}, large.data(), kLarge, out);
  serve(peer);
}

/// This process as rank 0, and rank 1 as its child, which the test kills or stops.
class Pair {
 public:
  template <class Child>
  Pair(const MakeNetwork& make, Child&& child) {
    int sockets[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    Fd ours(sockets[0]), theirs(sockets[1]);
    child_ = ::fork();
    if (child_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ours.reset();
      if (auto transport = meet(make, 1, theirs.get())) child(*transport);
      std::_Exit(0);
    }
    theirs.reset();
    transport_ = meet(make, 0, ours.get());
    EXPECT_NE(transport_, nullptr);
    if (!transport_) std::_Exit(4);
  }
  ~Pair() { kill_child(); }

  Network& transport() { return *transport_; }

  void kill_child() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = -1;
  }
  void signal_child(int signal) { EXPECT_EQ(::kill(child_, signal), 0); }

  template <class Condition>
  bool progress_until(Condition&& condition, std::int64_t ms = kPeerPatienceMs) {
    const Deadline deadline = Deadline::after_ms(ms);
    while (!condition() && !deadline.passed()) transport_->progress();
    return condition();
  }
  void progress_for(std::int64_t ms) { serve(*transport_, ms); }

  /// Starts receiving rank 1's large message and returns when its first byte is there.
  void receive_beginning(std::vector<std::byte>& memory, Operation& in) {
    ASSERT_TRUE(transport_->receive(1, {1, 0}, memory.data(), kLarge, in));
    const volatile std::byte* first = memory.data();
    ASSERT_TRUE(progress_until([&] { return *first == kSent; }));
    ASSERT_FALSE(in.done()) << "the message was over before it could be cut";
  }

  /// Cancels within the bound that the contract names, then shows that the memory is left alone.
  void cancel_bounded(Operation& operation, std::vector<std::byte>& memory) {
    cancel_in_time(operation);
    expect_left_alone(memory);
  }
  void cancel_in_time(Operation& operation) {
    const std::int64_t start = now_ns();
    transport_->cancel(operation);
    EXPECT_TRUE(operation.done());
    EXPECT_LT((now_ns() - start) / kNsPerMs, 2 * kCancelMs);
  }
  void expect_left_alone(std::vector<std::byte>& memory) {
    std::fill(memory.begin(), memory.end(), kRefilled);
    progress_for(300);
    EXPECT_EQ(std::count(memory.begin(), memory.end(), kRefilled),
              static_cast<std::ptrdiff_t>(memory.size()))
        << "memory of a cancelled operation was written";
  }

 private:
  pid_t child_ = -1;
  std::unique_ptr<Network> transport_;
};

class NetworkPeer : public testing::TestWithParam<NetworkMember> {};

TEST_P(NetworkPeer, APendingReceiveFromAKilledPeerEndsOrIsCancelledInBoundedTime) {
  in_new_process([&] {
    Pair pair(GetParam().make, [](Network& peer) {
      const std::vector<std::byte> hello(64, kSent);
      Operation out;
      peer.send(0, {1, 0}, hello.data(), 64, out);
      serve(peer);
    });
    std::vector<std::byte> hello(64), never(1 << 20);
    Operation in, pending, ping, after;
    ASSERT_TRUE(pair.transport().receive(1, {1, 0}, hello.data(), 64, in));
    ASSERT_TRUE(pair.progress_until([&] { return in.done(); }));
    ASSERT_TRUE(pair.transport().send(1, {5, 0}, hello.data(), 64, ping));  // an endpoint of ours
    ASSERT_TRUE(pair.transport().receive(1, {2, 0}, never.data(), 1 << 20, pending));
    pair.progress_for(50);
    EXPECT_FALSE(pending.done());
    pair.kill_child();
    // A dead TCP peer is usually noticed; where it is not, cancel() is what we have.
    if (pair.progress_until([&] { return pending.done(); }, 3000)) {
      EXPECT_EQ(pending.status.code, ErrorCode::kPeerFailed);
      EXPECT_EQ(pending.status.rank, 1);
      EXPECT_TRUE(pair.transport().peer_failed(1));
    }
    pair.cancel_bounded(pending, never);
    ASSERT_TRUE(pair.transport().send(1, {3, 0}, hello.data(), 64, after));
    if (pair.transport().peer_failed(1)) {
      EXPECT_EQ(after.status.code, ErrorCode::kPeerFailed);
      EXPECT_TRUE(after.done());
    }
    pair.transport().cancel(after);
    EXPECT_TRUE(after.done());
  });
}

// A rank that has only received has no endpoint of its own to the peer.
TEST_P(NetworkPeer, AReceiverThatNeverSentCanCancel) {
  in_new_process([&] {
    Pair pair(GetParam().make, [](Network& peer) { serve(peer); });
    std::vector<std::byte> never(1 << 20);
    Operation pending;
    ASSERT_TRUE(pair.transport().receive(1, {2, 0}, never.data(), 1 << 20, pending));
    pair.kill_child();
    pair.progress_for(50);
    pair.cancel_bounded(pending, never);
  });
}

// The sender lives and goes on sending: nothing of it may arrive after the cancel.
TEST_P(NetworkPeer, AReceiveIsCancelledInTheMiddleOfItsMessageAndTheRestDoesNotArrive) {
  in_new_process([&] {
    Pair pair(GetParam().make, send_large);
    std::vector<std::byte> received(kLarge);
    Operation in;
    ASSERT_NO_FATAL_FAILURE(pair.receive_beginning(received, in));
    pair.signal_child(SIGSTOP);  // a cancel gives what is on its way a chance: it must not be all
    pair.cancel_in_time(in);
    pair.signal_child(SIGCONT);
    pair.expect_left_alone(received);
    EXPECT_EQ(in.status.code, ErrorCode::kAborted);
  });
}

TEST_P(NetworkPeer, ASenderKilledInTheMiddleOfItsMessageDoesNotHoldTheReceiver) {
  in_new_process([&] {
    Pair pair(GetParam().make, send_large);
    std::vector<std::byte> received(kLarge);
    Operation in;
    ASSERT_NO_FATAL_FAILURE(pair.receive_beginning(received, in));
    pair.kill_child();
    pair.progress_until([&] { return in.done(); }, 1000);
    pair.cancel_bounded(in, received);
    EXPECT_FALSE(in.status.ok());
  });
}

TEST_P(NetworkPeer, ASendThatAKilledPeerNeverReceivedIsCancelled) {
  in_new_process([&] {
    Pair pair(GetParam().make, [](Network& peer) { serve(peer); });
    std::vector<std::byte> large(8 << 20, kSent);
    Operation out;
    ASSERT_TRUE(pair.transport().send(1, {1, 0}, large.data(), 8 << 20, out));
    pair.progress_for(100);
    EXPECT_FALSE(out.done());
    pair.kill_child();
    pair.cancel_bounded(out, large);
    EXPECT_FALSE(out.status.ok());
  });
}

/// What a peer does before it goes: so many messages of bytes kSent to rank 0, until the transport
/// has taken all of them.
inline void send_all(Network& peer, int messages, std::int64_t bytes) {
  const std::vector<std::byte> data(static_cast<std::size_t>(bytes), kSent);
  std::vector<Operation> out(static_cast<std::size_t>(messages));
  for (Operation& send : out) peer.send(0, {1, 0}, data.data(), bytes, send);
  const Deadline deadline = Deadline::after_ms(kPeerPatienceMs);
  const auto done = [](const Operation& send) { return send.done(); };
  while (!std::all_of(out.begin(), out.end(), done) && !deadline.passed()) peer.progress();
}

// A rank that has finished its part and exits must not take with it what it had sent: neither what
// the transport still queues, nor what the closing of a socket that has unread bytes would throw
// away.
TEST_P(NetworkPeer, WhatWasSentBeforeTheTransportClosedArrives) {
  constexpr int kMessages =
      8000;  // more than the sockets hold: the last ones wait in the transport
  constexpr std::int64_t kBytes = 2 << 10;  // copied: done before they have left
  in_new_process([&] {
    Pair pair(GetParam().make, [](Network& peer) {
      send_all(peer, kMessages, kBytes);
    });  // whose transport closes here, and whose process ends
    std::vector<std::byte> unread(kBytes), received(kBytes);
    Operation ping;
    ASSERT_TRUE(pair.transport().send(1, {5, 0}, unread.data(), kBytes, ping));
    pair.progress_for(5);
    ::usleep(300'000);  // this rank is late, and slow
    const auto slowly_until_done = [&](const Operation& in) {
      const Deadline deadline = Deadline::after_ms(kPeerPatienceMs);
      for (; !in.done() && !deadline.passed(); ::usleep(1000)) pair.transport().progress();
      return in.done();
    };
    for (int i = 0; i < kMessages; ++i) {
      Operation in;
      std::fill(received.begin(), received.end(), kRefilled);
      ASSERT_TRUE(pair.transport().receive(1, {1, 0}, received.data(), kBytes, in));
      ASSERT_TRUE(in.done() || slowly_until_done(in)) << "message " << i;
      ASSERT_TRUE(in.status.ok()) << "message " << i << ": " << static_cast<int>(in.status.code);
      ASSERT_EQ(received.back(), kSent);
    }
  });
}

// Who receives from anybody looks at all peers, also at those that have finished and gone.
TEST_P(NetworkPeer, ProbesFindWhatAPeerHadSentBeforeItLeft) {
  constexpr int kMessages = 50;
  constexpr std::int64_t kBytes = 2 << 10;
  in_new_process([&] {
    Pair pair(GetParam().make, [](Network& peer) { send_all(peer, kMessages, kBytes); });
    std::vector<std::byte> received(kBytes);
    for (int i = 0; i < kMessages; ++i) {
      Operation in;
      std::fill(received.begin(), received.end(), kRefilled);
      ASSERT_TRUE(pair.progress_until([&] {
        EXPECT_FALSE(pair.transport().probe(1, {2, 0}));
        return pair.transport().probe(1, {1, 0});
      })) << "message "
          << i;
      ASSERT_TRUE(pair.transport().receive(1, {1, 0}, received.data(), kBytes, in));
      ASSERT_TRUE(pair.progress_until([&] { return in.done(); })) << "message " << i;
      ASSERT_TRUE(in.status.ok()) << "message " << i << ": " << static_cast<int>(in.status.code);
      ASSERT_EQ(received.back(), kSent);
    }
    pair.progress_until([&] { return pair.transport().probe(1, {1, 0}); }, 200);
    EXPECT_FALSE(pair.transport().probe(1, {1, 0}));
  });
}

// No network reports a stopped peer.
TEST_P(NetworkPeer, AStoppedPeerDoesNotHoldACancel) {
  in_new_process([&] {
    Pair pair(GetParam().make, [](Network& peer) { serve(peer); });
    std::vector<std::byte> large(64 << 20, kSent), never(1 << 20);
    Operation out, in;
    ASSERT_TRUE(pair.transport().send(1, {1, 0}, large.data(), 64 << 20, out));
    ASSERT_TRUE(pair.transport().receive(1, {2, 0}, never.data(), 1 << 20, in));
    pair.progress_for(100);
    pair.signal_child(SIGSTOP);
    pair.progress_for(100);
    pair.cancel_bounded(in, never);
    pair.cancel_bounded(out, large);
    pair.signal_child(SIGCONT);
    pair.progress_for(200);
  });
}

}  // namespace shoal::transport
