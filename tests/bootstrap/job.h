/// Ranks as threads around one store.
#pragma once

#include <algorithm>
#include <atomic>
#include <fstream>
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

/// Time in which the threads of in_threads() wanted to run and other programs had their cores.
inline std::atomic<std::int64_t> withheld_ns = 0;

/// A clock for bounds that are to mean what they say on a quiet machine and to hold on a loaded
/// one: it does not count what was withheld.
inline std::int64_t fair_now_ns() { return now_ns() - withheld_ns; }

inline void add_what_was_withheld() {
  std::int64_t ran = 0, waited = 0;
  std::ifstream("/proc/thread-self/schedstat") >> ran >> waited;
  withheld_ns += waited;
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
      add_what_was_withheld();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

inline Deadline seconds(int count) { return Deadline::after_ms(count * 1000); }

}  // namespace shoal::bootstrap
