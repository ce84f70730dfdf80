/// One rank's device memory, as one process sees it: chunks side by side from one address on, so
/// that base + offset is the same byte for every rank of the node.
#pragma once

#include <cstdint>
#include <vector>

#include "core/fd.h"
#include "cuda/handles.h"

namespace shoal::cuda {

/// How chunks reach other processes.
enum class ExportKind : std::uint32_t {
  kFileDescriptor,  ///< virtual memory management: a chunk is an fd; a pool may grow
  kIpcHandle,       ///< where that is refused: one chunk, the whole pool, by a legacy IPC handle
};

/// What the other ranks are told of a chunk; with kFileDescriptor an fd goes with it.
struct ChunkTicket {
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
  std::int64_t slice_bytes = 0;  ///< what the owner has reserved
  std::uint64_t base = 0;        ///< the owner's address, for ranks of the same process
  std::uint64_t context = 0;     ///< and its context
  CUipcMemHandle ipc{};
  ExportKind kind = ExportKind::kFileDescriptor;
};

/// What this device needs, found by trying.
struct ExportAbility {
  ExportKind kind = ExportKind::kFileDescriptor;
  std::int64_t granularity = 0;  ///< chunks are multiples of it
};
/// Throws Error. A context is current.
ExportAbility probe_export(const PrimaryContext& context);

/// One thread at a time; a context is current in every call.
class Slice {
 public:
  explicit Slice(const PrimaryContext& context) noexcept : context_(&context) {}
  ~Slice();
  Slice(const Slice&) = delete;
  Slice& operator=(const Slice&) = delete;

  // The owner's.
  Outcome reserve(ExportKind kind, std::int64_t bytes);
  /// Appends a chunk and describes it. An error changes nothing.
  Outcome grow(std::int64_t bytes, ChunkTicket& ticket, Fd& fd);

  // Another rank's. In order of the tickets; each has been checked to fit what was said before.
  Outcome import(const ChunkTicket& ticket, const Fd& fd);
  /// The owner is a thread of this process: its addresses are ours.
  Outcome borrow(const ChunkTicket& ticket);

  /// Takes the last chunk back; nobody has used it.
  void drop_last() noexcept;

  [[nodiscard]] std::uint64_t base() const noexcept { return base_; }
  [[nodiscard]] std::int64_t bytes() const noexcept { return top_; }

 private:
  struct Chunk {
    std::uint64_t address;
    std::int64_t bytes;
    CUmemGenericAllocationHandle handle;  // 0: none
    enum class Kind { kMapped, kAllocated, kOpened, kBorrowed } kind;
  };
  [[nodiscard]] const Driver& driver() const noexcept { return context_->driver(); }
  Outcome reserve_addresses(std::int64_t bytes);
  Outcome grow_mapped(std::int64_t bytes, Fd& fd);
  Outcome grow_allocated(std::int64_t bytes, ChunkTicket& ticket);
  Outcome map(CUmemGenericAllocationHandle handle, std::int64_t bytes);
  Outcome let_this_device(std::uint64_t address, std::int64_t bytes);
  Outcome let_this_context(CUcontext owner);
  void append(Chunk chunk);
  void release(const Chunk& chunk) noexcept;

  const PrimaryContext* context_;
  ExportKind kind_ = ExportKind::kFileDescriptor;
  CUdeviceptr base_ = 0;
  std::int64_t reserved_ = 0;  // addresses, of this process
  std::int64_t top_ = 0;
  std::vector<Chunk> chunks_;
};

}  // namespace shoal::cuda
