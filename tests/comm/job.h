/// A job whose ranks are threads of this process, through the public API, so that thread sanitizer
/// sees all of them.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/fd.h"
#include "shoal/communicator.h"

namespace shoal {

inline int free_port() {
  const Fd fd(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  return ntohs(address.sin_port);
}

/// Runs `body` on every rank; an exception that leaves it is a failure that names the rank.
inline void run_ranks(int ranks, const std::function<void(Communicator&)>& body,
                      std::int64_t timeout_ms = 30'000) {
  const std::string store = "127.0.0.1:" + std::to_string(free_port());
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      try {
        Options options;
        options.rank = r;
        options.size = ranks;
        options.store = store;
        options.secret = "only for this test";
        options.timeout_ms = timeout_ms;
        options.init_timeout_ms = 30'000;
        options.pool_bytes = 64 << 20;
        Communicator comm = Communicator::init(options);
        body(comm);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "rank " << r << " of " << ranks << ": " << error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

/// The error that `call` ends with; kOk if none. `text` receives its message.
inline ErrorCode outcome(const std::function<void()>& call, std::string* text = nullptr) {
  try {
    call();
  } catch (const Error& error) {
    if (text != nullptr) *text = error.what();
    return error.code();
  }
  return ErrorCode::kOk;
}

}  // namespace shoal
