/// The local ranks of a node, each with a DeviceArena over the stand-in, and nothing else of shoal.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/device_arena.h"
#include "cuda/fake.h"

namespace shoal::cuda::testing {

inline constexpr int kMaxRanks = 8;

/// What ranks share; with processes, to be made before they are.
struct Shared {
  std::array<Door, kMaxRanks> doors{};
  std::array<std::atomic<std::int64_t>, 64> words{};  // for the test's own use
};

/// Zeroed memory that children share.
inline Shared& make_shared_page() {
  void* page =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  SHOAL_ASSERT(page != MAP_FAILED);
  return *new (page) Shared;
}

inline MemoryOptions options_of(Shared& shared, int ranks, int self, std::int64_t limit_bytes = 0,
                                std::int64_t timeout_ms = 10'000) {
  MemoryOptions options;
  options.self = self;
  for (int r = 0; r < ranks; ++r) options.doors.push_back(&shared.doors[r]);
  options.device = 0;
  options.limit_bytes = limit_bytes;
  options.timeout_ms = timeout_ms;
  return options;
}

/// Waits until a word has at least this value. False: it took too long.
inline bool reaches(std::atomic<std::int64_t>& word, std::int64_t value) {
  for (int i = 0; i < 20'000; ++i) {
    if (word.load() >= value) return true;
    ::usleep(500);
  }
  return false;
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

/// Ranks as children of this process, forked before it has any thread.
class Processes {
 public:
  /// `body` returns true if all was well.
  Processes(int ranks, const std::function<bool(int rank)>& body) {
    for (int rank = 0; rank < ranks; ++rank) {
      const pid_t pid = ::fork();
      if (pid == 0) ::_exit(run(rank, body));
      pids_.push_back(pid);
    }
  }
  [[nodiscard]] pid_t pid(int rank) const { return pids_[static_cast<std::size_t>(rank)]; }
  /// Returns when all of its threads stand still.
  void stop(int rank) {
    ::kill(pid(rank), SIGSTOP);
    (void)::waitpid(pid(rank), nullptr, WUNTRACED);
  }
  /// Wait status.
  int wait(int rank) {
    int status = -1;
    (void)::waitpid(pid(rank), &status, 0);
    return status;
  }

 private:
  static int run(int rank, const std::function<bool(int)>& body) {
    ::alarm(60);  // a hang is a failure
    try {
      return body(rank) ? 0 : 1;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
      return 2;
    }
  }
  std::vector<pid_t> pids_;
};

}  // namespace shoal::cuda::testing
