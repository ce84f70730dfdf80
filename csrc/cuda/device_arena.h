/// The device's counterpart of memory::Arena and memory::Pool: this rank's pool of device memory,
/// and where the pools of the node's other ranks lie.
///
/// A pool grows by chunks (at least kMinChunkBytes, and an eighth of what it has, so that the
/// largest device is full after fewer than kMaxChunks); a chunk is handed out when every local rank
/// that uses CUDA has mapped it (exchange.h), and goes back to the device when the rank leaves.
/// Ranks that are threads of one process use one another's addresses.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/clock.h"
#include "cuda/base_table.h"
#include "cuda/device_memory.h"
#include "cuda/exchange.h"
#include "cuda/kernels.h"
#include "cuda/slice.h"
#include "cuda/stream_group.h"
#include "memory/free_ranges.h"

namespace shoal::cuda {

inline constexpr std::int64_t kMinChunkBytes = 32 << 20;

/// Same meaning in every rank of the node.
struct Place {
  int local_rank = 0;
  std::int64_t offset = 0;
};

/// `wanted`, unless it is -1; else SHOAL_CUDA_DEVICE; else the device of the context that is
/// current in this thread (torch.cuda.set_device); else local rank modulo devices. Throws Error.
int choose_device(const Driver& driver, int wanted, int local_rank);

/// Any thread.
class DeviceArena final : public DeviceMemory {
 public:
  /// Returns when the pools of all ranks that use CUDA already are mapped. Throws Error.
  DeviceArena(const Driver& driver, const MemoryOptions& options, const Interrupt& interrupt = {});
  ~DeviceArena() override;

  [[nodiscard]] const PrimaryContext& context() const noexcept { return context_; }
  /// Where a rank's offset 0 lies in this process; 0: it has no device memory (yet).
  [[nodiscard]] std::uint64_t base(int local_rank) const noexcept {
    // acquire: pairs with the release in publish()
    return views_[static_cast<std::size_t>(local_rank)].base.load(std::memory_order_acquire);
  }
  /// The same of all local ranks, where kernels read it: an address of the device.
  [[nodiscard]] const std::uint64_t* bases() const noexcept { return bases_.on_device(); }
  /// Loaded by the first call. Throws Error.
  [[nodiscard]] const Kernels& kernels();
  /// Whole pages of host memory as the device sees them, until the end of the arena: unregistering
  /// them may wait for kernels, also of ranks that wait for this one. Throws Error.
  std::shared_ptr<const MappedMemory> mapped(std::byte* memory, std::int64_t bytes);
  /// If [address, address + bytes) lies wholly in what a rank's pool holds.
  [[nodiscard]] std::optional<Place> offset_of(std::uint64_t address,
                                               std::int64_t bytes) const noexcept;

  /// Throws InvalidArgument: `what` is not CUDA memory, of whatever pool or library.
  void require_device_memory(const std::string& what, std::uint64_t address) const;

  /// A block of the pool, zeroed, into which other ranks' kernels store. Until it is taken back the
  /// pool's memory stays mapped, also when this is destroyed. Throws as allocate().
  std::uint64_t lend(std::int64_t bytes);
  void take_back(std::uint64_t block) noexcept;

  std::uint64_t allocate(std::int64_t bytes, const Interrupt& interrupt = {}) override;
  void free(std::uint64_t block, bool shared = false) noexcept override;
  void used(std::uint64_t block, void* stream) override;
  /// The operations of a group, up to a number: over when its word says so, and ordered by it.
  /// Costs no call of the driver, as an event would.
  struct Operations {
    const StreamGroup* group;
    std::uint32_t number;
    CUstream stream;  ///< of the last
  };
  void used(std::uint64_t block, const Operations& by);
  /// All operations of the group are over.
  void forget(const StreamGroup& group) noexcept;
  void order_after_uses(std::uint64_t block, void* stream) override;
  void copy_to_host(void* to, std::uint64_t from, std::int64_t bytes) override;
  void copy_from_host(std::uint64_t to, const void* from, std::int64_t bytes) override;
  std::unique_ptr<DeviceGroup> make_group(const GroupOptions& options) override;
  std::unique_ptr<HostGroup> make_host_group(const HostGroupOptions& options) override;
  [[nodiscard]] int device() const noexcept override { return context_.device(); }
  [[nodiscard]] MemoryUse use() const noexcept override;
  [[nodiscard]] ExportKind export_kind() const noexcept { return ability_.kind; }

 private:
  struct View {
    std::atomic<std::uint64_t> base{0};
    std::atomic<std::int64_t> bytes{0};
  };
  /// The last work on one stream that uses a block.
  struct Use {
    CUstream stream;
    Event event;
  };
  struct Block {
    std::int64_t bytes = 0;
    std::vector<Use> uses;
    std::vector<Operations> operations;
  };
  using Lock = std::unique_lock<std::mutex>;

  ExchangeEvents events();
  void begin_owner(int owner);
  Outcome map_chunk(int owner, const ChunkTicket& ticket, const Fd& fd, bool same_process);
  void drop_chunk(int owner, std::int64_t offset);
  void settled(std::int64_t offset, const std::string& refused);
  bool tick();

  void start_growth(std::int64_t bytes);
  [[nodiscard]] std::int64_t next_chunk_bytes(std::int64_t bytes) const;
  void await_change(Lock& lock, std::int64_t bytes, Deadline deadline);
  std::uint64_t hand_out(std::int64_t offset, std::int64_t bytes);
  [[noreturn]] void throw_exhausted(std::int64_t bytes, const std::string& why) const;
  void throw_if_lost() const;
  Outcome record(Block& block, CUstream stream) noexcept;
  bool completed(const Block& block) noexcept;
  template <class Condition>
  void forget_operations(const Condition& condition) noexcept;
  bool reap() noexcept;
  void note(CUresult result) noexcept;
  void check(const Outcome& outcome);
  void publish(int local_rank, const Slice& slice) noexcept;
  Block* block_with(std::uint64_t address);
  void copy(std::uint64_t device, std::int64_t bytes, bool to_host, void* host);
  void await(const Stream& stream);
  bool drain() noexcept;

  const Driver& driver_;
  const MemoryOptions options_;
  PrimaryContext context_;
  ExportAbility ability_;
  std::int64_t limit_ = 0;
  Stream before_copies_;  // waits for what copies come after; the legacy default stream too
  Stream copies_;
  std::vector<View> views_;  // by local rank
  BaseTable bases_;
  std::once_flag kernels_loaded_;
  std::shared_ptr<const Kernels> kernels_;  // shared_ptr: see share_kernels()

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::byte*, std::shared_ptr<const MappedMemory>> mapped_;
  std::vector<std::unique_ptr<Slice>> slices_;      // by local rank; nullptr: none
  std::vector<std::unique_ptr<Slice>> old_slices_;  // of ranks that have come anew
  memory::FreeRanges free_;
  std::map<std::int64_t, Block> blocks_;                 // by offset; handed out
  std::vector<std::pair<std::int64_t, Block>> leaving_;  // freed, and still in use
  std::int64_t used_bytes_ = 0;
  int lent_ = 0;  ///< blocks
  int chunks_ = 0;
  std::optional<ChunkTicket> growing_;
  std::uint64_t refusals_ = 0;
  std::string refusal_;
  std::atomic<CUresult> lost_{CUDA_SUCCESS};  // relaxed: a value of its own, from any thread
  bool told_lost_ = false;

  std::unique_ptr<ChunkExchange> exchange_;  // last: its thread uses all of the above
};

}  // namespace shoal::cuda
