#include "bootstrap/roster.h"

#include <algorithm>

#include "core/clock.h"

namespace shoal::bootstrap {
namespace {

constexpr std::size_t kMaxListed = 16;

std::string refusal_payload(ErrorCode code, const std::string& why) {
  return Writer().number(static_cast<std::uint8_t>(code)).text(why).bytes();
}

std::string loss_payload(Rank rank, const std::string& cause) {
  return Writer().number(rank).text(cause).bytes();
}

}  // namespace

std::string list_of(const std::vector<Rank>& ranks) {
  std::string text;
  std::size_t parts = 0;
  for (std::size_t i = 0; i < ranks.size() && parts < kMaxListed; ++parts) {
    std::size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    text += std::to_string(ranks[i]);
    if (last > i) text += (last > i + 1 ? ".." : ", ") + std::to_string(ranks[last]);
    i = last + 1;
    if (parts + 1 == kMaxListed && i < ranks.size()) {
      text += ", ... (" + std::to_string(ranks.size()) + " in all)";
    }
  }
  return text;
}

Roster::Roster(Rank ranks, bool launcher_reports_exits, Send send)
    : ranks_(ranks),
      launcher_reports_exits_(launcher_reports_exits),
      send_(std::move(send)),
      members_(static_cast<std::size_t>(ranks)) {}

bool Roster::here(Rank rank) const noexcept {
  return valid(rank) && members_[rank].stage == Stage::kJoined;
}

std::vector<Rank> Roster::absent() const {
  std::vector<Rank> ranks;
  for (Rank rank = 0; rank < ranks_; ++rank) {
    if (members_[rank].stage == Stage::kAbsent) ranks.push_back(rank);
  }
  return ranks;
}

std::string Roster::objection_to(const JoinRequest& request) const {
  const std::string who = "rank " + std::to_string(request.rank) + " (" + request.who + ")";
  if (!valid(request.rank)) {
    return who + " is out of range: this job has ranks 0.." + std::to_string(ranks_ - 1);
  }
  if (request.ranks != ranks_) {
    return who + " believes that the job has " + std::to_string(request.ranks) +
           " ranks; the store was started for " + std::to_string(ranks_);
  }
  const Member& member = members_[request.rank];
  if (member.stage == Stage::kJoined || member.stage == Stage::kFailed) {
    return "rank " + std::to_string(request.rank) + " came twice: (" + member.request.who +
           ") and (" + request.who + "); give each process a rank of its own";
  }
  return {};
}

Roster::Answer Roster::join(const JoinRequest& request) {
  if (join_failed_) return Answer::kRefused;
  const std::string objection = objection_to(request);
  if (!objection.empty() && complete_) {  // a running job is not ended by a stray process
    refusal_ = refusal_payload(ErrorCode::kBootstrap, objection);
    return Answer::kRefused;
  }
  if (!objection.empty()) {
    fail_join(ErrorCode::kBootstrap, objection);
    return Answer::kRefused;
  }
  Member& member = members_[request.rank];
  if (member.stage == Stage::kLeft) return Answer::kLater;
  member = Member{.stage = Stage::kJoined, .request = request};
  ++here_;
  for (Rank rank = 0; rank < ranks_ && !join_failed_; ++rank) {
    const Member& other = members_[rank];
    if (other.stage == Stage::kAbsent && !other.cause.empty()) judge(rank);
  }
  // Now a member, it has been told with the others if that failed.
  if (!join_failed_ && here_ == ranks_) welcome_all();
  return Answer::kJoined;
}

void Roster::welcome_all() {
  complete_ = true;
  for (Rank rank = 0; rank < ranks_; ++rank) {
    Writer addresses;
    std::uint32_t rounds = 0;
    for (std::int64_t distance = 1; distance < ranks_; distance *= 2) ++rounds;
    addresses.number(rounds);
    for (std::uint32_t k = 0; k < rounds; ++k) {
      const std::int64_t peer = (rank - (std::int64_t{1} << k) + ranks_) % ranks_;
      addresses.text(members_[static_cast<std::size_t>(peer)].request.listener);
    }
    send_(rank, FrameType::kWelcome, addresses.bytes());
  }
}

void Roster::fail_join(ErrorCode code, const std::string& why) {
  if (join_failed_) return;  // the first reason stays
  join_failed_ = true;
  refusal_ = refusal_payload(code, why);
  for (Rank rank = 0; rank < ranks_; ++rank) {
    if (here(rank)) send_(rank, FrameType::kRefused, refusal_);
  }
}

void Roster::leave(Rank rank) {
  Member& member = members_[rank];
  send_(rank, FrameType::kFarewell, {});  // also to one given up as failed: it need not wait
  if (member.stage != Stage::kJoined) return;
  member.stage = Stage::kLeft;
  member.judge_at_ns = kNever;
  --here_;
  answer_askers(rank);
  start_over_if_all_left();
}

void Roster::start_over_if_all_left() {
  const bool all_left = std::all_of(members_.begin(), members_.end(),
                                    [](const Member& m) { return m.stage == Stage::kLeft; });
  if (!all_left) return;
  members_.assign(members_.size(), Member{});
  complete_ = false;
}

void Roster::lost(Rank rank, std::int64_t now) {
  Member& member = members_[rank];
  if (member.stage != Stage::kJoined) return;
  member.disconnected = true;
  const bool wait = launcher_reports_exits_ && member.cause.empty();
  member.judge_at_ns = wait ? now + kCauseGraceMs * kNsPerMs : now;
  if (!wait) judge(rank);
}

void Roster::ended(Rank rank, const std::string& cause, std::int64_t now) {
  if (!valid(rank)) return;
  Member& member = members_[rank];
  if (member.stage == Stage::kLeft || member.stage == Stage::kFailed) return;
  const bool well = cause == kExitedWell;
  member.cause =
      well && member.stage == Stage::kJoined ? cause + " without leaving the job" : cause;
  if (member.stage == Stage::kAbsent) {
    if (here_ > 0) judge(rank);
    return;
  }
  // Its goodbye may still be on the way: then the connection is not closed yet.
  if (well && !member.disconnected) {
    member.judge_at_ns = std::min(member.judge_at_ns, now + kCauseGraceMs * kNsPerMs);
    return;
  }
  judge(rank);
}

void Roster::ended(Rank asker, Rank rank, const std::string& cause, std::int64_t now) {
  if (!valid(rank) || !here(asker)) return;
  Member& member = members_[rank];
  member.askers.push_back(asker);
  if (member.stage != Stage::kJoined) return answer_askers(rank);
  if (!cause.empty()) return ended(rank, cause, now);
  member.judge_at_ns = std::min(member.judge_at_ns, now + kCauseGraceMs * kNsPerMs);
}

// Member `rank` has failed: everybody is told, or, before all had come, the join ends.
void Roster::judge(Rank rank) {
  Member& member = members_[rank];
  member.judge_at_ns = kNever;
  if (member.cause.empty()) {
    member.cause =
        member.disconnected ? "lost its connection (the process or its host died)" : "died";
  }
  if (!complete_) {
    const bool joined = member.stage == Stage::kJoined;
    if (joined) --here_;
    member.stage = Stage::kFailed;
    return fail_join(ErrorCode::kPeerFailed,
                     "rank " + std::to_string(rank) +
                         (joined ? " (" + member.request.who + ")" : std::string()) + " " +
                         member.cause + " before all ranks had joined");
  }
  member.stage = Stage::kFailed;
  --here_;
  for (Rank other = 0; other < ranks_; ++other) {
    if (here(other)) send_(other, FrameType::kLost, loss_payload(rank, member.cause));
  }
  member.askers.clear();
}

void Roster::answer_askers(Rank rank) {
  Member& member = members_[rank];
  const bool failed = member.stage == Stage::kFailed;
  const std::string payload =
      failed ? loss_payload(rank, member.cause) : Writer().number(rank).bytes();
  for (const Rank asker : member.askers) {
    if (here(asker)) send_(asker, failed ? FrameType::kLost : FrameType::kLeft, payload);
  }
  member.askers.clear();
}

std::int64_t Roster::next_tick_ns() const noexcept {
  std::int64_t next = kNever;
  for (const Member& member : members_) {
    if (member.stage != Stage::kJoined) continue;
    next = std::min(next, member.judge_at_ns);
    if (!complete_ && !join_failed_) next = std::min(next, member.request.deadline_ns);
  }
  return next;
}

void Roster::tick(std::int64_t now, const std::string& hint) {
  bool late = false;
  for (Rank rank = 0; rank < ranks_; ++rank) {
    Member& member = members_[rank];
    if (member.stage != Stage::kJoined) continue;
    late = late || now >= member.request.deadline_ns;
    if (now >= member.judge_at_ns) judge(rank);
  }
  if (!late || complete_ || join_failed_) return;
  fail_join(ErrorCode::kTimeout,
            "the deadline passed and of " + std::to_string(ranks_) +
                " ranks these have not come: " + list_of(absent()) +
                "; look at their output, and whether they can reach the store" + hint);
}

}  // namespace shoal::bootstrap
