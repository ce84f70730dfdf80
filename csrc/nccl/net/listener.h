/// A receiver that waits for senders, and a sender that is on its way. NCCL polls both.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "nccl/net/connection.h"
#include "nccl/net/devices.h"
#include "nccl/net/greeting.h"
#include "nccl/net/handle.h"

namespace shoal::nccl {

/// A greeting, and the table that the network it makes will ask for memory.
class Meeting {
 public:
  [[nodiscard]] static Meeting to(const Handle& handle, const Device& device);
  [[nodiscard]] static Meeting from(Fd socket, const Handle& handle, const Device& device);

  /// nullptr: not yet. Throws Error.
  [[nodiscard]] std::unique_ptr<Connection> progress();
  [[nodiscard]] bool is_stranger() const noexcept { return greeting_.is_stranger(); }
  [[nodiscard]] std::int64_t begin_ns() const noexcept { return greeting_.begin_ns(); }

 private:
  Meeting(bool sends, const Device& device, std::shared_ptr<MemoryTable> memory, Greeting greeting)
      : sends_(sends),
        device_(device.name),
        memory_(std::move(memory)),
        greeting_(std::move(greeting)) {}

  bool sends_;
  std::string device_;
  std::shared_ptr<MemoryTable> memory_;
  Greeting greeting_;
};

/// Any thread.
class Listener {
 public:
  /// Throws Error(kTransport) when it cannot listen.
  explicit Listener(const Device& device);

  [[nodiscard]] const Handle& handle() const noexcept { return handle_; }
  /// The next that has come; nullptr: none yet. Strangers are turned away and logged. Throws Error
  /// where one of ours cannot be connected.
  [[nodiscard]] std::unique_ptr<Connection> accept();

 private:
  void take_sockets();

  const Device device_;
  std::mutex mutex_;  ///< of all that follows
  Fd socket_;
  Handle handle_;
  std::vector<Meeting> meetings_;
};

}  // namespace shoal::nccl
