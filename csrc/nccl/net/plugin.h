/// The plug-in, whatever version NCCL speaks: versions.cc makes a table of it for each.
///
/// One of these is there in a process, for NCCL's tables know no object; libshoal itself is not
/// used, and a job's shoal beside it is not touched.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "nccl/net/connection.h"
#include "nccl/net/devices.h"
#include "nccl/net/listener.h"
#include "nccl/net/net_abi.h"

namespace shoal::nccl {

/// Any thread. Functions that return nothing throw Error.
class Plugin {
 public:
  static Plugin& instance();

  /// Of each communicator, or once: finds the devices the first time.
  void init(abi::Logger logger, const abi::CommConfig* config);
  [[nodiscard]] int devices();
  /// At an address that stays.
  [[nodiscard]] const Device& device(int number);
  /// A device of several; the same one for the same parts.
  [[nodiscard]] int make_device(const std::vector<int>& parts);

  [[nodiscard]] Listener* listen(int device, void* handle);
  /// nullptr: call again with the same handle.
  [[nodiscard]] Connection* connect(int device, void* handle);

 private:
  struct Attempt {
    Meeting meeting;
    std::int64_t polled_ns;
  };
  [[nodiscard]] std::unique_ptr<Attempt> take_attempt(std::uint64_t number);
  void drop_abandoned_attempts(std::int64_t now);

  std::mutex mutex_;
  std::deque<Device> devices_;
  std::map<std::uint64_t, std::unique_ptr<Attempt>> attempts_;
  std::uint64_t next_attempt_ = 0;
  bool said_no_traffic_class_ = false;
};

}  // namespace shoal::nccl
