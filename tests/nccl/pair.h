/// What every test of the plug-in needs: both ends of connections, polled as NCCL's proxies do.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "net.h"

namespace shoal::nccl::test {

using HandleBytes = std::array<char, abi::kHandleBytes>;
using Clock = std::chrono::steady_clock;

inline int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

/// Calls until it says true, at most so long (SHOAL_TEST_PATIENCE times that, on a slow machine).
template <class Poll>
bool poll_until(Poll&& poll, int limit_ms = 20'000) {
  static const int patience = from_environment("SHOAL_TEST_PATIENCE", 1);
  const auto end = Clock::now() + std::chrono::milliseconds(limit_ms) * patience;
  while (Clock::now() < end) {
    if (poll()) return true;
  }
  return false;
}

inline std::vector<std::byte> pattern(std::size_t bytes, unsigned seed) {
  std::vector<std::byte> data(bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    data[i] = static_cast<std::byte>((i * 31 + seed * 7 + i / 251) & 0xff);
  }
  return data;
}

/// Devices of the two ends: over RDMA two ports, so that messages leave by a link.
inline int sending_device() { return from_environment("SHOAL_TEST_SENDING_DEVICE", 0); }
inline int receiving_device() { return from_environment("SHOAL_TEST_RECEIVING_DEVICE", 0); }

struct Tested {
  bool done = false;
  abi::Result result = abi::kSuccess;
  std::array<int, abi::kMaxReceives> bytes{};
};

/// One connection within this process.
class Pair {
 public:
  explicit Pair(const Net& net) : net_(net) {}
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  ~Pair() {
    close_sender();
    close_receiver();
    close_listener();
  }

  void listen() {
    ASSERT_EQ(net_.listen(receiving_device(), handle_.data(), &listener_), abi::kSuccess);
  }
  /// One call of each side; true when there is a connection.
  bool step() {
    if (sender == nullptr) {
      EXPECT_EQ(net_.connect(sending_device(), handle_.data(), &sender), abi::kSuccess);
    }
    if (receiver == nullptr) {
      EXPECT_EQ(net_.accept(listener_, &receiver), abi::kSuccess);
    }
    return sender != nullptr && receiver != nullptr;
  }
  void connect() {
    listen();
    ASSERT_TRUE(poll_until([&] { return step() || ::testing::Test::HasFailure(); }));
  }

  void* send(const std::vector<std::byte>& data, int tag = 0) {
    return send(data.data(), data.size(), tag);
  }
  void* send(const std::byte* data, std::size_t bytes, int tag) {
    void* request = nullptr;
    EXPECT_EQ(net_.isend(sender, const_cast<std::byte*>(data), bytes, tag, nullptr, &request),
              abi::kSuccess);
    return request;
  }
  void* receive(std::vector<std::byte>& data, int tag = 0) {
    void* request = nullptr;
    void* at = data.data();
    std::size_t bytes = data.size();
    void* memory = nullptr;
    EXPECT_EQ(net_.irecv(receiver, 1, &at, &bytes, &tag, &memory, &request), abi::kSuccess);
    return request;
  }
  void* receive_group(std::vector<std::vector<std::byte>>& parts, std::vector<int> tags) {
    std::vector<void*> at, memory(parts.size());
    std::vector<std::size_t> bytes;
    for (auto& part : parts) {
      at.push_back(part.data());
      bytes.push_back(part.size());
    }
    void* request = nullptr;
    EXPECT_EQ(net_.irecv(receiver, static_cast<int>(parts.size()), at.data(), bytes.data(),
                         tags.data(), memory.data(), &request),
              abi::kSuccess);
    return request;
  }
  Tested test(void* request) {
    Tested tested;
    int done = 0;
    tested.result = net_.test(request, &done, tested.bytes.data());
    tested.done = done != 0;
    return tested;
  }
  /// Until it is done or fails. `other` of the other side is tested meanwhile, as NCCL there would,
  /// and is not expected to be done.
  Tested finish(void* request, void* other = nullptr) {
    Tested tested;
    const auto step = [&] {
      if (other != nullptr) {
        EXPECT_FALSE(test(other).done);
      }
      tested = test(request);
      return tested.done || tested.result != abi::kSuccess || ::testing::Test::HasFailure();
    };
    EXPECT_TRUE(poll_until(step)) << "the request never ends";
    return tested;
  }
  /// Until both are done; what the receive says. NCCL's proxies on both sides do this.
  Tested finish_both(void* send, void* receive, int limit_ms = 20'000) {
    EXPECT_NE(send, nullptr);
    EXPECT_NE(receive, nullptr);
    if (send == nullptr || receive == nullptr) return {};
    Tested sent, came;
    const auto step = [&] {
      if (!sent.done) sent = test(send);
      if (!came.done) came = test(receive);
      EXPECT_EQ(sent.result, abi::kSuccess) << Log::warnings();
      EXPECT_EQ(came.result, abi::kSuccess) << Log::warnings();
      return (sent.done && came.done) || ::testing::Test::HasFailure();
    };
    EXPECT_TRUE(poll_until(step, limit_ms)) << "sent: " << sent.done << ", came: " << came.done;
    return came;
  }

  void close_sender() {
    if (void* comm = std::exchange(sender, nullptr)) {
      EXPECT_EQ(net_.close_send(comm), abi::kSuccess);
    }
  }
  void close_receiver() {
    if (void* comm = std::exchange(receiver, nullptr)) {
      EXPECT_EQ(net_.close_recv(comm), abi::kSuccess);
    }
  }
  void close_listener() {
    if (void* comm = std::exchange(listener_, nullptr)) {
      EXPECT_EQ(net_.close_listen(comm), abi::kSuccess);
    }
  }
  [[nodiscard]] HandleBytes& handle() { return handle_; }
  [[nodiscard]] void* listener() const { return listener_; }

  void* sender = nullptr;
  void* receiver = nullptr;

 private:
  const Net& net_;
  HandleBytes handle_{};
  void* listener_ = nullptr;
};

/// For each version of the table.
class NcclNet : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    net = open_net(GetParam());
    Log::clear();
    ASSERT_EQ(net.init(Log::write), abi::kSuccess) << Log::warnings();
  }
  void TearDown() override { EXPECT_EQ(net.finalize(), abi::kSuccess); }
  Net net;
};

inline std::string version_name(const ::testing::TestParamInfo<int>& info) {
  return std::string("V").append(std::to_string(info.param));
}

}  // namespace shoal::nccl::test
