/// The plug-in, driven as NCCL's proxies drive it, through every version's table.
#include <dirent.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "pair.h"

namespace shoal::nccl::test {
namespace {

using namespace abi;

std::size_t entries_in(const char* folder) {
  DIR* const directory = ::opendir(folder);
  std::size_t count = 0;
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

/// As NCCL does at its start.
rlim_t allow_files() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

INSTANTIATE_TEST_SUITE_P(Every, NcclNet, ::testing::ValuesIn(kVersions), version_name);

// NCCL places devices in its topology by these, and goes through host memory where pointers say so.
TEST_P(NcclNet, PropertiesAreWhatNcclNeeds) {
  EXPECT_EQ(net.name, "shoal");
  int count = 0;
  ASSERT_EQ(net.devices(&count), kSuccess);
  ASSERT_GE(count, 1);
  for (int i = 0; i < count; ++i) {
    Properties properties;
    ASSERT_EQ(net.get_properties(i, &properties), kSuccess);
    EXPECT_FALSE(properties.name.empty());
    EXPECT_EQ(properties.pointers, kPointerHost);
    EXPECT_GT(properties.speed_mbps, 0);
    EXPECT_GE(properties.port, 1);
    EXPECT_GE(properties.max_comms, 1024);
    EXPECT_EQ(properties.max_receives, kMaxReceives);
    EXPECT_EQ(properties.offload, 0);
    EXPECT_EQ(properties.offload_version, 0);
    EXPECT_EQ(properties.force_flush, 0);
    EXPECT_EQ(properties.max_multi_request, 1);
    EXPECT_EQ(properties.rail, kUndefined);
    if (net.make_v_device) {
      EXPECT_GE(properties.max_p2p_bytes, std::size_t{1} << 31);
      if (properties.name.find('+') == std::string::npos) {
        EXPECT_EQ(properties.parts, std::vector<int>{i});
      }
    }
  }
  Properties none;
  EXPECT_EQ(net.get_properties(count, &none), kInvalidArgument);
  EXPECT_EQ(net.get_properties(-1, &none), kInvalidArgument);
}

// Sizes around those where a transport changes its way, into receives of the same size and larger.
TEST_P(NcclNet, DataArrivesInReceivesOfTheSameSizeAndLarger) {
  Pair pair(net);
  pair.connect();
  unsigned seed = 0;
  for (const std::size_t bytes : {0, 1, 8, 1023, 1024, 1025, 8192, 65537, (1 << 20) + 3}) {
    for (const std::size_t room : {std::size_t{0}, std::size_t{1}, std::size_t{4096}}) {
      const auto sent = pattern(bytes, ++seed);
      std::vector<std::byte> came(bytes + room, std::byte{0xee});
      void* const receive = pair.receive(came);
      const Tested tested = pair.finish_both(pair.send(sent), receive);
      ASSERT_TRUE(tested.done) << bytes;
      EXPECT_EQ(static_cast<std::size_t>(tested.bytes[0]), bytes);
      EXPECT_TRUE(std::equal(sent.begin(), sent.end(), came.begin())) << bytes;
      EXPECT_TRUE(std::all_of(came.begin() + static_cast<std::ptrdiff_t>(bytes), came.end(),
                              [](std::byte b) { return b == std::byte{0xee}; }))
          << "written past a message of " << bytes;
    }
  }
}

// NCCL's proxy keeps a window of requests in each direction and tests the oldest.
TEST_P(NcclNet, ManyRequestsAreUnderWayAndEndInOrder) {
  constexpr int kWindow = kMaxRequests, kMessages = 200;
  Pair pair(net);
  pair.connect();
  std::mt19937 random(7);
  std::vector<std::vector<std::byte>> sent, came;
  for (int i = 0; i < kMessages; ++i) {
    sent.push_back(pattern(random() % 20000, static_cast<unsigned>(i)));
    came.emplace_back(sent.back().size() + random() % 3);
  }
  std::vector<void*> sends(kMessages), receives(kMessages);
  int sent_posted = 0, sent_done = 0, came_posted = 0, came_done = 0;
  const auto step = [&] {
    if (sent_posted < kMessages && sent_posted - sent_done < kWindow) {
      sends[sent_posted] = pair.send(sent[sent_posted], 5);
      if (sends[sent_posted] != nullptr) ++sent_posted;
    }
    if (came_posted < kMessages && came_posted - came_done < kWindow) {
      receives[came_posted] = pair.receive(came[came_posted], 5);
      if (receives[came_posted] != nullptr) ++came_posted;
    }
    if (sent_done < sent_posted && pair.test(sends[sent_done]).done) ++sent_done;
    if (came_done < came_posted) {
      const Tested tested = pair.test(receives[came_done]);
      if (tested.done) {
        const auto& expected = sent[static_cast<std::size_t>(came_done)];
        EXPECT_EQ(static_cast<std::size_t>(tested.bytes[0]), expected.size());
        EXPECT_TRUE(std::equal(expected.begin(), expected.end(), came[came_done].begin()))
            << came_done;
        ++came_done;
      }
    }
    return came_done == kMessages && sent_done == kMessages;
  };
  EXPECT_TRUE(poll_until(step, 60'000)) << sent_done << " sent, " << came_done << " came";
}

// With more under way than NCCL allows itself, there is no request: to be tried again.
TEST_P(NcclNet, WithoutRoomThereIsNoRequest) {
  Pair pair(net);
  pair.connect();
  std::vector<std::byte> came(16);
  std::vector<void*> requests;
  for (int i = 0; i < 100'000; ++i) {
    void* const request = pair.receive(came);
    if (request == nullptr) break;
    requests.push_back(request);
  }
  EXPECT_GE(requests.size(), static_cast<std::size_t>(kMaxRequests));
  EXPECT_LT(requests.size(), 100'000U);
  const auto sent = pattern(16, 1);
  EXPECT_TRUE(pair.finish_both(pair.send(sent), requests[0]).done);
  EXPECT_NE(pair.receive(came), nullptr);
}

// A group is done when all of its parts are; each is found by its tag, whatever the order of sends.
TEST_P(NcclNet, GroupsMatchByTagAndEndTogether) {
  Pair pair(net);
  pair.connect();
  std::vector<std::vector<std::byte>> came;
  std::vector<int> tags;
  for (int i = 0; i < kMaxReceives; ++i) {
    came.emplace_back(3000);
    tags.push_back(1000 + i);
  }
  void* const group = pair.receive_group(came, tags);
  ASSERT_NE(group, nullptr);
  std::vector<std::vector<std::byte>> sent;
  for (int i = 0; i < kMaxReceives; ++i) {
    sent.push_back(pattern(static_cast<std::size_t>(100 * i), static_cast<unsigned>(i)));
  }
  for (int i = kMaxReceives - 1; i > 0; --i) {
    EXPECT_TRUE(pair.finish(pair.send(sent[static_cast<std::size_t>(i)], 1000 + i), group).done);
  }
  for (int i = 0; i < 200; ++i) {
    const Tested tested = pair.test(group);
    ASSERT_EQ(tested.result, kSuccess);
    ASSERT_FALSE(tested.done) << "a group is done before its first part has come";
  }
  const Tested tested = pair.finish_both(pair.send(sent[0], 1000), group);
  ASSERT_TRUE(tested.done);
  for (std::size_t i = 0; i < kMaxReceives; ++i) {
    EXPECT_EQ(static_cast<std::size_t>(tested.bytes[i]), sent[i].size());
    EXPECT_TRUE(std::equal(sent[i].begin(), sent[i].end(), came[i].begin())) << i;
  }
}

// Tags are ints: no bit of them may be lost.
TEST_P(NcclNet, TagsHave32Bits) {
  Pair pair(net);
  pair.connect();
  const std::vector<int> tags = {-1, 0x7fffffff, 1 << 24, 1, 0};
  std::vector<std::vector<std::byte>> came(tags.size(), std::vector<std::byte>(64));
  void* const group = pair.receive_group(came, tags);
  for (std::size_t i = tags.size(); i-- > 1;) {
    const auto sent = pattern(64, static_cast<unsigned>(i));
    EXPECT_TRUE(pair.finish(pair.send(sent, tags[i]), group).done);
  }
  const auto last = pattern(64, 0);
  EXPECT_TRUE(pair.finish_both(pair.send(last, tags[0]), group).done);
  for (std::size_t i = 0; i < tags.size(); ++i) {
    EXPECT_EQ(came[i], pattern(64, static_cast<unsigned>(i))) << "tag " << tags[i];
  }
}

TEST_P(NcclNet, AMessageLongerThanItsReceiveIsNamed) {
  Pair pair(net);
  pair.connect();
  std::vector<std::byte> came(100, std::byte{0xee});
  void* const receive = pair.receive(came, 9);
  const auto sent = pattern(200, 1);
  void* const send = pair.send(sent, 9);
  ASSERT_NE(send, nullptr);
  Tested tested;
  EXPECT_TRUE(poll_until([&, sent_done = false]() mutable {
    sent_done = sent_done || pair.test(send).done;
    tested = pair.test(receive);
    return tested.done || tested.result != kSuccess;
  }));
  EXPECT_EQ(tested.result, kInvalidUsage);
  EXPECT_NE(Log::warnings().find("longer than the receive"), std::string::npos) << Log::warnings();
  EXPECT_NE(Log::warnings().find("tag 9"), std::string::npos) << Log::warnings();
}

TEST_P(NcclNet, HostMemoryIsRegisteredAndDeviceMemoryRefusedWithTheReason) {
  Pair pair(net);
  pair.connect();
  auto sent = pattern(1 << 20, 3);
  std::vector<std::byte> came(1 << 20);
  void *of_send = nullptr, *of_receive = nullptr;
  ASSERT_EQ(net.reg_mr(pair.sender, sent.data(), sent.size(), kPointerHost, &of_send), kSuccess);
  ASSERT_EQ(net.reg_mr(pair.receiver, came.data(), came.size(), kPointerHost, &of_receive),
            kSuccess);
  EXPECT_NE(of_send, nullptr);
  EXPECT_NE(of_receive, nullptr);
  void* const receive = pair.receive(came);
  EXPECT_TRUE(pair.finish_both(pair.send(sent), receive).done);
  EXPECT_EQ(sent, came);
  EXPECT_EQ(net.dereg_mr(pair.sender, of_send), kSuccess);
  EXPECT_EQ(net.dereg_mr(pair.receiver, of_receive), kSuccess);

  Log::clear();
  void* refused = sent.data();
  EXPECT_NE(net.reg_mr(pair.sender, sent.data(), sent.size(), kPointerCuda, &refused), kSuccess);
  EXPECT_EQ(refused, nullptr);
  EXPECT_NE(Log::warnings().find("host memory only"), std::string::npos) << Log::warnings();
  EXPECT_NE(
      net.reg_mr_dma_buf(pair.receiver, came.data(), came.size(), kPointerCuda, 0, 3, &refused),
      kSuccess);
  void* foreign = nullptr;
  ASSERT_EQ(net.reg_mr(pair.sender, sent.data(), 16, kPointerHost, &foreign), kSuccess);
  EXPECT_EQ(net.dereg_mr(pair.receiver, foreign), kInvalidArgument);
}

TEST_P(NcclNet, FlushHasNothingToDoForHostMemory) {
  Pair pair(net);
  pair.connect();
  std::vector<std::byte> memory(64);
  void* at = memory.data();
  int bytes = 64;
  void* registered = nullptr;
  void* request = &memory;
  EXPECT_EQ(net.iflush(pair.receiver, 1, &at, &bytes, &registered, &request), kSuccess);
  EXPECT_EQ(request, nullptr) << "NCCL tests a request until it is done";
}

// NCCL sets every channel of every pair of ranks up at once, in both directions, from one thread.
TEST_P(NcclNet, AStormOfConnectionsInBothDirections) {
  const int count = from_environment("SHOAL_TEST_STORM", 200);
  constexpr int kFilesOfAPair = 9;  // both ends are here
  const rlim_t files = allow_files();
  ASSERT_GT(files, static_cast<rlim_t>(2 * count * kFilesOfAPair)) << "raise `ulimit -Hn`";
  std::vector<std::unique_ptr<Pair>> there, back;
  for (int i = 0; i < count; ++i) {
    there.push_back(std::make_unique<Pair>(net));
    back.push_back(std::make_unique<Pair>(net));
    ASSERT_NO_FATAL_FAILURE(there.back()->listen());
    ASSERT_NO_FATAL_FAILURE(back.back()->listen());
  }
  std::vector<Pair*> pending;
  for (int i = 0; i < count; ++i) {
    pending.push_back(there[static_cast<std::size_t>(i)].get());
    pending.push_back(back[static_cast<std::size_t>(i)].get());
  }
  ASSERT_TRUE(poll_until(
      [&] {
        std::erase_if(pending, [](Pair* pair) { return pair->step(); });
        return pending.empty() || HasFailure();
      },
      60'000));
  ASSERT_FALSE(HasFailure()) << Log::warnings();
  for (int i = 0; i < count; ++i) {
    for (Pair* pair :
         {there[static_cast<std::size_t>(i)].get(), back[static_cast<std::size_t>(i)].get()}) {
      std::vector<std::byte> came(32);
      void* const receive = pair->receive(came);
      const auto sent = pattern(32, static_cast<unsigned>(i));
      ASSERT_TRUE(pair->finish_both(pair->send(sent), receive).done);
      ASSERT_EQ(came, sent);
    }
  }
}

// Many senders of one listener, as with NCCL's shared connections.
TEST_P(NcclNet, OneListenerAcceptsManySenders) {
  const int count = std::min(from_environment("SHOAL_TEST_STORM", 40), 40);
  HandleBytes handle{};
  void* listener = nullptr;
  ASSERT_EQ(net.listen(receiving_device(), handle.data(), &listener), kSuccess);
  std::vector<HandleBytes> handles(static_cast<std::size_t>(count), handle);
  std::vector<void*> senders(static_cast<std::size_t>(count)), receivers;
  EXPECT_TRUE(poll_until([&] {
    for (std::size_t i = 0; i < senders.size(); ++i) {
      if (senders[i] == nullptr) {
        EXPECT_EQ(net.connect(sending_device(), handles[i].data(), &senders[i]), kSuccess);
      }
    }
    void* receiver = nullptr;
    EXPECT_EQ(net.accept(listener, &receiver), kSuccess);
    if (receiver != nullptr) receivers.push_back(receiver);
    return receivers.size() == senders.size() && std::ranges::count(senders, nullptr) == 0;
  }));
  for (void* comm : senders) EXPECT_EQ(net.close_send(comm), kSuccess);
  for (void* comm : receivers) EXPECT_EQ(net.close_recv(comm), kSuccess);
  EXPECT_EQ(net.close_listen(listener), kSuccess);
}

// Threads of several communicators at once; registration beside a progress thread.
TEST_P(NcclNet, ThreadsWorkSideBySide) {
  constexpr int kThreads = 4, kRounds = 50;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Pair pair(net);
      pair.connect();
      std::thread service([&] {
        std::vector<std::byte> memory(4096);
        for (int i = 0; i < kRounds; ++i) {
          void* registered = nullptr;
          EXPECT_EQ(net.reg_mr(pair.receiver, memory.data(), 4096, kPointerHost, &registered),
                    kSuccess);
          EXPECT_EQ(net.dereg_mr(pair.receiver, registered), kSuccess);
        }
      });
      for (int i = 0; i < kRounds; ++i) {
        const auto sent = pattern(5000, static_cast<unsigned>(t * kRounds + i));
        std::vector<std::byte> came(5000);
        void* const receive = pair.receive(came);
        EXPECT_TRUE(pair.finish_both(pair.send(sent), receive).done);
        EXPECT_EQ(sent, came);
      }
      service.join();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// An aborted communicator: NCCL frees the memory of requests as soon as a close has returned.
TEST_P(NcclNet, ASenderClosesWithSendsUnderWay) {
  Pair pair(net);
  pair.connect();
  auto sent = pattern(64 << 20, 1);
  std::vector<std::byte> came(64 << 20);
  void* const receive = pair.receive(came);
  void* const send = pair.send(sent);
  for (int i = 0; i < 5; ++i) {  // it has begun, and is not over: the kernel holds a few MiB
    ASSERT_FALSE(pair.test(receive).done);
    ASSERT_FALSE(pair.test(send).done);
  }
  pair.close_sender();
  std::ranges::fill(sent, std::byte{0});
  const Tested tested = pair.finish(receive);
  EXPECT_FALSE(tested.done);
  EXPECT_EQ(tested.result, kRemoteError);
  void* again = nullptr;
  void* at = came.data();
  std::size_t bytes = 16;
  int tag = 0;
  void* memory = nullptr;
  EXPECT_EQ(net.irecv(pair.receiver, 1, &at, &bytes, &tag, &memory, &again), kRemoteError);
  EXPECT_EQ(again, nullptr);
}

TEST_P(NcclNet, AReceiverClosesWithRequestsUnderWay) {
  Pair pair(net);
  pair.connect();
  const auto sent = pattern(64 << 20, 1);
  std::vector<std::byte> came(64 << 20);
  ASSERT_NE(pair.receive(came), nullptr);
  ASSERT_NE(pair.receive(came), nullptr);
  void* const send = pair.send(sent);
  for (int i = 0; i < 5; ++i) ASSERT_FALSE(pair.test(send).done);
  pair.close_receiver();
  std::ranges::fill(came, std::byte{0xee});
  const Tested tested = pair.finish(send);
  EXPECT_FALSE(tested.done);
  EXPECT_NE(tested.result, kSuccess);
  EXPECT_TRUE(std::ranges::all_of(came, [](std::byte b) { return b == std::byte{0xee}; }))
      << "written after closeRecv had returned";
}

// What was sent before the close arrives.
TEST_P(NcclNet, MessagesSentBeforeACloseAreReceivedAfterIt) {
  Pair pair(net);
  pair.connect();
  const auto sent = pattern(700, 4);
  std::vector<std::byte> first(700);
  ASSERT_TRUE(pair.finish_both(pair.send(sent), pair.receive(first)).done);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pair.finish(pair.send(sent)).done);
  std::thread closing([&] { pair.close_sender(); });
  for (int i = 0; i < 3; ++i) {
    std::vector<std::byte> came(700);
    EXPECT_TRUE(pair.finish(pair.receive(came)).done) << Log::warnings();
    EXPECT_EQ(sent, came);
  }
  closing.join();
  std::vector<std::byte> came(700);
  void* const none = pair.receive(came);
  if (none != nullptr) {
    EXPECT_EQ(pair.finish(none).result, kRemoteError);
  }
}

// A proxy whose operations are done makes no calls until the next collective. As much is sent as
// buffers hold, so that the last piece of it may be left in the network's library.
TEST_P(NcclNet, WhatIsDoneArrivesWithoutFurtherCallsOfTheSender) {
  Pair pair(net);
  pair.connect();
  std::vector<std::byte> came(5'000);
  const auto sent = pattern(5'000, 5);
  ASSERT_TRUE(pair.finish_both(pair.send(sent), pair.receive(came)).done);
  constexpr int kMost = 4000;
  int done = 0;
  for (bool full = false; !full && done < kMost; done += full ? 0 : 1) {
    void* const send = pair.send(sent);
    ASSERT_NE(send, nullptr);
    full = !poll_until([&] { return pair.test(send).done; }, 100);
  }
  EXPECT_GT(done, 0);
  for (int i = 0; i < done; ++i) {
    std::ranges::fill(came, std::byte{0});
    ASSERT_TRUE(pair.finish(pair.receive(came)).done) << i << " of " << done;
    ASSERT_EQ(sent, came);
  }
}

TEST_P(NcclNet, ConnectingToAListenerThatHasClosedIsAnError) {
  Pair pair(net);
  pair.listen();
  pair.close_listener();
  Result result = kSuccess;
  EXPECT_TRUE(poll_until([&] {
    result = net.connect(sending_device(), pair.handle().data(), &pair.sender);
    return result != kSuccess;
  }));
  EXPECT_EQ(result, kRemoteError);
  EXPECT_NE(Log::warnings().find("has that rank ended"), std::string::npos) << Log::warnings();
}

TEST_P(NcclNet, AListenerClosesWhileSomebodyConnects) {
  Pair pair(net);
  pair.listen();
  void* sender = nullptr;
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(net.connect(sending_device(), pair.handle().data(), &sender), kSuccess);
    ASSERT_EQ(sender, nullptr) << "connected without being accepted";
  }
  pair.close_listener();
  Result result = kSuccess;
  EXPECT_TRUE(poll_until([&] {
    result = net.connect(sending_device(), pair.handle().data(), &sender);
    return result != kSuccess;
  }));
  EXPECT_EQ(result, kRemoteError);
}

// Whoever finds the port is turned away, and who belongs here still gets in.
TEST_P(NcclNet, StrangersAreTurnedAway) {
  Pair pair(net);
  pair.listen();
  sockaddr_in address{};
  address.sin_family = AF_INET;
  // The handle's layout is the plug-in's own: bytes 14 and 15 are the port, from 16 the address.
  std::memcpy(&address.sin_port, pair.handle().data() + 14, 2);
  std::memcpy(&address.sin_addr, pair.handle().data() + 16, 4);
  const int stranger = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(::connect(stranger, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const std::string junk(200, 'x');
  ASSERT_EQ(::send(stranger, junk.data(), junk.size(), 0), 200);
  HandleBytes forged = pair.handle();
  forged[50] = static_cast<char>(forged[50] ^ 1);  // of the secret
  void* sender = nullptr;
  Result result = kSuccess;
  EXPECT_TRUE(poll_until([&] {
    void* receiver = nullptr;
    EXPECT_EQ(net.accept(pair.listener(), &receiver), kSuccess);
    EXPECT_EQ(receiver, nullptr);
    result = net.connect(sending_device(), forged.data(), &sender);
    return result != kSuccess;
  }));
  EXPECT_EQ(sender, nullptr);
  ASSERT_TRUE(poll_until([&] { return pair.step(); }));
  EXPECT_NE(Log::warnings().find("another language"), std::string::npos) << Log::warnings();
  EXPECT_NE(Log::warnings().find("handle's secret"), std::string::npos) << Log::warnings();
  ::close(stranger);
}

TEST_P(NcclNet, AHandleOfAnotherPluginIsRefused) {
  HandleBytes handle{};
  void* sender = nullptr;
  EXPECT_EQ(net.connect(sending_device(), handle.data(), &sender), kInvalidArgument);
  EXPECT_NE(Log::warnings().find("NCCL_NET_PLUGIN"), std::string::npos) << Log::warnings();
}

// A communicator comes and goes many times in a process; nothing of it may stay.
TEST_P(NcclNet, NothingStaysOpen) {
  const auto once = [&] {
    Pair pair(net);
    pair.connect();
    std::vector<std::byte> came(16);
    void* const receive = pair.receive(came);
    const auto sent = pattern(16, 1);
    EXPECT_TRUE(pair.finish_both(pair.send(sent), receive).done);
  };
  once();
  const std::size_t files = entries_in("/proc/self/fd"), threads = entries_in("/proc/self/task");
  for (int i = 0; i < 5; ++i) once();
  EXPECT_EQ(entries_in("/proc/self/fd"), files);
  EXPECT_EQ(entries_in("/proc/self/task"), threads);
}

class NcclNetSinceV9 : public NcclNet {};
INSTANTIATE_TEST_SUITE_P(Every, NcclNetSinceV9, ::testing::Values(9, 10, 11, 12), version_name);

// RDMA ports become the rails of one device; network interfaces do not.
TEST_P(NcclNetSinceV9, OnlyRdmaPortsAreMerged) {
  int merged = -1;
  const int rails = from_environment("SHOAL_TEST_RAILS", 0);
  if (rails == 0) {
    EXPECT_EQ(net.make_v_device(&merged, {0, 1}), kInvalidArgument);
    EXPECT_NE(Log::warnings().find("cannot merge"), std::string::npos) << Log::warnings();
    return;
  }
  ASSERT_EQ(net.make_v_device(&merged, {0, 1}), kSuccess) << Log::warnings();
  int again = -1, count = 0;
  ASSERT_EQ(net.make_v_device(&again, {0, 1}), kSuccess);
  EXPECT_EQ(again, merged);
  ASSERT_EQ(net.devices(&count), kSuccess);
  EXPECT_GT(count, merged);
  Properties one, both;
  ASSERT_EQ(net.get_properties(0, &one), kSuccess);
  ASSERT_EQ(net.get_properties(merged, &both), kSuccess);
  EXPECT_EQ(both.parts, (std::vector<int>{0, 1}));
  EXPECT_GT(both.speed_mbps, one.speed_mbps);

  HandleBytes handle{};
  void *listener = nullptr, *sender = nullptr, *receiver = nullptr;
  ASSERT_EQ(net.listen(merged, handle.data(), &listener), kSuccess);
  ASSERT_TRUE(poll_until([&] {
    if (sender == nullptr) {
      EXPECT_EQ(net.connect(merged, handle.data(), &sender), kSuccess);
    }
    if (receiver == nullptr) {
      EXPECT_EQ(net.accept(listener, &receiver), kSuccess);
    }
    return sender != nullptr && receiver != nullptr;
  }));
  Pair pair(net);
  pair.sender = sender;
  pair.receiver = receiver;
  const auto sent = pattern(3 << 20, 6);
  std::vector<std::byte> came(3 << 20);
  void* const receive = pair.receive(came);
  EXPECT_TRUE(pair.finish_both(pair.send(sent), receive, 60'000).done);
  EXPECT_EQ(sent, came);
  EXPECT_EQ(net.close_listen(listener), kSuccess);
}

}  // namespace
}  // namespace shoal::nccl::test
