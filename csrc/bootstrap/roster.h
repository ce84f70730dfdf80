/// Who belongs to the job, who has come, left and died: the store's decisions without its sockets.
///
///   absent --join--> joined --goodbye--> left      when all have left, all are absent again
///                       \--loss, report--> failed  (a program may call init() a second time)
///
/// A loss is judged once its cause is known or the grace has ended, whichever comes first. Until
/// all have joined, whatever is wrong ends the job for everybody, and everybody is told by name.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "bootstrap/wire.h"
#include "shoal/error.h"

namespace shoal::bootstrap {

/// What a process that ended well is reported with; after a goodbye it means nothing.
inline constexpr const char* kExitedWell = "exited with code 0";
inline constexpr std::int64_t kCauseGraceMs = 300;
inline constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

struct JoinRequest {
  Rank rank = -1;
  Rank ranks = 0;        ///< what this rank believes the size of the job is
  std::string listener;  ///< where its peers reach it
  std::string who;       ///< "host, pid 12", for messages
  std::int64_t deadline_ns = kNever;
};

/// one thread.
class Roster {
 public:
  /// Sends a frame to a joined rank.
  using Send = std::function<void(Rank to, FrameType type, const std::string& payload)>;
  enum class Answer { kJoined, kRefused, kLater };  ///< kLater: ask again once empty()

  Roster(Rank ranks, bool launcher_reports_exits, Send send);

  Answer join(const JoinRequest& request);
  void leave(Rank rank);
  /// Its connection has ended without a goodbye.
  void lost(Rank rank, std::int64_t now);
  /// The process of `rank` has ended, says the launcher.
  void ended(Rank rank, const std::string& cause, std::int64_t now);
  /// The same says a peer, which wants to know whether it had left; it may not know the cause.
  void ended(Rank asker, Rank rank, const std::string& cause, std::int64_t now);
  /// Passes sentences whose time has come, and ends a join that has taken too long.
  void tick(std::int64_t now, const std::string& hint);
  [[nodiscard]] std::int64_t next_tick_ns() const noexcept;

  [[nodiscard]] bool empty() const noexcept { return here_ == 0; }
  [[nodiscard]] bool valid(Rank rank) const noexcept { return rank >= 0 && rank < ranks_; }
  [[nodiscard]] bool here(Rank rank) const noexcept;
  [[nodiscard]] std::vector<Rank> absent() const;
  /// Payload of kRefused: why nobody can join (any more), or this newcomer cannot.
  [[nodiscard]] const std::string& refusal() const noexcept { return refusal_; }

 private:
  enum class Stage { kAbsent, kJoined, kLeft, kFailed };
  struct Member {
    Stage stage = Stage::kAbsent;
    bool disconnected = false;
    JoinRequest request;
    std::string cause;  ///< known so far; for an absent one: how its process ended
    std::int64_t judge_at_ns = kNever;
    std::vector<Rank> askers;
  };

  [[nodiscard]] std::string objection_to(const JoinRequest& request) const;
  void fail_join(ErrorCode code, const std::string& why);
  void welcome_all();
  void judge(Rank rank);
  void answer_askers(Rank rank);
  void start_over_if_all_left();

  Rank ranks_;
  bool launcher_reports_exits_;
  Send send_;
  std::vector<Member> members_;
  Rank here_ = 0;
  bool complete_ = false;
  bool join_failed_ = false;
  std::string refusal_;
};

/// "1, 4..7 and 9"; long lists are cut after a few parts, with the number of all.
[[nodiscard]] std::string list_of(const std::vector<Rank>& ranks);

}  // namespace shoal::bootstrap
