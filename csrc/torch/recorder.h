/// The last operations of a process, for who asks why one of them has not ended.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace shoal::torch {

/// A ring of the operations of all groups of a job. Any thread; 50 ns an operation.
class Recorder {
 public:
  enum class State : std::uint8_t { kStarted, kCompleted, kFailed };
  struct Entry {
    std::uint64_t number = 0;    ///< of this process, from 1
    std::uint32_t group = 0;     ///< the communicator's id, the same on all its ranks
    std::uint64_t sequence = 0;  ///< in the group: the same operation on all ranks, messages apart
    const char* operation = "";  ///< "shoal:all_reduce"
    std::int64_t elements = 0;
    const char* dtype = "";
    std::int64_t timeout_ms = 0;
    std::int64_t begin_ns = 0, end_ns = 0;  ///< CLOCK_REALTIME; 0: not yet
    State state = State::kStarted;
  };
  static constexpr std::size_t kEntries = 256;

  /// Of this process, in its job.
  Recorder(int rank, int ranks) noexcept : rank_(rank), ranks_(ranks) {}

  std::uint64_t begin(Entry entry);
  void end(std::uint64_t number, bool failed);

  /// In the order of their beginning.
  [[nodiscard]] std::vector<Entry> entries() const;

  /// As JSON into TORCH_FR_DUMP_TEMP_FILE (default: /tmp/shoal_trace_rank_) with the rank behind
  /// it: `reason`, then the entries. The first call only. Returns the file; "" if it cannot be
  /// written.
  std::string dump(const std::string& reason);

 private:
  const int rank_, ranks_;
  mutable std::mutex mutex_;
  std::array<Entry, kEntries> ring_{};  // mutex_
  std::uint64_t last_ = 0;              // mutex_
  bool is_dumped_ = false;              // mutex_
  std::string file_;                    // mutex_
};

/// "started", "completed", "failed".
const char* name_of(Recorder::State state);

}  // namespace shoal::torch
