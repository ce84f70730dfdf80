/// What comm/ sees of libshoal_cuda.so, without cuda.h: one rank's CUDA memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/device_group.h"
#include "cuda/host_group.h"

namespace shoal::cuda {

/// Called now and then by a thread that waits for other ranks; what it throws ends the wait.
using Interrupt = std::function<void()>;
inline constexpr std::int64_t kInterruptMs = 100;

struct MemoryOptions {
  int self = 0;                                    ///< local rank
  std::vector<std::atomic<std::uint64_t>*> doors;  ///< of all local ranks; see exchange.h
  int device = -1;                ///< ordinal; -1: see choose_device() in device_arena.h
  std::int64_t limit_bytes = 0;   ///< of this rank's pool; 0: the device's memory
  std::int64_t timeout_ms = 0;    ///< of whatever waits for other ranks or for a stream
  const void* kernels = nullptr;  ///< kernel_image(); set by the module itself
  /// The context is lost; called once, on the service thread, with what happened.
  std::function<void(const std::string&)> on_lost;
};

struct MemoryUse {
  std::int64_t used_bytes = 0;  ///< in blocks that are handed out, or that a stream still uses
  std::int64_t held_bytes = 0;  ///< of the device, by this rank
  std::int64_t limit_bytes = 0;
  std::int64_t blocks = 0;
};

/// Addresses and streams are those of CUDA; a stream is a CUstream. Any thread. All throw Error
/// unless noexcept.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  /// A block of at least `bytes`, aligned to kBlockAlignment, that every rank of the node that
  /// uses CUDA can address. OutOfMemory says what was asked, is free, and the limit.
  virtual std::uint64_t allocate(std::int64_t bytes, const Interrupt& interrupt = {}) = 0;
  /// Gives a block back: at once, or when all that was told by used() has completed; `shared`: and
  /// what is on the legacy default stream now, and on those that wait for it.
  virtual void free(std::uint64_t block, bool shared = false) noexcept = 0;
  /// Work that uses the block has been enqueued on the stream. While the stream is captured this
  /// does nothing: whoever launches the graph keeps the block.
  virtual void used(std::uint64_t block, void* stream) = 0;
  /// What is enqueued on the stream from now on begins when what used() told has completed.
  virtual void order_after_uses(std::uint64_t block, void* stream) = 0;

  /// Blocking; after what used() told of the block that holds the memory, and after work on the
  /// legacy default stream.
  virtual void copy_to_host(void* to, std::uint64_t from, std::int64_t bytes) = 0;
  virtual void copy_from_host(std::uint64_t to, const void* from, std::int64_t bytes) = 0;

  /// The collectives of one communicator. This memory outlives them.
  virtual std::unique_ptr<DeviceGroup> make_group(const GroupOptions& options) = 0;
  /// What the host carries out of them, and its messages. Likewise.
  virtual std::unique_ptr<HostGroup> make_host_group(const HostGroupOptions& options) = 0;

  [[nodiscard]] virtual int device() const noexcept = 0;
  [[nodiscard]] virtual MemoryUse use() const noexcept = 0;
};

inline constexpr std::int64_t kBlockAlignment = 512;

/// For `shoal info`.
struct DeviceSurvey {
  std::string name;
  std::int64_t total_bytes = 0;
  std::string export_kind;  ///< how other processes get at its memory
};
struct Survey {
  bool found = false;
  std::string path;    ///< of the driver
  std::string reason;  ///< its version, or why there is none
  std::vector<DeviceSurvey> devices;
};

// What libshoal_cuda.so exports; they throw Error.
inline constexpr int kModuleAbi = 2;
using SurveyFunction = void (*)(Survey& survey);
using CreateFunction = DeviceMemory* (*)(const MemoryOptions& options, const Interrupt& interrupt);

}  // namespace shoal::cuda
