/// What a kernel is told, and what it reads besides: plain structs that nvcc, g++ and every process
/// of the node lay out alike.
#pragma once

#include <cstdint>

namespace shoal::cuda {

/// Ranks of one node that a kernel can combine: what is worked out once per block fits beside its
/// other shared memory.
inline constexpr int kMaxKernelRanks = 64;

/// A rank's buffers for one operation, written before its flag says that it is ready. Host memory
/// that all ranks of the node have mapped. Places are as DeviceArena has them: an owner's slice and
/// an offset into it.
struct alignas(64) Record {
  std::uint64_t sequence;                  ///< of the communicator
  std::uint64_t fingerprint;               ///< of everything all ranks must agree on
  std::int32_t input_owner, output_owner;  ///< local ranks
  std::int64_t input_offset, output_offset;
};
static_assert(sizeof(Record) == 64);

/// Where kernels wait for the others themselves (kernel_meeting.h); `ready` is null where the
/// stream does it. Then the ranks are threads of one process, to all of whom an address means the
/// same. What this rank stores to the host's memory tells its host how far it is.
struct Spin {
  std::uint32_t *ready = nullptr, *done = nullptr;  ///< this rank's words
  std::uint32_t* completed = nullptr;               ///< likewise; null: the stream will say so
  const void* input = nullptr;                      ///< this rank's buffers
  void* output = nullptr;
  std::uint32_t value = 0;  ///< number of the operation
  /// Of all ranks: device memory, by workspace.h.
  std::uint64_t workspaces[kMaxKernelRanks] = {};
};

/// The one parameter of every kernel.
struct KernelParameters {
  const Record* records = nullptr;  ///< of rank 0; that of the next one lies record_stride further
  std::int64_t record_stride = 0;
  const std::uint64_t* bases = nullptr;  ///< by local rank: where its slice begins here
  const std::uint32_t* abort = nullptr;  ///< not 0: nothing is written any more
  std::uint64_t* complaint = nullptr;    ///< where a kernel says who has called something else
  std::uint32_t* runs = nullptr;         ///< counts launches of a captured operation; may be null
  std::uint64_t sequence = 0;
  std::uint64_t fingerprint = 0;
  std::int64_t count = 0;  ///< the kernel's elements in one block, as schedule/shape.h has them
  double scale = 1.0;
  std::int32_t collective = 0;  ///< shoal::Collective
  std::int32_t self = 0, ranks = 1, root = 0;
  Spin spin{};
};

/// What must be the same for all ranks, in one word: who has called something else is told apart.
constexpr std::uint64_t tag_of(std::uint64_t sequence, std::uint64_t fingerprint) noexcept {
  return fingerprint ^ sequence * 0x9e3779b97f4a7c15;
}

/// A complaint: what has been called differently, by which rank. 0: none.
constexpr std::uint64_t complaint_of(std::uint64_t sequence, int rank) noexcept {
  return sequence << 16 | static_cast<std::uint64_t>(rank + 1);
}

/// Threads of a block, and the bytes that one takes at a time.
inline constexpr int kBlockThreads = 512;
inline constexpr int kVectorBytes = 16;
/// Slices of a buffer begin at lines, so that ranks do not share one and vectors fit.
inline constexpr std::int64_t kSliceBytes = 128;

}  // namespace shoal::cuda
