/// A job whose ranks are threads of this process that stand in two network namespaces: to shoal two
/// nodes, between which there is TCP.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "comm/job.h"
#include "core/fd.h"

namespace shoal {

/// Needs root and iproute2.
class TwoNodes {
 public:
  TwoNodes() {
    const std::string tag = std::to_string(::getpid() % 10000);
    for (int node : {0, 1}) {
      names_[node] = "shoal-t" + tag + (node == 0 ? "a" : "b");
      links_[node] = "vt" + tag + (node == 0 ? "a" : "b");
    }
    works_ = ::geteuid() == 0 && ip("netns add " + names_[0]) && ip("netns add " + names_[1]) &&
             ip("link add " + links_[0] + " netns " + names_[0] + " type veth peer name " +
                links_[1] + " netns " + names_[1]);
    for (int node : {0, 1}) works_ = works_ && bring_up(node);
    for (int node : {0, 1}) works_ = works_ && is_up(node);
  }
  ~TwoNodes() {
    for (const std::string& name : names_) (void)ip("netns del " + name);
  }
  TwoNodes(const TwoNodes&) = delete;
  TwoNodes& operator=(const TwoNodes&) = delete;

  [[nodiscard]] bool works() const noexcept { return works_; }

  /// Ranks [0, each) on the first node, [each, 2 * each) on the second.
  void run(int each, const std::function<void(Communicator&)>& body,
           const std::function<void(Options&)>& change = {}) const {
    const std::string store = "10.84.0.1:" + std::to_string(free_port());
    std::vector<std::thread> threads;
    for (int r = 0; r < 2 * each; ++r) {
      threads.emplace_back([&, r] {
        try {
          enter(r / each);
          Options options;
          options.rank = r;
          options.size = 2 * each;
          options.store = store;
          options.secret = "only for this test";
          options.network = "tcp";
          options.timeout_ms = options.init_timeout_ms = 30'000;
          options.pool_bytes = 64 << 20;
          if (change) change(options);
          Communicator comm = Communicator::init(options);
          ASSERT_EQ(comm.nodes(), 2);
          body(comm);
        } catch (const std::exception& error) {
          ADD_FAILURE() << "rank " << r << ": " << error.what();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  static bool ip(const std::string& arguments) {
    return std::system(("ip " + arguments + " >/dev/null 2>&1").c_str()) == 0;
  }
  [[nodiscard]] bool bring_up(int node) const {
    const std::string in = "-n " + names_[node] + " ";
    return ip(in + "addr add 10.84.0." + std::to_string(node + 1) + "/24 dev " + links_[node]) &&
           ip(in + "link set " + links_[node] + " up") && ip(in + "link set lo up");
  }
  /// The kernel reports a link's carrier a while after it is up.
  [[nodiscard]] bool is_up(int node) const {
    for (int i = 0; i < 100; ++i) {
      if (ip("-n " + names_[node] + " -br link show " + links_[node] + " | grep ' UP '")) {
        return true;
      }
      ::usleep(50'000);
    }
    return false;
  }
  void enter(int node) const {
    const Fd fd(::open(("/run/netns/" + names_[node]).c_str(), O_RDONLY | O_CLOEXEC));
    if (::setns(fd.get(), CLONE_NEWNET) != 0) throw std::runtime_error("setns");
  }

  std::string names_[2], links_[2];
  bool works_ = false;
};

}  // namespace shoal
