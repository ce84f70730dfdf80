#include "bootstrap/session.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <bit>
#include <mutex>
#include <set>

#include "bootstrap/auth.h"
#include "bootstrap/exchange.h"
#include "bootstrap/socket.h"
#include "bootstrap/wire.h"
#include "job.h"

namespace shoal::bootstrap {
namespace {

#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << (text)

Fd make_memfd(int) { return Fd(::memfd_create("test", MFD_CLOEXEC)); }

std::string block_of(Rank rank, int call) {
  // Sizes 0, 1, 2, ... and now and then one that fills socket buffers.
  const std::size_t size = rank % 5 == 4 && call == 1 ? 300'000 : static_cast<std::size_t>(rank);
  return std::string(size, static_cast<char>('a' + (rank + call) % 26));
}

class Sizes : public ::testing::TestWithParam<Rank> {};

// Varied sizes in three calls in a row: fast ranks run ahead into the next call.
TEST_P(Sizes, AllGatherGivesEveryBlockInRankOrder) {
  const Rank ranks = GetParam();
  Store store(store_for(ranks));
  const auto errors = in_threads(ranks, [&](Rank rank) {
    Session session(identity_of(rank, ranks, store.port()), seconds(20));
    EXPECT_EQ(session.rank(), rank);
    EXPECT_EQ(session.ranks(), ranks);
    for (int call = 0; call < 3; ++call) {
      const auto blocks = session.all_gather(block_of(rank, call), seconds(20));
      ASSERT_EQ(blocks.size(), static_cast<std::size_t>(ranks));
      for (Rank from = 0; from < ranks; ++from) ASSERT_EQ(blocks[from], block_of(from, call));
    }
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  if (ranks > 1) {
    EXPECT_TRUE(store.missing().empty());
  }
}

// Ranks that are threads of one process share a node, and the fd each gets is of the same memory.
TEST_P(Sizes, JoinNodeHandsOneMemoryToAll) {
  const Rank ranks = GetParam();
  Store store(store_for(ranks));
  std::atomic<int> created = 0;
  std::mutex mutex;
  std::set<ino_t> inodes;
  const auto errors = in_threads(ranks, [&](Rank rank) {
    Session session(identity_of(rank, ranks, store.port()), seconds(20));
    const Fd fd = session.join_node(
        [&](int local_ranks) {
          ++created;
          EXPECT_EQ(local_ranks, ranks);
          return make_memfd(local_ranks);
        },
        seconds(20));
    struct stat info{};
    ASSERT_EQ(::fstat(fd.get(), &info), 0);
    const std::lock_guard lock(mutex);
    inodes.insert(info.st_ino);
    ASSERT_EQ(session.peers().size(), static_cast<std::size_t>(ranks));
    for (Rank peer = 0; peer < ranks; ++peer) {
      EXPECT_EQ(session.peers()[peer].node, 0);
      EXPECT_EQ(session.peers()[peer].local_rank, peer);
      EXPECT_EQ(session.peers()[peer].pid, ::getpid());
      EXPECT_EQ(session.peers()[peer].host, host_name());
    }
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_EQ(created, 1);
  EXPECT_EQ(inodes.size(), 1u);
}

// With the store a hello, a proof and the wish to join; in the tree of the node at most log2 n
// requests or answers and one more; with each of log2 n ranks on either side a hello and a proof,
// and one frame for each all_gather (join_node has two).
TEST_P(Sizes, MessagesOfARankGrowWithTheLogarithmOfTheirNumber) {
  const Rank ranks = GetParam();
  const int rounds = static_cast<int>(std::bit_width(static_cast<unsigned>(ranks - 1)));
  Store store(store_for(ranks));
  const auto errors = in_threads(ranks, [&](Rank rank) {
    Session session(identity_of(rank, ranks, store.port()), seconds(20));
    const Fd fd = session.join_node(make_memfd, seconds(20));
    const Traffic traffic = session.traffic();
    if (ranks > 1) {
      EXPECT_GE(traffic.sent, 3 + 6 * rounds);
      EXPECT_GE(traffic.received, 3 + 6 * rounds);
    }
    EXPECT_LE(traffic.sent, 4 + 7 * rounds);
    EXPECT_LE(traffic.received, 4 + 7 * rounds);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

INSTANTIATE_TEST_SUITE_P(Ranks, Sizes, ::testing::Values(1, 2, 3, 5, 8, 16, 33));

TEST(Session, OneRankNeedsNoStore) {
  Session session(Identity{}, seconds(1));
  EXPECT_EQ(session.all_gather("x", seconds(1)), std::vector<std::string>{"x"});
  const Fd fd = session.join_node(make_memfd, seconds(1));
  EXPECT_TRUE(fd.valid());
  std::atomic<int> ticks = 0, messages = 0;
  session.listen(
      {.tick = [&] { ++ticks; }, .message = [&](Rank, const std::string&) { ++messages; }});
  const Rank self[] = {0};
  session.publish(self, "to myself");
  const Deadline deadline = seconds(5);
  while ((ticks < 3 || messages < 1) && !deadline.passed()) ::usleep(1000);
  EXPECT_GE(ticks, 3);
  EXPECT_EQ(messages, 1);
}

TEST(Session, RankZeroServesTheStoreAndASecondInitWorks) {
  const std::uint16_t port = local_address(listen_tcp({"127.0.0.1", 0}).get()).port;
  const auto errors = in_threads(4, [&](Rank rank) {
    Identity identity = identity_of(rank, 4, port);
    identity.serves_store = true;
    for (int turn = 0; turn < 3; ++turn) {
      Session session(identity, seconds(20));
      EXPECT_EQ(session.all_gather(std::to_string(rank), seconds(20))[3], "3");
    }
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Session, TheLaunchersStoreTakesASecondInitToo) {
  Store store(store_for(3));
  const auto errors = in_threads(3, [&](Rank rank) {
    for (int turn = 0; turn < 3; ++turn) {
      Session session(identity_of(rank, 3, store.port()), seconds(20));
      EXPECT_EQ(session.all_gather(std::to_string(rank), seconds(20))[2], "2");
    }
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Refusal, WrongSecretAndWrongJobAreRefusedWithoutDelay) {
  Store store(store_for(2));
  Identity wrong = identity_of(0, 2, store.port());
  wrong.secret = "another";
  Identity other_job = identity_of(1, 2, store.port());
  other_job.job = "another";
  const std::int64_t start = fair_now_ns();
  const auto errors =
      in_threads(2, [&](int i) { Session session(i == 0 ? wrong : other_job, seconds(20)); });
  for (const std::string& error : errors) {
    EXPECT_HAS(error, "it refused our proof");
    EXPECT_EQ(error.find("another"), std::string::npos) << "a secret in a message";
  }
  EXPECT_LT(fair_now_ns() - start, 5000 * kNsPerMs);
  EXPECT_EQ(store.missing().size(), 2u);
}

TEST(Refusal, DuplicateRankIsNamedToAll) {
  Store store(store_for(3));
  const Rank ranks[] = {0, 1, 1};
  const auto errors = in_threads(
      3, [&](int i) { Session session(identity_of(ranks[i], 3, store.port()), seconds(20)); });
  for (const std::string& error : errors) EXPECT_HAS(error, "rank 1 came twice");
}

TEST(Refusal, RankOutOfRangeIsNamedToAll) {
  Store store(store_for(3));
  const Rank ranks[] = {0, 1, 3};
  const auto errors = in_threads(
      3, [&](int i) { Session session(identity_of(ranks[i], 3, store.port()), seconds(20)); });
  for (const std::string& error : errors) EXPECT_HAS(error, "rank 3 (");
  for (const std::string& error : errors)
    EXPECT_HAS(error, "out of range: this job has ranks 0..2");
}

TEST(Refusal, AnotherSizeIsNamedToAll) {
  Store store(store_for(3));
  const auto errors = in_threads(3, [&](int i) {
    Session session(identity_of(i, i == 1 ? 4 : 3, store.port()), seconds(20));
  });
  for (const std::string& error : errors) EXPECT_HAS(error, "believes that the job has 4 ranks");
}

TEST(Refusal, MissingRanksAreNamedToAllAtTheDeadline) {
  Store store(store_for(6));
  const Rank ranks[] = {0, 2};
  const std::int64_t start = fair_now_ns();
  const auto errors = in_threads(
      2, [&](int i) { Session session(identity_of(ranks[i], 6, store.port()), seconds(2)); });
  for (const std::string& error : errors) EXPECT_HAS(error, "these have not come: 1, 3..5");
  EXPECT_LT(fair_now_ns() - start, 3000 * kNsPerMs);
  EXPECT_EQ(store.missing(), (std::vector<Rank>{1, 3, 4, 5}));
}

TEST(Refusal, NoStoreIsAnErrorThatSaysWhere) {
  const std::uint16_t port = local_address(listen_tcp({"127.0.0.1", 0}).get()).port;
  const auto errors = in_threads(
      1, [&](int) { Session session(identity_of(0, 2, port), Deadline::after_ms(200)); });
  EXPECT_HAS(errors[0], "127.0.0.1:" + std::to_string(port));
  EXPECT_HAS(errors[0], "Connection refused");
}

// The rank's side of a version refusal; the store's side is in auth_test.
TEST(Refusal, AStoreOfAnotherVersionIsNamed) {
  const Fd listener = listen_tcp({"127.0.0.1", 0});
  std::thread impostor([&] {
    pollfd entry{listener.get(), POLLIN, 0};
    ASSERT_EQ(poll_until({&entry, 1}, seconds(10)), 1);
    const Fd socket = accept_tcp(listener.get());
    const std::string hello =
        encode(Hello{.protocol = 2, .role = Role::kStore, .library = 0x050000});
    ::send(socket.get(), hello.data(), hello.size(), MSG_NOSIGNAL);
    entry = {socket.get(), POLLRDHUP, 0};
    poll_until({&entry, 1}, seconds(10));
  });
  const auto errors = in_threads(1, [&](int) {
    Session session(identity_of(0, 2, local_address(listener.get()).port), seconds(10));
  });
  impostor.join();
  EXPECT_HAS(errors[0], "shoal 5.0.0 (protocol 2)");
  EXPECT_HAS(errors[0], version_text(kProtocolVersion, kLibraryVersion));
}

// Sixty silent, sixty garbage and some dripping connections stand before the ranks; none delays
// them, and each is dropped.
TEST(Refusal, StrangersDelayNobodyAndAreDropped) {
  constexpr Rank kRanks = 4;
  Store store(store_for(kRanks));
  const Address at{"127.0.0.1", store.port()};
  std::vector<Fd> silent, garbage;
  for (int i = 0; i < 60; ++i) {
    silent.push_back(dial_tcp(at, seconds(5)).socket);
    garbage.push_back(dial_tcp(at, seconds(5)).socket);
    ASSERT_EQ(::send(garbage.back().get(), "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL), 18);
  }
  const Fd dripping = dial_tcp(at, seconds(5)).socket;
  const std::string hello = encode(Hello{});
  const std::int64_t start = fair_now_ns();
  const auto errors = in_threads(kRanks, [&](Rank rank) {
    Session session(identity_of(rank, kRanks, store.port()), seconds(10));
    session.all_gather("x", seconds(10));
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_LT(fair_now_ns() - start, 1500 * kNsPerMs);
  bool dropped = false;  // a byte every 100 ms does not extend the 2 s
  for (std::size_t i = 0; i < hello.size() - 1 && !dropped; ++i) {
    dropped = ::send(dripping.get(), &hello[i], 1, MSG_NOSIGNAL) != 1;
    ::usleep(100'000);
  }
  EXPECT_TRUE(dropped);
  for (const Fd& socket : silent) {
    char byte;
    EXPECT_LE(::recv(socket.get(), &byte, 1, 0), 0);
    EXPECT_NE(errno, EAGAIN);
  }
}

// The sockets between ranks ask for proofs too: strangers, and a rank of another job, stand in the
// backlog of every listener before the first call.
TEST(Refusal, StrangersAtARanksListenerDelayNobody) {
  constexpr Rank kRanks = 3;
  const Credentials credentials{"test", kSecret};
  const Credentials others{"test", "another"};
  std::vector<Fd> listeners, strangers;
  std::vector<Address> addresses;
  for (Rank rank = 0; rank < kRanks; ++rank) {
    listeners.push_back(listen_tcp({"127.0.0.1", 0}));
    addresses.push_back(local_address(listeners.back().get()));
    for (int i = 0; i < 200; ++i) {
      strangers.push_back(dial_tcp(addresses.back(), seconds(5)).socket);
      if (i % 2 == 0) {
        ASSERT_EQ(::send(strangers.back().get(), "junk", 4, MSG_NOSIGNAL), 4);
      }
    }
  }
  const std::int64_t start = fair_now_ns();
  const auto errors = in_threads(kRanks + 1, [&](int i) {
    if (i == kRanks) {  // claims to be rank 1, which rank 0 awaits, and cannot prove it
      Link impostor(dial_tcp(addresses[0], seconds(5)).socket, Prover::kDialler,
                    {Role::kDiallingPeer, 1, kRanks, Role::kAcceptingPeer}, others, 1024);
      for (const Deadline limit = seconds(3); !limit.passed() && !impostor.closed();
           ::usleep(1000)) {
        impostor.pump();
      }
      EXPECT_TRUE(impostor.closed());
      return;
    }
    const Control control(i, std::nullopt, "", false);
    std::vector<Address> targets{addresses[(i + 2) % kRanks], addresses[(i + 1) % kRanks]};
    Exchange exchange(i, kRanks, std::move(listeners[i]), targets, credentials, control);
    for (int call = 0; call < 20; ++call) {
      EXPECT_EQ(exchange.all_gather(std::to_string(i), seconds(10)),
                (std::vector<std::string>{"0", "1", "2"}));
    }
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_LT(fair_now_ns() - start, 1900 * kNsPerMs);
}

TEST(AllGather, AStoppedRankIsNamedAtTheDeadlineOnAll) {
  Store store(store_for(3));
  const auto errors = in_threads(3, [&](Rank rank) {
    Session session(identity_of(rank, 3, store.port()), seconds(10));
    if (rank == 2) {
      ::usleep(800'000);
      return;
    }
    session.all_gather("x", Deadline::after_ms(300));
  });
  EXPECT_HAS(errors[0], "rank 2");
  EXPECT_HAS(errors[1], "rank 2");
}

TEST(AllGather, ARankThatLeavesIsNamed) {
  Store store(store_for(5));
  const auto errors = in_threads(5, [&](Rank rank) {
    Session session(identity_of(rank, 5, store.port()), seconds(10));
    session.all_gather("x", seconds(10));
    if (rank == 4) return;
    session.all_gather("x", seconds(10));
  });
  for (Rank rank = 0; rank < 4; ++rank) EXPECT_HAS(errors[rank], "rank 4");
}

TEST(JoinNode, WhatCreateThrowsReachesEverybody) {
  Store store(store_for(4));
  const auto errors = in_threads(4, [&](Rank rank) {
    Session session(identity_of(rank, 4, store.port()), seconds(10));
    session.join_node(
        [](int local_ranks) -> Fd {
          if (local_ranks == 4) throw Error(ErrorCode::kOutOfMemory, "no room for 4");
          return make_memfd(local_ranks);
        },
        seconds(10));
  });
  for (const std::string& error : errors) EXPECT_HAS(error, "no room for 4");
}

TEST(Messages, AreRelayedInOrderAlsoWhenTheListenerComesLate) {
  constexpr Rank kRanks = 4;
  constexpr int kCount = 100;
  Store store(store_for(kRanks));
  const auto errors = in_threads(kRanks, [&](Rank rank) {
    std::mutex mutex;
    std::vector<std::vector<std::string>> heard(kRanks);
    Session session(identity_of(rank, kRanks, store.port()), seconds(10));
    if (rank == 2) ::usleep(100'000);
    session.listen({.message = [&](Rank from, const std::string& message) {
      const std::lock_guard lock(mutex);
      heard[from].push_back(message);
    }});
    const Rank next[] = {(rank + 1) % kRanks, (rank + 2) % kRanks};
    for (int i = 0; i < kCount; ++i) session.publish(next, std::to_string(i));
    const Deadline deadline = seconds(10);
    for (bool all = false; !all && !deadline.passed(); ::usleep(1000)) {
      const std::lock_guard lock(mutex);
      all = heard[(rank + 3) % kRanks].size() == kCount &&
            heard[(rank + 2) % kRanks].size() == kCount;
    }
    {
      const std::lock_guard lock(mutex);
      ASSERT_EQ(heard[(rank + 3) % kRanks].size(), static_cast<std::size_t>(kCount));
      ASSERT_EQ(heard[(rank + 2) % kRanks].size(), static_cast<std::size_t>(kCount));
      EXPECT_TRUE(heard[(rank + 1) % kRanks].empty());
      for (int i = 0; i < kCount; ++i) EXPECT_EQ(heard[(rank + 3) % kRanks][i], std::to_string(i));
    }
    session.all_gather("", seconds(10));  // nobody leaves while others still wait
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Messages, TooLongOnesAreRefusedByName) {
  Session session(Identity{}, seconds(1));
  const Rank self[] = {0};
  EXPECT_THROW(session.publish(self, std::string(1 << 20, 'x')), Error);
}

TEST(Failure, ReportedExitIsAnnouncedOnceToAllOthers) {
  constexpr Rank kRanks = 3;
  StoreOptions options = store_for(kRanks);
  options.launcher_reports_exits = true;
  Store store(options);
  std::atomic<int> announced = 0;
  std::barrier everyone_listens(kRanks);
  const auto errors = in_threads(kRanks, [&](Rank rank) {
    Session session(identity_of(rank, kRanks, store.port()), seconds(10));
    session.listen({.failed = [&](Rank failed, const std::string& cause) {
      EXPECT_EQ(failed, 1);
      EXPECT_EQ(cause, "killed by signal 11");
      ++announced;
    }});
    everyone_listens.arrive_and_wait();
    if (rank == 0) {
      store.report_exit(1, "killed by signal 11");
      store.report_exit(1, "killed by signal 11");
    }
    const Deadline deadline = seconds(5);
    while (announced < 2 && !deadline.passed()) ::usleep(1000);
    ::usleep(100'000);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_EQ(announced, 2);
}

TEST(Failure, AStoreThatEndsInOrderIsNone) {
  auto store = std::make_unique<Store>(store_for(2));
  std::atomic<int> failures = 0;
  const auto errors = in_threads(2, [&](Rank rank) {
    Session session(identity_of(rank, 2, store->port()), seconds(10));
    session.listen({.failed = [&](Rank, const std::string&) { ++failures; }});
    session.all_gather("", seconds(10));
    if (rank == 0) store.reset();  // in order: no failure
    ::usleep(300'000);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_EQ(failures, 0);
}

}  // namespace
}  // namespace shoal::bootstrap
