#include "nccl/net/plugin.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "bootstrap/auth.h"
#include "core/clock.h"
#include "core/log.h"
#include "nccl/net/report.h"

namespace shoal::nccl {
namespace {

/// NCCL polls connect() all the time. Where it has stopped, it has given up.
constexpr std::int64_t kAbandonedNs = 60'000 * kNsPerMs;

}  // namespace

Plugin& Plugin::instance() {
  static Plugin* const plugin = new Plugin;  // never destroyed: NCCL may close things at exit
  return *plugin;
}

void Plugin::init(abi::Logger logger, const abi::CommConfig* config) {
  log_to(logger);
  const std::lock_guard lock(mutex_);
  if (config != nullptr && config->traffic_class != abi::kUndefined &&
      !std::exchange(said_no_traffic_class_, true)) {
    log(LogLevel::kWarn,
        "NET/shoal: a communicator's trafficClass (%d) is not used; UCX_IB_TRAFFIC_CLASS sets that "
        "of the process",
        config->traffic_class);
  }
  if (!devices_.empty()) return;
  static_cast<void>(timeout_ms_from_environment());  // what is wrong is said now
  devices_ = find_devices();
  for (const Device& device : devices_) {
    log(LogLevel::kInfo, "NET/shoal: %s at %s, %s, %d Mb/s", device.name.c_str(),
        device.host.c_str(), device.rdma ? "UCX" : "TCP", device.speed_mbps);
  }
}

int Plugin::devices() {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(devices_.size());
}

const Device& Plugin::device(int number) {
  const std::lock_guard lock(mutex_);
  if (number >= 0 && static_cast<std::size_t>(number) < devices_.size()) {
    return devices_[static_cast<std::size_t>(number)];
  }
  throw Error(ErrorCode::kInvalidArgument, "NET/shoal: there is no device " +
                                               std::to_string(number) + " of " +
                                               std::to_string(devices_.size()));
}

int Plugin::make_device(const std::vector<int>& parts) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    if (devices_[i].parts == parts) return static_cast<int>(i);
  }
  devices_.push_back(merge(devices_, parts));
  log(LogLevel::kInfo, "NET/shoal: device %d is %s", static_cast<int>(devices_.size()) - 1,
      devices_.back().name.c_str());
  return static_cast<int>(devices_.size()) - 1;
}

Listener* Plugin::listen(int number, void* handle) {
  auto listener = std::make_unique<Listener>(device(number));
  write_handle(listener->handle(), handle);
  return listener.release();
}

std::unique_ptr<Plugin::Attempt> Plugin::take_attempt(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  drop_abandoned_attempts(now_ns());
  const auto found = attempts_.find(number);
  if (found == attempts_.end()) return nullptr;
  auto attempt = std::move(found->second);
  attempts_.erase(found);
  return attempt;
}

void Plugin::drop_abandoned_attempts(std::int64_t now) {
  std::erase_if(attempts_,
                [&](const auto& entry) { return now - entry.second->polled_ns > kAbandonedNs; });
}

/// The number of an attempt comes back in the handle, which came from another process: one that is
/// not known here begins a new attempt.
Connection* Plugin::connect(int number, void* bytes) {
  Handle handle = read_handle(bytes);
  auto attempt = take_attempt(std::exchange(handle.attempt, 0));
  write_handle(handle, bytes);
  if (attempt == nullptr) {
    attempt = std::make_unique<Attempt>(Attempt{Meeting::to(handle, device(number)), 0});
  }
  const std::int64_t now = now_ns();
  if (auto connection = attempt->meeting.progress()) return connection.release();
  const std::int64_t limit_ms = timeout_ms_from_environment();
  if (now - attempt->meeting.begin_ns() > limit_ms * kNsPerMs) {
    throw Error(ErrorCode::kTimeout, "NET/shoal: connect to " + to_text(endpoint_of(handle)) +
                                         ": not accepted after " + std::to_string(limit_ms) +
                                         " ms (SHOAL_NCCL_TIMEOUT_MS); is that rank stopped?");
  }
  attempt->polled_ns = now;
  const std::lock_guard lock(mutex_);
  handle.attempt = ++next_attempt_;
  attempts_.emplace(handle.attempt, std::move(attempt));
  write_handle(handle, bytes);
  return nullptr;
}

}  // namespace shoal::nccl
