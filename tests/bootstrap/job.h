/// Ranks as threads around one store.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "bootstrap/session.h"
#include "bootstrap/store.h"
#include "shoal/error.h"

namespace shoal::bootstrap {

inline constexpr const char* kSecret = "a secret of this test";

inline StoreOptions store_for(Rank ranks) {
  return {.ranks = ranks, .job = "test", .secret = kSecret};
}

inline Identity identity_of(Rank rank, Rank ranks, std::uint16_t port) {
  Identity identity;
  identity.rank = rank;
  identity.ranks = ranks;
  identity.job = "test";
  identity.store_host = "127.0.0.1";
  identity.store_port = port;
  identity.secret = kSecret;
  identity.source = "test";
  return identity;
}

/// Runs body(i) for i in 0..count-1, each in a thread; returns what each threw ("" for nothing).
inline std::vector<std::string> in_threads(int count, const std::function<void(int)>& body) {
  std::vector<std::string> errors(static_cast<std::size_t>(count));
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      try {
        body(i);
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(i)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

inline Deadline seconds(int count) { return Deadline::after_ms(count * 1000); }

}  // namespace shoal::bootstrap
