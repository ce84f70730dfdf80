/// Layout of the page every rank keeps about itself, for readers outside the process: `shoal ps`,
/// the tracer in bpf/, a debugger. Plain C++/C types, fixed widths; append only, bump the version.
///
/// Finding it: a process that is a rank maps a memfd named "shoal-arena" (/proc/PID/maps,
/// /proc/PID/fd). The arena begins with an ArenaHeader; the page of local rank r lies at
/// r * slice_bytes + kProgressPageOffset. Readable also when the rank is stopped.
/// One writer (the owner), relaxed stores: a reader may see an operation half updated, and reads
/// `operations[i].sequence` before and after if that matters.
///
/// An operation that is over within the call that makes it (the others were as far already) counts
/// in `at_once` and its communicator's row, and has no record: what is waited for has one.
#ifndef SHOAL_ABI_PROGRESS_PAGE_H_
#define SHOAL_ABI_PROGRESS_PAGE_H_

#include <atomic>
#include <cstdint>

namespace shoal::abi {

inline constexpr std::uint64_t kArenaMagic = 0x616e6572616c6f68;  // "holarena"
inline constexpr std::uint32_t kAbiVersion = 4;
inline constexpr std::int64_t kProgressPageOffset = 4096;
inline constexpr std::int64_t kProgressPageBytes = 4096;
inline constexpr int kPageOperations = 16;
inline constexpr int kPageTransfers = 16;
inline constexpr int kPageCommunicators = 64;

/// At offset 0 of the arena (and of no other slice). Written once by the creator.
struct ArenaHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::int32_t ranks;  ///< local ranks
  std::int64_t slice_bytes;
  char job[64];  ///< job id, NUL-terminated
};
static_assert(sizeof(ArenaHeader) == 88);

enum class OperationState : std::uint32_t { kFree, kEntering, kRunning, kDone, kFailed };

/// An operation in flight, or the last one that used this place.
struct OperationRecord {
  std::atomic<std::uint64_t> sequence;
  std::atomic<std::uint32_t> communicator;
  std::atomic<std::uint32_t> state;        ///< OperationState
  std::atomic<std::uint32_t> collective;   ///< shoal::Collective
  std::atomic<std::uint32_t> algorithm;    ///< schedule::Algorithm
  std::atomic<std::uint32_t> dtype;        ///< shoal::DataType
  std::atomic<std::uint32_t> op;           ///< shoal::ReduceOp
  std::atomic<std::int64_t> count;         ///< elements
  std::atomic<std::int64_t> begin_ns;      ///< CLOCK_MONOTONIC; 0: not waited for yet
  std::atomic<std::uint32_t> step;         ///< steps begun
  std::atomic<std::int32_t> awaited_peer;  ///< world rank; -1: none
  std::atomic<std::uint64_t> reserved;
};
static_assert(sizeof(OperationRecord) == 64);

/// A send or receive that was not over within its call.
struct TransferRecord {
  std::atomic<std::uint32_t> state;  ///< 0: free; 1: sends; 2: receives
  std::atomic<std::uint32_t> communicator;
  std::atomic<std::int32_t> peer;  ///< world rank; -1: any
  std::atomic<std::uint32_t> tag;
  std::atomic<std::int64_t> bytes;
  std::atomic<std::int64_t> begin_ns;  ///< CLOCK_MONOTONIC
};
static_assert(sizeof(TransferRecord) == 32);

/// How far this rank is in one communicator: who has posted less than the others is late. Groups
/// that have no rank in common may have the same id; `first` tells them apart.
struct CommunicatorRow {
  std::atomic<std::uint32_t> communicator;
  std::atomic<std::int32_t> first;       ///< world rank of its rank 0
  std::atomic<std::int32_t> ranks;       ///< 0: the row is free
  std::atomic<std::int32_t> rank;        ///< this rank in it
  std::atomic<std::uint64_t> posted;     ///< sequence number of the last collective called
  std::atomic<std::uint64_t> completed;  ///< and up to which all are over
};
static_assert(sizeof(CommunicatorRow) == 32);

struct ProgressPage {
  std::uint32_t version;
  std::int32_t pid;
  std::int32_t rank;  ///< in the world
  std::int32_t ranks;
  std::int32_t local_rank;
  std::atomic<std::int32_t> drivers;  ///< threads that wait for operations or drive them now
  char host[64];
  std::atomic<std::int64_t> heartbeat_ns;  ///< CLOCK_MONOTONIC, every 100 ms; stands still: stopped
  std::atomic<std::int32_t> thread_id;     ///< of the thread that last drove progress
  /// Of the thread that last called an operation which then had to wait; 0: none yet.
  std::atomic<std::int32_t> caller_id;
  /// Operations begun, all communicators; in all there were so many, and `at_once` more.
  std::atomic<std::uint64_t> posted;
  std::atomic<std::uint64_t> completed;  ///< operations ended, and `at_once` more
  std::atomic<std::uint64_t> failed;     ///< operations ended by an error
  OperationRecord operations[kPageOperations];
  std::atomic<std::uint64_t> staged;        ///< operations with buffers outside the arena
  std::atomic<std::uint64_t> staged_bytes;  ///< of those buffers
  TransferRecord transfers[kPageTransfers];
  CommunicatorRow communicators[kPageCommunicators];  ///< of further ones nothing is seen
  /// Of the collectives that have ended: the larger of this rank's two buffers.
  std::atomic<std::uint64_t> bytes;
  std::atomic<std::uint64_t> at_once;  ///< operations begun and ended within their call
};
static_assert(sizeof(ProgressPage) <= kProgressPageBytes);

}  // namespace shoal::abi

#endif  // SHOAL_ABI_PROGRESS_PAGE_H_
