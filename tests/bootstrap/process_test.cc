// Ranks as processes: how they die, and how long many take to come together.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>

#include "bootstrap/socket.h"
#include "job.h"

namespace shoal::bootstrap {
namespace {

Fd make_memfd(int) { return Fd(::memfd_create("test", MFD_CLOEXEC)); }

/// Forks before any thread of this process exists; the store is the parent's and starts after.
class Processes {
 public:
  /// `body` returns the exit code. It learns the store's port by a pipe.
  Processes(Rank ranks, const std::function<int(Rank, std::uint16_t port)>& body) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    port_writer_.reset(ends[1]);
    const Fd reader(ends[0]);
    for (Rank rank = 0; rank < ranks; ++rank) {
      std::fflush(nullptr);
      const pid_t pid = ::fork();
      if (pid == 0) ::_exit(child(rank, reader.get(), body));
      pids_.push_back(pid);
    }
  }
  ~Processes() {
    for (const pid_t pid : pids_) {
      if (pid > 0) ::kill(pid, SIGKILL);
    }
    while (reap() >= 0) {
    }
  }
  void tell_port(std::uint16_t port) {
    const std::vector<std::uint16_t> copies(pids_.size(), port);
    const std::size_t bytes = copies.size() * sizeof port;
    EXPECT_EQ(::write(port_writer_.get(), copies.data(), bytes), static_cast<ssize_t>(bytes));
  }
  void kill(Rank rank, int signal) { ::kill(pids_[rank], signal); }
  /// The next rank that ends, with its wait status in `status`; -1: none is left.
  Rank reap() {
    for (;;) {
      const pid_t pid = ::waitpid(-1, &status, 0);
      if (pid < 0) return -1;
      for (std::size_t rank = 0; rank < pids_.size(); ++rank) {
        if (pids_[rank] != pid) continue;
        pids_[rank] = 0;
        return static_cast<Rank>(rank);
      }
    }  // a process that is no rank: the next one
  }
  int status = 0;

 private:
  int child(Rank rank, int reader, const std::function<int(Rank, std::uint16_t)>& body) {
    port_writer_.reset();
    ::alarm(60);  // a hang is a failure
    std::uint16_t port = 0;
    if (::read(reader, &port, sizeof port) != sizeof port) return 90;
    try {
      return body(rank, port);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
      return 91;
    }
  }
  std::vector<pid_t> pids_;
  Fd port_writer_;
};

struct Heard {
  std::mutex mutex;
  std::map<Rank, std::string> causes;
  std::atomic<int> ready = 0;
  Listener listener() {
    return {.failed =
                [this](Rank rank, const std::string& cause) {
                  const std::lock_guard lock(mutex);
                  causes[rank] += cause;  // twice would show
                },
            .message = [this](Rank, const std::string&) { ++ready; }};
  }
  /// All listen, and `victim` goes on only when the others have left this call: else its death
  /// could meet them inside the all_gather.
  void gather_before_death(Session& session, Rank victim) {
    session.listen(listener());
    session.all_gather("", seconds(20));
    const Rank to[] = {victim};
    if (session.rank() != victim) return session.publish(to, "ready");
    for (const Deadline limit = seconds(10); ready < session.ranks() - 1 && !limit.passed();) {
      ::usleep(1000);
    }
  }
  std::string wait_for(Rank rank, Deadline deadline) {
    while (!deadline.passed()) {
      {
        const std::lock_guard lock(mutex);
        if (causes.contains(rank)) return causes[rank];
      }
      ::usleep(1000);
    }
    return "nothing";
  }
};

constexpr Rank kRanks = 4;
constexpr Rank kVictim = 2;

void die() { ::kill(::getpid(), SIGKILL); }

// One of four ranks ends by `end`. Exit code 0 of another rank: it heard `expected` in time.
int survive(Rank rank, std::uint16_t port, bool join_node, const std::function<void()>& end,
            const std::string& expected) {
  constexpr std::int64_t kLimitMs = 1500;
  Heard heard;
  Session session(identity_of(rank, kRanks, port), seconds(20));
  if (join_node) session.join_node(make_memfd, seconds(20));
  heard.gather_before_death(session, kVictim);
  if (rank == kVictim) end();
  const std::int64_t start = now_ns();
  const std::string cause = heard.wait_for(kVictim, seconds(10));
  const std::int64_t took_ms = (now_ns() - start) / kNsPerMs;
  const bool right = cause.find(expected) == 0 && took_ms <= kLimitMs;
  if (!right)
    std::fprintf(stderr, "rank %d: %s, %d ms\n", rank, cause.c_str(), static_cast<int>(took_ms));
  ::usleep(200'000);  // a second announcement would come by now
  return right && heard.wait_for(kVictim, seconds(1)) == cause ? 0 : 1;
}

std::string describe(int status) {
  return WIFSIGNALED(status) ? "killed by signal " + std::to_string(WTERMSIG(status))
                             : "exited with code " + std::to_string(WEXITSTATUS(status));
}

// The parent is the launcher: it reaps, and reports where the store was told that it would.
void run_job(bool reports, const std::function<int(Rank, std::uint16_t)>& body, int victim_status) {
  Processes processes(kRanks, body);
  StoreOptions options = store_for(kRanks);
  options.launcher_reports_exits = reports;
  Store store(options);
  processes.tell_port(store.port());
  for (Rank rank = processes.reap(); rank >= 0; rank = processes.reap()) {
    if (reports) store.report_exit(rank, describe(processes.status));
    EXPECT_EQ(processes.status, rank == kVictim ? victim_status : 0) << "rank " << rank;
  }
}

TEST(Death, KillIsAnnouncedWithTheLaunchersWord) {
  run_job(
      true,
      [](Rank rank, std::uint16_t port) {
        return survive(rank, port, false, die, "killed by signal 9");
      },
      SIGKILL);
}

TEST(Death, KillOfALocalRankIsAnnouncedToo) {
  run_job(
      true,
      [](Rank rank, std::uint16_t port) {
        return survive(rank, port, true, die, "killed by signal 9");
      },
      SIGKILL);
}

// Without a launcher the kernel tells the ranks of the node (from 6.15 on), else it is a lost
// connection.
TEST(Death, KillWithoutALauncherIsAnnounced) {
  run_job(
      false,
      [](Rank rank, std::uint16_t port) {
        return survive(rank, port, false, die, "lost its connection");
      },
      SIGKILL);
}

TEST(Death, KillOfALocalRankWithoutALauncherHasACause) {
  run_job(
      false, [](Rank rank, std::uint16_t port) { return survive(rank, port, true, die, ""); },
      SIGKILL);
}

TEST(Death, AnExitCodeIsAnnounced) {
  run_job(
      true,
      [](Rank rank, std::uint16_t port) {
        return survive(rank, port, true, [] { ::_exit(3); }, "exited with code 3");
      },
      3 << 8);
}

TEST(Death, ExitingWellWithoutGoodbyeIsAFailure) {
  run_job(
      true,
      [](Rank rank, std::uint16_t port) {
        return survive(
            rank, port, true, [] { ::_exit(0); }, "exited with code 0 without leaving the job");
      },
      0);
}

// A forked child (a data loader) keeps the dead rank's sockets open: only its pidfd tells.
TEST(Death, AChildThatHoldsTheSocketsOpenHidesNothing) {
  const auto end = [] {
    if (::fork() == 0) {
      ::usleep(3'000'000);
      ::_exit(0);
    }
    die();
  };
  run_job(
      false, [&](Rank rank, std::uint16_t port) { return survive(rank, port, true, end, ""); },
      SIGKILL);
}

// One rank after the other leaves and its process ends, while the others go on: nobody has failed.
void leave_one_by_one(bool reports) {
  run_job(
      reports,
      [](Rank rank, std::uint16_t port) {
        Heard heard;
        {
          Session session(identity_of(rank, kRanks, port), seconds(20));
          session.join_node(make_memfd, seconds(20));
          session.listen(heard.listener());
          session.all_gather("", seconds(20));
          ::usleep(static_cast<useconds_t>(rank) * 400'000);
        }
        for (const auto& [failed, cause] : heard.causes) {
          std::fprintf(stderr, "rank %d heard of rank %d: %s\n", rank, failed, cause.c_str());
        }
        return heard.causes.empty() ? 0 : 1;
      },
      0);
}

TEST(Leave, InOrderIsNoFailureUnderALauncher) { leave_one_by_one(true); }
TEST(Leave, InOrderIsNoFailureWithoutALauncher) { leave_one_by_one(false); }

// All at once, many times: the goodbye must win every race against the end of the process.
TEST(Leave, AllAtOnceIsNoFailure) {
  for (int turn = 0; turn < 10; ++turn) {
    run_job(
        turn % 2 == 0,
        [](Rank rank, std::uint16_t port) {
          std::atomic<bool> failed = false;
          {
            Session session(identity_of(rank, kRanks, port), seconds(20));
            session.join_node(make_memfd, seconds(20));
            session.listen({.failed = [&](Rank, const std::string&) { failed = true; }});
            session.all_gather("", seconds(20));
          }
          return failed ? 1 : 0;
        },
        0);
  }
}

// Rank 0 holds the store; with it the others lose their hub, and hear that rank 0 is gone.
TEST(Death, OfTheRankThatServesTheStore) {
  const std::uint16_t port = local_address(listen_tcp({"127.0.0.1", 0}).get()).port;
  Processes processes(kRanks, [](Rank rank, std::uint16_t store_port) {
    Identity identity = identity_of(rank, kRanks, store_port);
    identity.serves_store = true;
    Heard heard;
    Session session(identity, seconds(20));
    session.join_node(make_memfd, seconds(20));
    heard.gather_before_death(session, 0);
    if (rank == 0) die();
    const std::string cause = heard.wait_for(0, seconds(3));
    return cause.find("killed by signal 9") == 0 || cause.find("lost its connection") == 0 ? 0 : 1;
  });
  processes.tell_port(port);
  for (Rank rank = processes.reap(); rank >= 0; rank = processes.reap()) {
    EXPECT_EQ(processes.status, rank == 0 ? SIGKILL : 0) << "rank " << rank;
  }
}

// The launcher is killed: each rank hears that it is cut off, itself.
TEST(Death, OfTheLaunchersStore) {
  int joined[2];
  ASSERT_EQ(::pipe(joined), 0);
  const Fd joined_reader(joined[0]), joined_writer(joined[1]);
  Processes processes(kRanks, [&](Rank rank, std::uint16_t port) {
    Heard heard;
    Session session(identity_of(rank, kRanks, port), seconds(20));
    session.join_node(make_memfd, seconds(20));
    session.listen(heard.listener());
    if (::write(joined_writer.get(), "", 1) != 1) return 2;
    return heard.wait_for(rank, seconds(5)).find("lost its connection to the store") == 0 ? 0 : 1;
  });
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const Fd reader(ends[0]), writer(ends[1]);
  const pid_t launcher = ::fork();
  if (launcher == 0) {
    Store store(store_for(kRanks));
    const std::uint16_t port = store.port();
    if (::write(writer.get(), &port, sizeof port) != sizeof port) ::_exit(1);
    ::alarm(60);  // for a rank that never joins
    char byte = 0;
    for (Rank rank = 0; rank < kRanks; ++rank) {
      if (::read(joined_reader.get(), &byte, 1) != 1) ::_exit(1);
    }
    die();
  }
  std::uint16_t port = 0;
  ASSERT_EQ(::read(reader.get(), &port, sizeof port), static_cast<ssize_t>(sizeof port));
  processes.tell_port(port);
  int good = 0;
  for (Rank rank = processes.reap(); rank >= 0; rank = processes.reap())
    good += processes.status == 0;
  EXPECT_EQ(good, kRanks);
}

TEST(Death, DuringAnExchangeIsAnErrorThatNamesTheRank) {
  run_job(
      true,
      [](Rank rank, std::uint16_t port) {
        Heard heard;
        Session session(identity_of(rank, kRanks, port), seconds(20));
        heard.gather_before_death(session, kVictim);
        if (rank == kVictim) die();
        const std::int64_t start = now_ns();
        try {
          session.all_gather("", seconds(10));
        } catch (const Error& error) {
          const bool named = std::string(error.what()).find("rank 2 killed by signal 9") == 0;
          if (!named) std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
          return named && now_ns() - start < 2000 * kNsPerMs ? 0 : 2;
        }
        return 1;
      },
      SIGKILL);
}

TEST(Death, BeforeAllHaveJoinedEndsTheJoin) {
  run_job(
      true,
      [](Rank rank, std::uint16_t port) {
        if (rank == kVictim) die();
        try {
          Session session(identity_of(rank, kRanks, port), seconds(20));
        } catch (const Error& error) {
          const bool named =
              std::string(error.what()).find("rank 2 killed by signal 9") != std::string::npos;
          if (!named) std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
          return named ? 0 : 2;
        }
        return 1;
      },
      SIGKILL);
}

TEST(Scale, ManyProcessesJoinSoon) {
  constexpr Rank kMany = 128;
  Processes processes(kMany, [](Rank rank, std::uint16_t port) {
    Session session(identity_of(rank, kMany, port), seconds(30));
    session.join_node(make_memfd, seconds(30));
    session.listen({});
    return session.all_gather(std::to_string(rank), seconds(30)).back() == "127" ? 0 : 1;
  });
  const std::int64_t start = now_ns();
  Store store(store_for(kMany));
  processes.tell_port(store.port());
  int good = 0;
  for (Rank rank = processes.reap(); rank >= 0; rank = processes.reap())
    good += processes.status == 0;
  const double wall = static_cast<double>(now_ns() - start) / 1e9;
  rusage usage{};
  ::getrusage(RUSAGE_CHILDREN, &usage);
  std::printf(
      "128 processes: join, find their node, exchange, leave: %.2f s (children's CPU so far "
      "%.2f s)\n",
      wall,
      static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
          static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
  EXPECT_EQ(good, kMany);
  EXPECT_LT(wall, 20.0);
}

}  // namespace
}  // namespace shoal::bootstrap
