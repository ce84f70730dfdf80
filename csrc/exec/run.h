/// One collective in flight: enters, runs its schedule, leaves.
///
///   queued -> staging -> entering -> running -> unstaging -> done
///                            \__________\____ (error) -> fencing -> done
///
/// Staging: where the ranks of a node work on one another's buffers, memory that is not in the
/// arena is copied into pool blocks before and out of them after (buffers.h), unless a staged
/// schedule takes the place of the program and does that tile by tile (Plan::staged). Entering: the
/// entry line.
/// Fencing: after an error, wait until nobody writes our buffers any more (abort_board.h).
#pragma once

#include <cstdint>

#include "core/assert.h"
#include "exec/buffers.h"
#include "exec/call.h"
#include "exec/group.h"
#include "exec/plan.h"
#include "exec/task.h"
#include "reduce/reduce.h"
#include "schedule/catalog.h"
#include "shoal/abi/progress_page.h"

namespace shoal::exec {

class Run final : public Task {
 public:
  Run(TaskPool<Run>& home, int number) noexcept
      : home_(&home), number_(number), buffers_(home.pool()) {}
  ~Run() override { SHOAL_ASSERT(done()); }

  /// Under the engine's lock. The plan and the group outlive the run.
  void start(Group& group, const Call& call, std::uint64_t sequence) noexcept;
  /// The same for an operation that this rank has entered as `sequence` already (lines.h).
  void go_on(Group& group, const Call& call, std::uint64_t sequence) noexcept;
  /// From here on time counts; before the first poll() that gets one. A run that is done within its
  /// first polls never asks what time it is.
  void set_begin(std::int64_t now_ns) noexcept;
  bool poll(std::int64_t now_ns) noexcept override;
  void look() noexcept override { group_->check(this); }
  void recycle() noexcept override;
  [[nodiscard]] bool waits_for_network() const noexcept override;

  [[nodiscard]] const Plan& plan() const noexcept { return *call_.plan; }
  [[nodiscard]] const Call& call() const noexcept { return call_; }
  [[nodiscard]] Group& group() const noexcept { return *group_; }
  [[nodiscard]] std::uint64_t sequence() const noexcept { return sequence_; }
  /// Rank of the communicator that the run waits for; -1: none.
  [[nodiscard]] Rank awaited() const noexcept;
  [[nodiscard]] Rank awaited_world() const noexcept;

 private:
  enum class Stage : std::uint8_t {
    kQueued,
    kStaging,
    kEntering,
    kRunning,
    kUnstaging,
    kFencing,
    kDone
  };

  bool advance() noexcept;
  bool prepare() noexcept;
  [[gnu::noinline]] bool copy_some(schedule::Space which, std::int64_t bytes) noexcept;
  bool enter() noexcept;
  struct Flags {
    std::uint64_t all, any;
  };
  [[nodiscard]] Flags flags_of_node() const noexcept;
  [[nodiscard]] bool is_whole_in_slots() const noexcept;
  bool check_entries() noexcept;
  void end_mismatched(Status status) noexcept;
  void open(const Program& program) noexcept;
  void stage_ahead() noexcept;
  void begin_schedule() noexcept;
  [[nodiscard]] const Program& choose_program() const noexcept;
  void next_steps() noexcept;
  bool end_schedule() noexcept;
  bool run_steps() noexcept;
  bool execute(const schedule::Step& step, std::uint32_t& active) noexcept;
  template <bool kSends>
  bool start_message(const schedule::Step& step, std::uint32_t& active) noexcept;
  bool start_one_sided(const schedule::Step& step, std::uint32_t& active) noexcept;
  bool complete_message(int number, std::uint32_t& active) noexcept;
  bool object_to(const transport::Operation& operation) noexcept;
  bool execute_await() noexcept;
  bool reduces_at_once(const schedule::Step& step) noexcept;
  bool execute_elements() noexcept;
  [[nodiscard]] double scale() const noexcept;
  [[nodiscard]] reduce::Stores stores() const noexcept;
  void copy_range(std::int64_t from, std::int64_t n) noexcept;
  void fold_range(std::int64_t from, std::int64_t n) noexcept;
  void post() noexcept;
  void leave() noexcept;
  void fail(Status status) noexcept;
  void begin_fencing() noexcept;
  bool fence(std::int64_t now_ns) noexcept;
  bool quiet(int node_index) const noexcept;
  void watch(std::int64_t now_ns) noexcept;
  void record(abi::OperationState state) noexcept;

  [[nodiscard]] std::byte* address(const schedule::Ref& ref, Rank rank) const noexcept;
  [[nodiscard]] std::byte* in_list(const schedule::Ref& ref, memory::Offset table) const noexcept;
  [[nodiscard]] std::byte* own(const schedule::Ref& ref) const noexcept {
    return buffers_.at(ref.space) + bytes(ref.offset);
  }
  /// The same of a schedule that takes lists.
  [[nodiscard]] std::byte* here(const schedule::Ref& ref) const noexcept {
    return buffers_.at(ref.space, bytes(ref.offset));
  }
  [[nodiscard]] std::int64_t bytes(std::int64_t elements) const noexcept {
    return elements * element_bytes_;
  }

  TaskPool<Run>* home_;
  int number_;  ///< the place of its record on the progress page
  Group* group_ = nullptr;
  Call call_{};
  std::uint64_t sequence_ = 0;
  Stage stage_ = Stage::kDone;
  bool moved_ = false;
  bool posts_late_ = false;  ///< the first post is not the entry
  std::int64_t element_bytes_ = 1;
  Buffers buffers_;
  reduce::Stores scratch_stores_ = reduce::Stores::kCached;

  const Program* program_ = nullptr;
  transport::Match match_{};
  reduce::Accumulate accumulate_ = nullptr;
  schedule::Schedule schedule_;  ///< where the program does not keep its steps
  /// To be executed, and those that lie behind it: [step_, steps_end_).
  const schedule::Step* step_ = nullptr;
  const schedule::Step* steps_end_ = nullptr;
  std::int64_t cursor_ = 0;  ///< elements (or bytes, when staging) of the step that are done
  std::int32_t awaited_index_ = 0;
  std::uint32_t phase_ = 0;
  std::uint32_t steps_ = 0;         ///< begun
  std::uint32_t active_slots_ = 0;  ///< bit per slot
  /// A message under way.
  struct Slot {
    transport::Operation operation;
    std::int64_t bytes = 0;  ///< to be received; -1: it is sent
    Rank peer = 0;
    bool lands = false;  ///< it may have been put, and is then an empty message
  };
  Slot slots_[schedule::kMaxSlots];
  transport::Key offered_;   ///< to this rank's scratch; empty: nobody can put there
  transport::Key accepted_;  ///< of the peer to whom this rank puts

  std::int64_t begin_ns_ = 0;
  std::int64_t deadline_ns_ = 0;
  std::int64_t ask_ns_ = 0;        ///< when to ask the others, if nothing moves until then
  std::int64_t ask_after_ns_ = 0;  ///< silence before that
  bool suspect_ = false;           ///< a message of another collective came
  std::int64_t lost_ns_ = 0;       ///< when a transport's error was seen; its cause is awaited
  std::int64_t left_ns_ = 0;       ///< when nothing was to come any more from a rank that had left
  bool asked_ = false;             ///< the others have been asked at least once
  abi::OperationRecord* record_ = nullptr;
};

}  // namespace shoal::exec
