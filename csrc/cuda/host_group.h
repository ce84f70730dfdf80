/// What comm/ sees of one communicator's operations on CUDA memory that the host carries out
/// (between nodes, and messages), without cuda.h; see host_stream_group.h for how they run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace shoal::cuda {

struct HostGroupOptions {
  int self = 0;  ///< local rank
  /// A stream has come to an operation. Called on a thread of the driver; must neither wait for
  /// long nor call the driver.
  std::function<void()> on_reached;
};

/// Between a buffer of the device and memory that has been pinned.
struct HostCopy {
  std::uint64_t device = 0;
  std::byte* host = nullptr;
  std::int64_t bytes = 0;
};

/// Operations are numbered from 1, in the order of submit(). One thread at a time, but for what
/// says any thread.
class HostGroup {
 public:
  virtual ~HostGroup() = default;

  /// Lets the device have this memory, whole pages. Throws Error.
  virtual void pin(std::byte* memory, std::int64_t bytes) = 0;
  virtual void unpin(std::byte* memory) noexcept = 0;

  /// Throws InvalidArgument: the stream is being captured. `call` begins the text.
  virtual void check_stream(const std::string& call, void* stream) = 0;
  /// Throws InvalidArgument: that is not CUDA memory.
  virtual void check_memory(const std::string& call, const char* which, std::uint64_t address,
                            std::int64_t bytes) = 0;

  static constexpr int kMaxOperations = 256;  ///< that a host may be ahead of its GPU
  static constexpr int kMaxOutputs = 512;     ///< of all of these
  [[nodiscard]] virtual bool has_room(int outputs) const noexcept = 0;
  /// Enqueues an operation; there is room. The stream copies the inputs to the host, waits for
  /// release(), and copies the outputs to the device that allow() has been called for. Throws
  /// Error: abort() is due, and then give_up().
  virtual void submit(void* stream, std::span<const HostCopy> inputs,
                      std::span<const HostCopy> outputs) = 0;
  /// What has been enqueued of the last operation was all of it: is_over() behind that.
  virtual void give_up() noexcept = 0;

  // --- any thread

  [[nodiscard]] virtual std::uint32_t issued() const noexcept = 0;
  /// Its stream has come to it, and its inputs are there. Only one is at a time.
  [[nodiscard]] virtual bool is_reached(std::uint32_t number) const noexcept = 0;
  /// Its stream has passed it.
  [[nodiscard]] virtual bool is_over(std::uint32_t number) const noexcept = 0;
  /// Of an operation that has not been released: this output is good.
  virtual void allow(std::uint32_t number, int output) noexcept = 0;
  /// Lets the stream go on.
  virtual void release(std::uint32_t number) noexcept = 0;
  /// Lets all go on, also what is submitted later; nothing is copied to the device any more.
  virtual void abort() noexcept = 0;
  /// on_reached is not called any more once this has returned.
  virtual void detach() noexcept = 0;
};

}  // namespace shoal::cuda
