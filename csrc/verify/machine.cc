#include "verify/machine.h"

#include <algorithm>

#include "schedule/dump.h"

namespace shoal::verify {

using schedule::kEvery;
using schedule::kMaxSlots;
using schedule::kSelf;
using schedule::Ref;
using schedule::Shape;
using schedule::Space;
using schedule::Step;
using schedule::StepKind;

namespace {

constexpr int buffer_of(Rank rank, Space space) noexcept {
  return 3 * rank + static_cast<int>(space);
}
constexpr Rank owner_of(int buffer) noexcept { return buffer / 3; }
constexpr bool is_scratch(int buffer) noexcept {
  return buffer % 3 == static_cast<int>(Space::kScratch);
}
constexpr std::size_t index(std::int64_t i) noexcept { return static_cast<std::size_t>(i); }

constexpr bool starts_at_sender(StepKind kind) noexcept {
  return kind == StepKind::kSend || kind == StepKind::kOffer || kind == StepKind::kPut;
}
/// What the peer does with a message of this kind.
constexpr StepKind partner_of(StepKind kind) noexcept {
  return kind == StepKind::kSend    ? StepKind::kRecv
         : kind == StepKind::kOffer ? StepKind::kAccept
                                    : StepKind::kLand;
}

/// In place the smaller of input and output is part of the larger one.
struct Alias {
  Space part, whole;
  std::int64_t offset;
};

Alias alias_of(const Shape& shape) noexcept {
  switch (shape.collective) {
    case Collective::kAllGather:
    case Collective::kGather:
      return {Space::kInput, Space::kOutput, shape.rank * shape.count};
    case Collective::kReduceScatter:
    case Collective::kScatter:
      return {Space::kOutput, Space::kInput, shape.rank * shape.count};
    default:
      return {Space::kInput, Space::kOutput, 0};
  }
}

}  // namespace

// ---------------------------------------------------------------------------------------- set-up

Machine::Machine(std::span<const Program> programs, const Shape& shape, AliasMode alias,
                 BlockMode blocks)
    : programs_(programs),
      shape_(shape),
      alias_(alias),
      blocks_mode_(blocks),
      everyone_(shape.ranks == kMaxRanks ? ~RankSet{0} : only(shape.ranks) - 1),
      histories_(index(3 * shape.ranks)),
      has_puts_(std::ranges::any_of(programs,
                                    [](const Program& program) {
                                      return std::ranges::any_of(
                                          program.steps, [](const Step& step) {
                                            return step.kind == StepKind::kPut;
                                          });
                                    })),
      puts_(index(shape.ranks)),
      ranks_(index(shape.ranks)) {
  // Every rank begins at its moment 1, so that knowing of it means that it has entered.
  for (Rank r = 0; r < shape_.ranks; ++r) state_of(r).clock[index(r)] = 1;
  make_buffers();
}

Shape Machine::shape_at(Rank rank) const noexcept {
  Shape shape = shape_;
  shape.rank = rank;
  return shape;
}

bool Machine::is_in_place(Rank rank) const noexcept {
  if (alias_ == AliasMode::kNone || (alias_ == AliasMode::kOdd && rank % 2 == 0)) return false;
  if (shape_.collective == Collective::kAllToAll) return false;
  const Shape shape = shape_at(rank);
  return input_blocks(shape) > 0 && output_blocks(shape) > 0;
}

void Machine::make_buffers() {
  for (Rank r = 0; r < shape_.ranks; ++r) {
    const Shape shape = shape_at(r);
    memory_.emplace_back(input_blocks(shape) * shape.count);
    memory_.emplace_back(output_blocks(shape) * shape.count);
    memory_.emplace_back(programs_[index(r)].scratch);
    const Ref all{Space::kInput, kSelf, 0, input_blocks(shape) * shape.count};
    const Place place = place_of(all, r);
    if (all.count > 0)
      memory_[index(place.buffer)].write(place.begin, {{all.count, {only(r), 0, false}}});
  }
}

// ---------------------------------------------------------------------------------------- running

Verdict Machine::run() {
  // Every turn of the outer loop executes a step of some rank or ends it.
  bool progress = true;
  while (progress) {
    progress = false;
    for (rank_ = 0; rank_ < shape_.ranks; ++rank_) {
      while (!self().ended) {
        const Outcome outcome = advance(rank_);
        if (outcome == Outcome::kFailed) return {false, failure_};
        if (outcome == Outcome::kBlocked) break;
        progress = true;
      }
    }
  }
  const bool all_ended = std::ranges::all_of(ranks_, &RankState::ended);
  return all_ended ? check_posts() : deadlock();
}

Machine::Outcome Machine::advance(Rank rank) {
  const auto& steps = programs_[index(rank)].steps;
  const Outcome outcome = self().position < steps.size() ? execute(steps[self().position]) : end();
  if (outcome == Outcome::kAdvanced) ++self().position;
  return outcome;
}

Machine::Outcome Machine::execute(const Step& step) {
  switch (step.kind) {
    case StepKind::kEnd:
      return fail("an end before the end");
    case StepKind::kSend:
    case StepKind::kRecv:
    case StepKind::kOffer:
    case StepKind::kAccept:
    case StepKind::kPut:
    case StepKind::kLand:
      return start(step);
    case StepKind::kWait:
      return wait(step.slot);
    case StepKind::kWaitAll:
      return wait_all();
    case StepKind::kCopy:
      return copy(step);
    case StepKind::kReduce:
      return reduce(step);
    case StepKind::kCombine:
      return combine(step);
    case StepKind::kFold:
      return fold(step);
    case StepKind::kPost:
      return post();
    case StepKind::kAwait:
      return await(step.peer);
  }
  return fail("a step of no known kind");
}

Machine::Outcome Machine::fail(const std::string& what) {
  if (!failure_.empty()) return Outcome::kFailed;  // the first one is the cause
  const auto& steps = programs_[index(rank_)].steps;
  const std::size_t at = self().position;
  failure_ = "rank " + std::to_string(rank_) + " step " + std::to_string(at) + " (" +
             (at < steps.size() ? schedule::describe(steps[at]) : "end") + "): " + what;
  return Outcome::kFailed;
}

// --------------------------------------------------------------------------------------- messages

Machine::Outcome Machine::start(const Step& step) {
  if (step.slot >= kMaxSlots) return fail("there is no such slot");
  if (step.peer < 0 || step.peer >= shape_.ranks || step.peer == rank_) return fail("no such peer");
  InFlight& op = self().slots[step.slot];
  if (op.used) return fail("the slot is in use");
  const auto place = place_of_message(step);
  if (!place) return Outcome::kFailed;
  op.used = true, op.matched = false;
  op.kind = step.kind, op.is_send = starts_at_sender(step.kind);
  op.peer = step.peer, op.number = self().started++, op.place = *place;
  if (step.kind == StepKind::kPut && !start_put(step, op)) return Outcome::kFailed;
  if (op.is_send) {
    op.known = self().clock;
    tick();
  }
  return match(op) ? Outcome::kAdvanced : Outcome::kFailed;
}

/// What it sends from or receives into, if it may.
std::optional<Machine::Place> Machine::place_of_message(const Step& step) {
  if (step.kind == StepKind::kOffer || step.kind == StepKind::kAccept) return Place{};
  const bool is_send = starts_at_sender(step.kind);
  const Ref& ref = is_send ? step.src : step.dst;
  if (ref.rank != kSelf) {
    return fail("a message must begin and end in the rank's own buffers"), std::nullopt;
  }
  if (!is_send && ref.space == Space::kInput) return fail("receives into its input"), std::nullopt;
  const auto place = locate(ref, rank_);
  if (!place) return std::nullopt;
  if (step.kind == StepKind::kLand) {
    // It touches nothing: who puts does, and may have done so. But nothing else may.
    if (ref.space != Space::kScratch) return fail("awaits a put to a user's buffer"), std::nullopt;
    return is_free_of_in_flight(*place, Touch::kWrite) ? place : std::nullopt;
  }
  return touch(*place, is_send ? Touch::kRead : Touch::kWrite) ? place : std::nullopt;
}

/// From now on it may be written.
bool Machine::start_put(const Step& step, InFlight& op) {
  if (self().accepted != step.peer) return fail("puts to a rank whose offer it has not"), false;
  if (step.dst.rank != step.peer) return fail("puts past the rank that it names"), false;
  if (step.dst.space != Space::kScratch) return fail("puts into a user's buffer"), false;
  if (step.dst.count != step.src.count) {
    return fail("source and destination differ in size"), false;
  }
  const auto target = locate_anywhere(step.dst, step.peer);
  if (!target) return false;
  RankState& peer = state_of(step.peer);
  if (peer.ended) return fail("puts to a rank that has returned"), false;
  for (const InFlight& other : peer.slots) {
    const bool awaits_it = other.kind == StepKind::kLand && other.peer == rank_;
    if (!other.used || awaits_it || !other.place.overlaps(*target)) continue;
    return fail("puts into what is in use"), false;
  }
  if (!is_ordered(*target, Touch::kWrite)) return false;
  peer.touched[index(rank_)] = self().clock[index(rank_)];
  puts_[index(step.peer)].push_back({rank_, *target});
  op.at_peer = *target;
  return true;
}

/// The oldest operation of `peer` towards this rank that has not met its partner yet.
Machine::InFlight* Machine::find_partner(Rank peer, bool want_send) {
  InFlight* oldest = nullptr;
  for (InFlight& op : state_of(peer).slots) {
    if (!op.used || op.matched || op.peer != rank_ || op.is_send != want_send) continue;
    if (oldest == nullptr || op.number < oldest->number) oldest = &op;
  }
  return oldest;
}

/// Moves the data as soon as both ends have started: neither may be changed in between, so no later
/// moment makes a difference.
bool Machine::match(InFlight& op) {
  InFlight* partner = find_partner(op.peer, !op.is_send);
  if (partner == nullptr) return true;
  InFlight& send = op.is_send ? op : *partner;
  InFlight& recv = op.is_send ? *partner : op;
  if (recv.kind != partner_of(send.kind)) return fail("meets a message of another kind"), false;
  if (!deliver(send, recv)) return false;
  send.matched = recv.matched = true;
  recv.known = send.known;
  return true;
}

bool Machine::deliver(const InFlight& send, const InFlight& recv) {
  if (send.place.count != recv.place.count) {
    fail("a message of " + std::to_string(send.place.count) + " elements meets a receive of " +
         std::to_string(recv.place.count));
    return false;
  }
  if (send.kind == StepKind::kPut && send.at_peer != recv.place) {
    return fail("a put to one place is awaited at another"), false;
  }
  if (send.place.count == 0) return true;
  if (!read(send.place, first_)) return false;
  memory_[index(recv.place.buffer)].write(recv.place.begin, first_);
  return true;
}

Machine::Outcome Machine::wait(int slot) {
  if (slot >= kMaxSlots) return fail("there is no such slot");
  InFlight& op = self().slots[index(slot)];
  if (!op.used) return fail("waits for an idle slot");
  if (!op.matched) return Outcome::kBlocked;
  return complete(op) ? Outcome::kAdvanced : Outcome::kFailed;
}

Machine::Outcome Machine::wait_all() {
  for (const InFlight& op : self().slots) {
    if (op.used && !op.matched) return Outcome::kBlocked;
  }
  for (InFlight& op : self().slots) {
    if (op.used && !complete(op)) return Outcome::kFailed;
  }
  return Outcome::kAdvanced;
}

/// The operation may have touched its place until now.
bool Machine::complete(InFlight& op) {
  op.used = false;
  if (!op.is_send) learn(op.known);
  if (op.kind == StepKind::kLand) land(op);
  if (op.kind == StepKind::kAccept) {
    if (self().accepted.value_or(op.peer) != op.peer)
      return fail("accepts two ranks' offers"), false;
    self().accepted = op.peer;
  }
  return record(op.place, op.is_send ? Touch::kRead : Touch::kWrite);
}

/// The put that this was the flag of is written for certain. For all others it is as if this rank
/// wrote it now.
void Machine::land(const InFlight& op) {
  auto& puts = puts_[index(rank_)];
  puts.erase(std::ranges::find_if(
      puts, [&](const Put& put) { return put.from == op.peer && put.place == op.place; }));
}

// ---------------------------------------------------------------------------------------- local
// work

Machine::Outcome Machine::copy(const Step& step) {
  const auto from = locate_own(step.src), to = locate_own(step.dst);
  if (!from || !to) return Outcome::kFailed;
  if (from->count != to->count) return fail("source and destination differ in size");
  if (step.dst.space == Space::kInput) return fail("writes to an input");
  if (*from == *to || from->count == 0) return Outcome::kAdvanced;
  if (from->overlaps(*to)) return fail("source and destination overlap");
  if (!touch(*from, Touch::kRead) || !touch(*to, Touch::kWrite) || !read(*from, first_)) {
    return Outcome::kFailed;
  }
  memory_[index(to->buffer)].write(to->begin, first_);
  return Outcome::kAdvanced;
}

Machine::Outcome Machine::reduce(const Step& step) {
  const auto from = locate_own(step.src), to = locate_own(step.dst);
  if (!from || !to) return Outcome::kFailed;
  if (from->count != to->count) return fail("source and destination differ in size");
  if (step.dst.space == Space::kInput) return fail("writes to an input");
  if (from->overlaps(*to)) return fail("source and destination overlap");
  if (!touch(*from, Touch::kRead) || !touch(*to, Touch::kWrite)) return Outcome::kFailed;
  if (!read(*to, first_) || !read(*from, second_) || !combine(first_, second_, sum_)) {
    return Outcome::kFailed;
  }
  if (step.finish && !finish(sum_)) return Outcome::kFailed;
  if (to->count > 0) memory_[index(to->buffer)].write(to->begin, sum_);
  return Outcome::kAdvanced;
}

Machine::Outcome Machine::combine(const Step& step) {
  const auto left = locate_own(step.src), right = locate_own(step.addend()),
             to = locate_own(step.dst);
  if (!left || !right || !to) return Outcome::kFailed;
  if (left->count != to->count) return fail("source and destination differ in size");
  if (step.dst.space == Space::kInput) return fail("writes to an input");
  if (left->overlaps(*to) && *left != *to) return fail("destination cuts the source");
  if (right->overlaps(*to)) return fail("source and destination overlap");
  if (!touch(*left, Touch::kRead) || !touch(*right, Touch::kRead) || !touch(*to, Touch::kWrite)) {
    return Outcome::kFailed;
  }
  if (!read(*left, first_) || !read(*right, second_) || !combine(first_, second_, sum_)) {
    return Outcome::kFailed;
  }
  if (step.finish && !finish(sum_)) return Outcome::kFailed;
  if (to->count > 0) memory_[index(to->buffer)].write(to->begin, sum_);
  return Outcome::kAdvanced;
}

Machine::Outcome Machine::fold(const Step& step) {
  if (step.src.count != step.dst.count) return fail("source and destination differ in size");
  if (step.dst.space == Space::kInput) return fail("writes to an input");
  if (!locate_blocks(step) || !locate_targets(step.dst)) return Outcome::kFailed;
  if (step.own_output) {
    const auto result = locate_own(step.own_result());
    if (!result) return Outcome::kFailed;
    targets_.push_back(*result);
  }
  for (const Place& target : targets_) {
    for (const Place& block : blocks_) {
      if (target.overlaps(block) && target != block) return fail("destination cuts a block");
    }
  }
  sum_.clear();
  for (const Place& block : blocks_) {
    if (!touch(block, Touch::kRead) || !read(block, second_)) return Outcome::kFailed;
    first_.swap(sum_);
    if (&block == blocks_.data()) {
      sum_ = second_;
    } else if (!combine(first_, second_, sum_)) {
      return Outcome::kFailed;
    }
  }
  if (step.finish && !finish(sum_)) return Outcome::kFailed;
  for (const Place& target : targets_) {
    if (!touch(target, Touch::kWrite)) return Outcome::kFailed;
    if (target.count > 0) memory_[index(target.buffer)].write(target.begin, sum_);
  }
  return Outcome::kAdvanced;
}

bool Machine::locate_blocks(const Step& step) {
  blocks_.clear();
  const bool every = step.src.rank == kEvery;
  if (step.blocks < 1 || (every && step.blocks != shape_.node_ranks)) {
    fail("folds a wrong number of blocks");
    return false;
  }
  for (std::int32_t k = 0; k < step.blocks; ++k) {
    const bool own = every && step.own_input && node_begin() + k == rank_;
    const auto place = own     ? locate_own(step.own_block())
                       : every ? locate(step.src, node_begin() + k)
                               : locate_own(step.src.slice(k * step.stride, step.src.count));
    if (!place) return false;
    blocks_.push_back(*place);
  }
  return true;
}

bool Machine::locate_targets(const Ref& ref) {
  targets_.clear();
  if (ref.rank != kEvery) {
    const auto place = locate_own(ref);
    if (place) targets_.push_back(*place);
    return place.has_value();
  }
  for (Rank r = node_begin(); r < node_begin() + shape_.node_ranks; ++r) {
    const auto place = locate(ref, r);
    if (!place) return false;
    targets_.push_back(*place);
  }
  return true;
}

bool Machine::read(const Place& place, Pieces& out) {
  out.clear();
  if (place.count == 0) return true;
  memory_[index(place.buffer)].read(place.begin, place.count, out);
  const bool defined = std::ranges::all_of(out, [](const Piece& p) { return p.content.defined(); });
  if (!defined) fail("reads what has never been written");
  return defined;
}

bool Machine::combine(const Pieces& a, const Pieces& b, Pieces& out) {
  out.clear();
  std::size_t i = 0, j = 0;
  std::int64_t used_a = 0, used_b = 0;
  while (i < a.size() && j < b.size()) {
    const std::int64_t n = std::min(a[i].length - used_a, b[j].length - used_b);
    const Content x = a[i].content.further(used_a), y = b[j].content.further(used_b);
    if (x.first != y.first) return fail("reduces elements that do not belong together"), false;
    if ((x.ranks & y.ranks) != 0) return fail("reduces a rank's contribution twice"), false;
    if (x.finished || y.finished) return fail("reduces a finished element"), false;
    append(out, {n, {x.ranks | y.ranks, x.first, false}});
    if ((used_a += n) == a[i].length) ++i, used_a = 0;
    if ((used_b += n) == b[j].length) ++j, used_b = 0;
  }
  return true;
}

bool Machine::finish(Pieces& pieces) {
  for (Piece& piece : pieces) {
    if (piece.content.ranks != everyone_) return fail("finishes an incomplete element"), false;
    if (piece.content.finished) return fail("finishes an element twice"), false;
    piece.content.finished = true;
  }
  return true;
}

// -------------------------------------------------------------------------------------- in the
// node

Machine::Outcome Machine::post() {
  self().posts.push_back(self().clock);
  tick();
  return Outcome::kAdvanced;
}

Machine::Outcome Machine::await(Rank peer) {
  if (peer != kEvery && !is_neighbour(peer)) return fail("awaits a rank outside its node");
  const std::size_t posts = self().posts.size();
  if (posts == 0) return fail("awaits before its first post");
  const Rank from = peer == kEvery ? node_begin() : peer;
  const Rank to = peer == kEvery ? node_begin() + shape_.node_ranks : peer + 1;
  for (Rank r = from; r < to; ++r) {
    if (state_of(r).posts.size() < posts) return Outcome::kBlocked;
  }
  for (Rank r = from; r < to; ++r) {
    learn(state_of(r).posts[posts - 1]);
    self().awaited.set(index(r));
  }
  return Outcome::kAdvanced;
}

void Machine::learn(const Clock& other) {
  for (Rank r = 0; r < shape_.ranks; ++r) {
    self().clock[index(r)] = std::max(self().clock[index(r)], other[index(r)]);
  }
}

// ------------------------------------------------------------------------------------------ access

std::optional<Machine::Place> Machine::locate_own(const Ref& ref) {
  if (ref.rank == kEvery) return fail("names every rank where one is needed"), std::nullopt;
  return locate(ref, ref.rank == kSelf ? rank_ : ref.rank);
}

std::optional<Machine::Place> Machine::locate(const Ref& ref, Rank owner) {
  if (owner < 0 || !is_neighbour(owner)) return fail("names a rank outside its node"), std::nullopt;
  return locate_anywhere(ref, owner);
}

std::optional<Machine::Place> Machine::locate_anywhere(const Ref& ref, Rank owner) {
  if (ref.count < 0) return fail("has a negative size"), std::nullopt;
  if (ref.count == 0) return Place{buffer_of(owner, ref.space), 0, 0};
  const Shape shape = shape_at(owner);
  const std::int64_t size = ref.space == Space::kInput    ? input_blocks(shape) * shape.count
                            : ref.space == Space::kOutput ? output_blocks(shape) * shape.count
                                                          : programs_[index(owner)].scratch;
  if (ref.offset < 0 || ref.offset + ref.count > size) {
    fail("goes beyond the " + std::to_string(size) + " elements of rank " + std::to_string(owner));
    return std::nullopt;
  }
  if (blocks_mode_ == BlockMode::kAnywhere && ref.space != Space::kScratch &&
      ref.offset / shape.count != (ref.offset + ref.count - 1) / shape.count) {
    return fail("goes across the border of a block, and the next one may lie elsewhere"),
           std::nullopt;
  }
  return place_of(ref, owner);
}

Machine::Place Machine::place_of(const Ref& ref, Rank owner) const noexcept {
  const Alias alias = alias_of(shape_at(owner));
  if (ref.space == alias.part && is_in_place(owner)) {
    return {buffer_of(owner, alias.whole), alias.offset + ref.offset, ref.count};
  }
  return {buffer_of(owner, ref.space), ref.offset, ref.count};
}

bool Machine::touch(const Place& place, Touch kind) {
  const Rank owner = owner_of(place.buffer);
  if (place.count == 0) return true;
  if (owner != rank_) {
    if (!self().awaited.test(index(owner))) return fail("touches a rank it has not awaited"), false;
    if (state_of(owner).ended) return fail("touches a rank that has returned"), false;
    state_of(owner).touched[index(rank_)] = self().clock[index(rank_)];
  }
  return is_free_of_in_flight(place, kind) && record(place, kind);
}

bool Machine::is_free_of_in_flight(const Place& place, Touch kind) {
  for (const InFlight& op : state_of(owner_of(place.buffer)).slots) {
    if (!op.used || (op.is_send && kind == Touch::kRead) || !op.place.overlaps(place)) continue;
    return fail(op.is_send ? "writes what is being sent" : "touches what is being received"), false;
  }
  return true;
}

/// Looks for a conflicting access of another rank that is not known to have happened before, and
/// for a put that has not landed.
bool Machine::is_ordered(const Place& place, Touch kind) {
  const History& history = histories_[index(place.buffer)];
  const auto races = [&](const Access& other) {
    return other.rank != rank_ && other.begin < place.begin + place.count &&
           place.begin < other.end && self().clock[index(other.rank)] < other.moment;
  };
  const bool write_races = std::ranges::any_of(history.writes, races);
  if (write_races || (kind == Touch::kWrite && std::ranges::any_of(history.reads, races))) {
    return fail("races with another rank"), false;
  }
  const auto overlaps = [&](const Put& put) { return put.place.overlaps(place); };
  if (std::ranges::any_of(puts_[index(owner_of(place.buffer))], overlaps)) {
    return fail("races with a put that has not landed"), false;
  }
  return true;
}

bool Machine::record(const Place& place, Touch kind) {
  const bool is_shared = shape_.node_ranks > 1 || (has_puts_ && is_scratch(place.buffer));
  if (!is_shared || place.count == 0) return true;
  if (!is_ordered(place, kind)) return false;
  History& history = histories_[index(place.buffer)];
  const Access access{place.begin, place.begin + place.count, rank_, self().clock[index(rank_)]};
  auto& same_kind = kind == Touch::kRead ? history.reads : history.writes;
  const auto superseded = std::ranges::find_if(same_kind, [&](const Access& old) {
    return old.rank == rank_ && access.begin <= old.begin && old.end <= access.end;
  });
  if (superseded == same_kind.end()) {
    same_kind.push_back(access);
  } else {
    *superseded = access;
  }
  return true;
}

// ------------------------------------------------------------------------------------------- the
// end

Machine::Outcome Machine::end() {
  for (const InFlight& op : self().slots) {
    if (op.used) return fail("ends with an operation in flight");
  }
  if (!puts_[index(rank_)].empty()) return fail("returns before a put to it has landed");
  for (Rank r = 0; r < shape_.ranks; ++r) {
    const std::uint32_t known = self().clock[index(r)];
    if (self().touched[index(r)] > known) {
      return fail("returns while rank " + std::to_string(r) + " may touch its buffers");
    }
    if (shape_.collective == Collective::kBarrier && known == 0) {
      return fail("leaves the barrier without rank " + std::to_string(r));
    }
  }
  if (!has_expected_output(rank_)) return Outcome::kFailed;
  self().ended = true;
  return Outcome::kAdvanced;
}

bool Machine::has_expected_output(Rank rank) {
  const Pieces expected = expected_output(rank);
  std::int64_t total = 0;
  for (const Piece& piece : expected) total += piece.length;
  if (total == 0) return true;
  const Place place = place_of({Space::kOutput, kSelf, 0, total}, rank);
  memory_[index(place.buffer)].read(place.begin, place.count, first_);
  std::int64_t at = 0;
  std::size_t i = 0, j = 0;
  std::int64_t used_i = 0, used_j = 0;
  while (i < first_.size() && j < expected.size()) {
    const std::int64_t n = std::min(first_[i].length - used_i, expected[j].length - used_j);
    const Content have = first_[i].content.further(used_i);
    const Content want = expected[j].content.further(used_j);
    if (!have.defined()) return fail("output " + std::to_string(at) + " is not written"), false;
    if (have.ranks != want.ranks || have.first != want.first) {
      return fail("output " + std::to_string(at) + " is not what it should be"), false;
    }
    if (have.finished != want.finished) {
      return fail("output " + std::to_string(at) + " is not finished once"), false;
    }
    at += n;
    if ((used_i += n) == first_[i].length) ++i, used_i = 0;
    if ((used_j += n) == expected[j].length) ++j, used_j = 0;
  }
  return true;
}

Pieces Machine::expected_output(Rank rank) const {
  const std::int64_t count = shape_.count, own = rank * count;
  const RankSet root = only(shape_.root);
  if (output_blocks(shape_at(rank)) == 0) return {};
  switch (shape_.collective) {
    case Collective::kBarrier:
      return {};
    case Collective::kBroadcast:
      return {{count, {root, 0, false}}};
    case Collective::kReduce:
    case Collective::kAllReduce:
      return {{count, {everyone_, 0, true}}};
    case Collective::kReduceScatter:
      return {{count, {everyone_, own, true}}};
    case Collective::kScatter:
      return {{count, {root, own, false}}};
    case Collective::kAllGather:
    case Collective::kGather:
    case Collective::kAllToAll:
      break;
  }
  const std::int64_t first = shape_.collective == Collective::kAllToAll ? own : 0;
  Pieces pieces;
  for (Rank r = 0; r < shape_.ranks; ++r) pieces.push_back({count, {only(r), first, false}});
  return pieces;
}

Verdict Machine::deadlock() {
  std::string what = "deadlock:";
  for (rank_ = 0; rank_ < shape_.ranks; ++rank_) {
    if (self().ended) continue;
    const Step& step = programs_[index(rank_)].steps[self().position];
    what += " rank " + std::to_string(rank_) + " at step " + std::to_string(self().position) +
            " (" + schedule::describe(step) + ");";
  }
  return {false, what};
}

Verdict Machine::check_posts() {
  for (rank_ = 0; rank_ < shape_.ranks; ++rank_) {
    if (self().posts.size() == state_of(node_begin()).posts.size()) continue;
    return {false, "rank " + std::to_string(rank_) + " posts " +
                       std::to_string(self().posts.size()) + " times, the first rank of its node " +
                       std::to_string(state_of(node_begin()).posts.size())};
  }
  return {};
}

}  // namespace shoal::verify
