#include "explorer.h"

#include <array>
#include <random>
#include <unordered_set>

namespace shoal::verify {
namespace {

using schedule::kEvery;
using schedule::kMaxSlots;
using schedule::Ref;
using schedule::Shape;
using schedule::Space;
using schedule::Step;
using schedule::StepKind;
using Word = std::uint64_t;

// A walk that is not over after so many moves is no walk of a schedule.
constexpr int kMaxMoves = 100'000;

constexpr Word mix(Word x) noexcept {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
constexpr Word mix(Word a, Word b) noexcept { return mix(mix(a) + b); }
constexpr std::size_t index(std::int64_t i) noexcept { return static_cast<std::size_t>(i); }

constexpr Word element(Rank rank, std::int64_t i) noexcept {
  return mix(mix(1, index(rank)), index(i));
}
constexpr Word finished(Word sum) noexcept { return mix(2, sum); }
constexpr Word kBeforeEntry = 3, kAfterReturn = 4;

enum class Slot : std::uint8_t { kIdle, kStarted, kDone };

struct Message {
  Rank rank = 0;  ///< whose slot and buffer
  int slot = 0;
  std::size_t begin = 0, count = 0;
  StepKind kind = StepKind::kSend;
  std::size_t target = 0;     ///< put: where it is written, in the peer's memory
  bool buffered = false;      ///< put: written
  std::vector<Word> payload;  ///< if buffered
};

/// Element k of `sends` and of `recvs` are each other's partners.
struct Channel {
  std::vector<Message> sends, recvs;
};

struct RankWorld {
  std::size_t position = 0;
  bool entered = false, returned = false;
  std::size_t posts = 0;
  std::array<Slot, kMaxSlots> slots{};
  std::vector<Word> memory;
};

struct World {
  std::vector<RankWorld> ranks;
  std::vector<Channel> channels;  ///< from * P + to
};

struct Move {
  enum Kind : std::uint8_t { kRun, kTransfer, kBuffer } kind = kRun;
  std::size_t where = 0;  ///< rank, or channel
  std::size_t message = 0;
};

/// A part of a rank's memory, and what is done to it.
struct Extent {
  std::int64_t begin, end;
  bool is_write;
  friend bool operator==(const Extent&, const Extent&) = default;
  [[nodiscard]] bool conflicts(const Extent& other) const {
    return begin < other.end && other.begin < end && (is_write || other.is_write);
  }
};

/// What a put writes.
Extent target_of(const Message& put) {
  const auto begin = static_cast<std::int64_t>(put.target);
  return {begin, begin + static_cast<std::int64_t>(put.count), true};
}

bool starts_at_sender(StepKind kind) {
  return kind == StepKind::kSend || kind == StepKind::kOffer || kind == StepKind::kPut;
}

Extent extent_of(const Message& message, bool is_send) {
  const auto begin = static_cast<std::int64_t>(message.begin);
  return {begin, begin + static_cast<std::int64_t>(message.count), !is_send};
}

/// Where a rank's spaces lie in its memory.
struct Layout {
  std::int64_t input = 0, output = 0, scratch = 0, size = 0;
  std::int64_t input_size = 0, output_size = 0, scratch_size = 0;
};

class Explorer {
 public:
  Explorer(std::span<const Program> programs, const Shape& shape, AliasMode alias, bool eager)
      : programs_(programs), shape_(shape), eager_(eager) {
    for (Rank r = 0; r < shape.ranks; ++r) layouts_.push_back(layout_of(r, alias));
  }

  Exploration run(const ExplorerLimits& limits);

 private:
  Layout layout_of(Rank rank, AliasMode alias) const;
  World beginning() const;
  bool touches_puts(const World& world, Rank rank) const;
  const Message* partner_of_land(const World& world, const Message& land) const;
  void walk_all(const ExplorerLimits& limits, Exploration& result);
  void walk_some(const ExplorerLimits& limits, Exploration& result);

  void settle(World& world);
  bool commutes(const World& world, Rank rank) const;
  bool can_run(const World& world, Rank rank) const;
  std::vector<Move> moves(const World& world) const;
  void apply(World& world, const Move& move);
  std::vector<Extent> footprint(Rank rank, const Step& step) const;
  bool is_quiet(const World& world, const Message& message, bool is_send) const;
  bool may_be_put(const World& world, Rank rank, const Extent& extent, const Message* but) const;
  Extent extent_at(const Ref& ref, Rank owner, bool is_write) const;
  static void write_put(World& world, Rank to, Message& put);
  bool settle_transfers(World& world);
  void run_rank(World& world, Rank rank);
  void run_step(World& world, Rank rank, const Step& step);
  void start(World& world, Rank rank, const Step& step);
  void compute(World& world, Rank rank, const Step& step);
  void leave(World& world, Rank rank);
  void deliver(World& world, Channel& channel, std::size_t k);
  std::vector<Word> expected(Rank rank) const;
  std::size_t locate(const Ref& ref, Rank owner);
  bool is_over(const World& world) const;
  void object(const std::string& what) {
    if (objection_.empty()) objection_ = what;
  }
  static Word digest(const World& world);

  std::span<const Program> programs_;
  Shape shape_;
  bool eager_;
  std::vector<Layout> layouts_;
  std::string objection_;
};

Layout Explorer::layout_of(Rank rank, AliasMode alias) const {
  Shape shape = shape_;
  shape.rank = rank;
  Layout l;
  l.input_size = input_blocks(shape) * shape.count;
  l.output_size = output_blocks(shape) * shape.count;
  l.scratch_size = programs_[index(rank)].scratch;
  l.output = l.input_size;
  const bool asked = alias == AliasMode::kAll || (alias == AliasMode::kOdd && rank % 2 == 1);
  if (asked && l.input_size > 0 && l.output_size > 0 && shape.collective != Collective::kAllToAll) {
    const std::int64_t own = l.input_size == l.output_size ? 0 : rank * shape.count;
    l.input = l.input_size < l.output_size ? own : 0;
    l.output = l.input_size < l.output_size ? 0 : own;
  }
  l.scratch = l.input_size + l.output_size;
  l.size = l.scratch + l.scratch_size;
  return l;
}

World Explorer::beginning() const {
  World world;
  world.ranks.resize(index(shape_.ranks));
  world.channels.resize(index(shape_.ranks * shape_.ranks));
  for (std::size_t r = 0; r < world.ranks.size(); ++r) {
    for (std::int64_t i = 0; i < layouts_[r].size; ++i) {
      world.ranks[r].memory.push_back(mix(mix(kBeforeEntry, r), index(i)));
    }
  }
  return world;
}

Exploration Explorer::run(const ExplorerLimits& limits) {
  Exploration result;
  walk_all(limits, result);
  if (objection_.empty() && !result.exhaustive) walk_some(limits, result);
  result.ok = objection_.empty();
  result.what = objection_;
  return result;
}

void Explorer::walk_all(const ExplorerLimits& limits, Exploration& result) {
  std::vector<World> open = {beginning()};
  std::unordered_set<Word> seen;
  while (!open.empty() && objection_.empty()) {
    World world = std::move(open.back());
    open.pop_back();
    settle(world);
    if (!objection_.empty() || !seen.insert(digest(world)).second) continue;
    if (++result.states >= limits.max_states) {
      result.exhaustive = false;
      return;
    }
    const std::vector<Move> next = moves(world);
    if (next.empty() && !is_over(world)) object("stuck");
    for (const Move& move : next) {
      open.push_back(world);
      apply(open.back(), move);
    }
  }
}

void Explorer::walk_some(const ExplorerLimits& limits, Exploration& result) {
  std::mt19937_64 random(20'261'103);
  for (int walk = 0; walk < limits.walks && objection_.empty(); ++walk) {
    World world = beginning();
    for (int n = 0; n < kMaxMoves && objection_.empty(); ++n, ++result.states) {
      settle(world);
      const std::vector<Move> next = moves(world);
      if (next.empty()) break;
      apply(world, next[random() % next.size()]);
    }
    if (!is_over(world)) object("stuck");
  }
}

/// Takes all moves that commute with every other one.
void Explorer::settle(World& world) {
  bool progress = true;
  for (int n = 0; progress && n < kMaxMoves; ++n) {
    progress = false;
    for (Rank r = 0; r < shape_.ranks && objection_.empty(); ++r) {
      if (!can_run(world, r) || !commutes(world, r)) continue;
      run_rank(world, r);
      progress = objection_.empty();
    }
    if (objection_.empty() && settle_transfers(world)) progress = true;
  }
}

/// Takes a transfer (or, for an eager send, its buffering) that nothing can interfere with.
bool Explorer::settle_transfers(World& world) {
  if (shape_.node_ranks > 1) return false;
  for (std::size_t c = 0; c < world.channels.size(); ++c) {
    Channel& channel = world.channels[c];
    for (std::size_t k = 0; k < channel.sends.size(); ++k) {
      const Message& send = channel.sends[k];
      const bool is_free = send.buffered || is_quiet(world, send, true);
      const bool has_partner = k < channel.recvs.size();
      if (is_free && has_partner && is_quiet(world, channel.recvs[k], false)) {
        return apply(world, {Move::kTransfer, c, k}), true;
      }
      if (send.kind == StepKind::kPut) continue;
      if (is_free && eager_ && !send.buffered) return apply(world, {Move::kBuffer, c, k}), true;
    }
  }
  return false;
}

/// Can nothing that its rank does before it waits for the message make the moment of transfer
/// matter?
bool Explorer::is_quiet(const World& world, const Message& message, bool is_send) const {
  const Extent own = extent_of(message, is_send);
  const auto conflicts = [&](const Extent& other) { return own.conflicts(other); };
  const Message* partner = nullptr;  // of a land: the put that it awaits
  if (message.kind == StepKind::kLand) {
    partner = partner_of_land(world, message);
    if (partner == nullptr || !(target_of(*partner) == own)) return false;
  }
  if (may_be_put(world, message.rank, own, partner)) return false;
  for (const Channel& channel : world.channels) {
    for (const auto* side : {&channel.sends, &channel.recvs}) {
      for (const Message& other : *side) {
        const bool is_other = other.rank == message.rank && other.slot != message.slot;
        if (is_other && !other.buffered && conflicts(extent_of(other, side == &channel.sends))) {
          return false;
        }
      }
    }
  }
  const auto& steps = programs_[index(message.rank)].steps;
  for (std::size_t i = world.ranks[index(message.rank)].position; i < steps.size(); ++i) {
    const Step& step = steps[i];
    if (step.kind == StepKind::kWaitAll) return true;
    if (step.kind == StepKind::kWait && step.slot == message.slot) return true;
    if (std::ranges::any_of(footprint(message.rank, step), conflicts)) return false;
  }
  return false;  // never waited for: to be seen by trying
}

/// The put that meets the land, if it has been started.
const Message* Explorer::partner_of_land(const World& world, const Message& land) const {
  for (std::size_t c = 0; c < world.channels.size(); ++c) {
    const Channel& channel = world.channels[c];
    for (std::size_t k = 0; k < std::min(channel.sends.size(), channel.recvs.size()); ++k) {
      if (&channel.recvs[k] == &land) return &channel.sends[k];
    }
  }
  return nullptr;
}

/// Is there a put, other than `but`, that has not been written yet, or not even been started, and
/// that touches this part of the rank's memory?
bool Explorer::may_be_put(const World& world, Rank rank, const Extent& extent,
                          const Message* but) const {
  for (Rank from = 0; from < shape_.ranks; ++from) {
    for (const Message& m : world.channels[index(from * shape_.ranks + rank)].sends) {
      if (m.kind != StepKind::kPut || m.buffered || &m == but) continue;
      if (target_of(m).conflicts(extent)) return true;
    }
    const auto& steps = programs_[index(from)].steps;
    for (std::size_t i = world.ranks[index(from)].position; i < steps.size(); ++i) {
      if (steps[i].kind != StepKind::kPut || steps[i].peer != rank) continue;
      if (extent_at(steps[i].dst, rank, true).conflicts(extent)) return true;
    }
  }
  return false;
}

Extent Explorer::extent_at(const Ref& ref, Rank owner, bool is_write) const {
  const Layout& l = layouts_[index(owner)];
  const std::int64_t base = ref.space == Space::kInput    ? l.input
                            : ref.space == Space::kOutput ? l.output
                                                          : l.scratch;
  return {base + ref.offset, base + ref.offset + ref.count, is_write};
}

/// What a step touches, where ranks touch their own memory only.
std::vector<Extent> Explorer::footprint(Rank rank, const Step& step) const {
  const auto extent = [&](const Ref& ref, bool is_write) { return extent_at(ref, rank, is_write); };
  std::vector<Extent> extents;
  const bool computes = step.kind == StepKind::kCopy || step.kind == StepKind::kReduce ||
                        step.kind == StepKind::kCombine || step.kind == StepKind::kFold;
  if (computes || step.kind == StepKind::kRecv) extents.push_back(extent(step.dst, true));
  const bool sends = step.kind == StepKind::kSend || step.kind == StepKind::kPut;
  if (computes || sends) extents.push_back(extent(step.src, false));
  if (step.kind == StepKind::kCombine) extents.push_back(extent(step.addend(), false));
  for (int k = 1; step.kind == StepKind::kFold && k < step.blocks; ++k) {
    extents.push_back(extent(step.src.slice(k * step.stride, step.src.count), false));
  }
  return extents;
}

bool Explorer::commutes(const World& world, Rank rank) const {
  const RankWorld& me = world.ranks[index(rank)];
  const auto& steps = programs_[index(rank)].steps;
  if (me.entered && me.position < steps.size()) {
    switch (steps[me.position].kind) {
      case StepKind::kSend:
      case StepKind::kRecv:
      case StepKind::kOffer:
      case StepKind::kAccept:
      case StepKind::kPut:
      case StepKind::kLand:
      case StepKind::kWait:
      case StepKind::kWaitAll:
      case StepKind::kPost:
      case StepKind::kAwait:
        return true;
      default:
        break;
    }
  }
  if (shape_.node_ranks > 1) return false;
  if (me.entered && touches_puts(world, rank)) return false;
  if (std::ranges::none_of(me.slots, [](Slot s) { return s == Slot::kStarted; })) return true;
  if (!me.entered || me.position >= steps.size()) return false;
  const std::vector<Extent> extents = footprint(rank, steps[me.position]);
  for (const Channel& channel : world.channels) {
    for (const auto* side : {&channel.sends, &channel.recvs}) {
      for (const Message& message : *side) {
        if (message.rank != rank || message.buffered) continue;
        const Extent moving = extent_of(message, side == &channel.sends);
        const auto conflicts = [&](const Extent& extent) { return extent.conflicts(moving); };
        if (std::ranges::any_of(extents, conflicts)) return false;
      }
    }
  }
  return true;
}

/// Does the rank's next step touch what may be put at any moment? To leave touches everything.
bool Explorer::touches_puts(const World& world, Rank rank) const {
  const auto& steps = programs_[index(rank)].steps;
  const std::size_t at = world.ranks[index(rank)].position;
  if (at >= steps.size()) {
    return may_be_put(world, rank, {0, layouts_[index(rank)].size, true}, nullptr);
  }
  return std::ranges::any_of(footprint(rank, steps[at]), [&](const Extent& extent) {
    return may_be_put(world, rank, extent, nullptr);
  });
}

bool Explorer::can_run(const World& world, Rank rank) const {
  const RankWorld& me = world.ranks[index(rank)];
  const auto& steps = programs_[index(rank)].steps;
  if (me.returned) return false;
  if (!me.entered || me.position >= steps.size()) return true;
  const Step& step = steps[me.position];
  if (step.kind == StepKind::kWait) return me.slots[step.slot] != Slot::kStarted;
  if (step.kind == StepKind::kWaitAll) {
    return std::ranges::none_of(me.slots, [](Slot s) { return s == Slot::kStarted; });
  }
  if (step.kind != StepKind::kAwait) return true;
  const Rank first = rank / shape_.node_ranks * shape_.node_ranks;
  const Rank from = step.peer == kEvery ? first : step.peer;
  const Rank to = step.peer == kEvery ? first + shape_.node_ranks : step.peer + 1;
  for (Rank r = from; r < to; ++r) {
    if (world.ranks[index(r)].posts < me.posts) return false;
  }
  return true;
}

std::vector<Move> Explorer::moves(const World& world) const {
  std::vector<Move> moves;
  for (Rank r = 0; r < shape_.ranks; ++r) {
    if (can_run(world, r)) moves.push_back({Move::kRun, index(r), 0});
  }
  for (std::size_t c = 0; c < world.channels.size(); ++c) {
    const Channel& channel = world.channels[c];
    for (std::size_t k = 0; k < channel.sends.size(); ++k) {
      if (k < channel.recvs.size()) moves.push_back({Move::kTransfer, c, k});
      const bool may_go_ahead = eager_ || channel.sends[k].kind == StepKind::kPut;
      if (may_go_ahead && !channel.sends[k].buffered) moves.push_back({Move::kBuffer, c, k});
    }
  }
  return moves;
}

void Explorer::apply(World& world, const Move& move) {
  if (move.kind == Move::kRun) return run_rank(world, static_cast<Rank>(move.where));
  Channel& channel = world.channels[move.where];
  if (move.kind == Move::kTransfer) return deliver(world, channel, move.message);
  Message& send = channel.sends[move.message];
  RankWorld& sender = world.ranks[index(send.rank)];
  if (send.kind == StepKind::kPut) {
    write_put(world, static_cast<Rank>(index(move.where) % index(shape_.ranks)), send);
    return;
  }
  const auto from = sender.memory.begin() + static_cast<std::ptrdiff_t>(send.begin);
  send.payload.assign(from, from + static_cast<std::ptrdiff_t>(send.count));
  send.buffered = true;
  sender.slots[index(send.slot)] = Slot::kDone;
}

/// From here on its rank may change what it has put.
void Explorer::write_put(World& world, Rank to, Message& put) {
  RankWorld& from = world.ranks[index(put.rank)];
  for (std::size_t i = 0; i < put.count; ++i) {
    world.ranks[index(to)].memory[put.target + i] = from.memory[put.begin + i];
  }
  from.slots[index(put.slot)] = Slot::kDone;
  put.buffered = true;
}

void Explorer::deliver(World& world, Channel& channel, std::size_t k) {
  if (channel.sends[k].kind == StepKind::kPut && !channel.sends[k].buffered) {
    write_put(world, channel.recvs[k].rank, channel.sends[k]);
  }
  const Message send = channel.sends[k], recv = channel.recvs[k];
  if (send.count != recv.count) return object("sizes differ");
  const bool is_put = send.kind == StepKind::kPut, is_offer = send.kind == StepKind::kOffer;
  if (is_put != (recv.kind == StepKind::kLand) || is_offer != (recv.kind == StepKind::kAccept)) {
    return object("kinds differ");
  }
  RankWorld& sender = world.ranks[index(send.rank)];
  RankWorld& receiver = world.ranks[index(recv.rank)];
  for (std::size_t i = 0; i < send.count && !is_put; ++i) {
    receiver.memory[recv.begin + i] =
        send.buffered ? send.payload[i] : sender.memory[send.begin + i];
  }
  if (!send.buffered) sender.slots[index(send.slot)] = Slot::kDone;
  receiver.slots[index(recv.slot)] = Slot::kDone;
  channel.sends.erase(channel.sends.begin() + static_cast<std::ptrdiff_t>(k));
  channel.recvs.erase(channel.recvs.begin() + static_cast<std::ptrdiff_t>(k));
}

void Explorer::run_rank(World& world, Rank rank) {
  RankWorld& me = world.ranks[index(rank)];
  if (!me.entered) {
    me.entered = true;
    const Layout& layout = layouts_[index(rank)];
    for (std::int64_t i = 0; i < layout.input_size; ++i) {
      me.memory[index(layout.input + i)] = element(rank, i);
    }
    return;
  }
  const auto& steps = programs_[index(rank)].steps;
  if (me.position >= steps.size()) return leave(world, rank);
  run_step(world, rank, steps[me.position]);
  ++me.position;
}

void Explorer::run_step(World& world, Rank rank, const Step& step) {
  RankWorld& me = world.ranks[index(rank)];
  switch (step.kind) {
    case StepKind::kSend:
    case StepKind::kRecv:
    case StepKind::kOffer:
    case StepKind::kAccept:
    case StepKind::kPut:
    case StepKind::kLand:
      return start(world, rank, step);
    case StepKind::kWait:
      me.slots[step.slot] = Slot::kIdle;
      return;
    case StepKind::kWaitAll:
      me.slots.fill(Slot::kIdle);
      return;
    case StepKind::kPost:
      ++me.posts;
      return;
    case StepKind::kAwait:
      return;
    default:
      return compute(world, rank, step);
  }
}

void Explorer::start(World& world, Rank rank, const Step& step) {
  RankWorld& me = world.ranks[index(rank)];
  const bool is_send = starts_at_sender(step.kind);
  if (me.slots[step.slot] != Slot::kIdle) return object("slot in use");
  me.slots[step.slot] = Slot::kStarted;
  const bool is_empty = step.kind == StepKind::kOffer || step.kind == StepKind::kAccept;
  const Ref ref = is_empty ? Ref{} : is_send ? step.src : step.dst;
  Message message{rank, step.slot, locate(ref, rank), index(ref.count), step.kind, 0, false, {}};
  if (step.kind == StepKind::kPut) message.target = locate(step.dst, step.peer);
  if (is_send) {
    world.channels[index(rank * shape_.ranks + step.peer)].sends.push_back(message);
  } else {
    world.channels[index(step.peer * shape_.ranks + rank)].recvs.push_back(message);
  }
}

/// Index in the owner's memory.
std::size_t Explorer::locate(const Ref& ref, Rank owner) {
  const Layout& l = layouts_[index(owner)];
  const bool in = ref.space == Space::kInput, out = ref.space == Space::kOutput;
  const std::int64_t base = in ? l.input : out ? l.output : l.scratch;
  const std::int64_t size = in ? l.input_size : out ? l.output_size : l.scratch_size;
  if (ref.count == 0) return 0;
  if (ref.offset < 0 || ref.count < 0 || ref.offset + ref.count > size) object("out of bounds");
  return index(base + ref.offset);
}

void Explorer::compute(World& world, Rank rank, const Step& step) {
  const Rank node = rank / shape_.node_ranks * shape_.node_ranks;
  const auto owners = [&](const Ref& ref) {
    std::vector<Rank> ranks;
    if (ref.rank != kEvery) return ranks = {ref.rank < 0 ? rank : ref.rank}, ranks;
    for (Rank r = node; r < node + shape_.node_ranks; ++r) ranks.push_back(r);
    return ranks;
  };
  const auto at = [&](const Ref& ref, Rank owner) {
    const std::size_t place = locate(ref, owner);
    return world.ranks[index(owner)].memory.data() + place;
  };
  std::vector<Word*> to, from;
  for (const Rank owner : owners(step.dst)) to.push_back(at(step.dst, owner));
  if (step.kind == StepKind::kFold && step.own_output) to.push_back(at(step.own_result(), rank));
  const bool strided = step.kind == StepKind::kFold && step.src.rank != kEvery;
  for (int k = 0; k < (strided ? step.blocks : 1); ++k) {
    const Ref src = step.src.slice(strided ? k * step.stride : 0, step.src.count);
    for (const Rank owner : owners(src)) {
      const bool own = step.kind == StepKind::kFold && step.own_input && owner == rank && !strided;
      from.push_back(at(own ? step.own_block() : src, owner));
    }
  }
  if (step.kind == StepKind::kCombine) from.push_back(at(step.addend(), rank));
  if (step.src.count != step.dst.count) object("sizes differ");
  if (!objection_.empty()) return;
  for (std::int64_t i = 0; i < step.dst.count; ++i) {
    Word sum = step.kind == StepKind::kReduce ? to[0][i] : 0;
    for (const Word* src : from) sum += src[i];
    if (step.finish) sum = finished(sum);
    for (Word* dst : to) dst[i] = sum;
  }
}

void Explorer::leave(World& world, Rank rank) {
  RankWorld& me = world.ranks[index(rank)];
  const Layout& layout = layouts_[index(rank)];
  if (std::ranges::any_of(me.slots, [](Slot s) { return s != Slot::kIdle; })) object("in flight");
  const std::vector<Word> want = expected(rank);
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (me.memory[index(layout.output) + i] != want[i]) object("wrong result");
  }
  if (shape_.collective == Collective::kBarrier &&
      std::ranges::any_of(world.ranks, [](const RankWorld& r) { return !r.entered; })) {
    object("left the barrier early");
  }
  for (std::int64_t i = 0; i < layout.size; ++i) me.memory[index(i)] = mix(kAfterReturn, index(i));
  me.returned = true;
}

std::vector<Word> Explorer::expected(Rank rank) const {
  std::vector<Word> want;
  const std::int64_t n = shape_.count;
  for (std::int64_t i = 0; i < layouts_[index(rank)].output_size; ++i) {
    Word sum = 0;
    const bool scattered = shape_.collective == Collective::kReduceScatter;
    for (Rank r = 0; r < shape_.ranks; ++r) sum += element(r, scattered ? rank * n + i : i);
    switch (shape_.collective) {
      case Collective::kBarrier:
        break;
      case Collective::kBroadcast:
        want.push_back(element(shape_.root, i));
        break;
      case Collective::kScatter:
        want.push_back(element(shape_.root, rank * n + i));
        break;
      case Collective::kGather:
      case Collective::kAllGather:
        want.push_back(element(static_cast<Rank>(i / n), i % n));
        break;
      case Collective::kAllToAll:
        want.push_back(element(static_cast<Rank>(i / n), rank * n + i % n));
        break;
      default:
        want.push_back(finished(sum));
    }
  }
  return want;
}

bool Explorer::is_over(const World& world) const {
  return std::ranges::all_of(world.ranks, &RankWorld::returned) &&
         std::ranges::all_of(world.channels,
                             [](const Channel& c) { return c.sends.empty() && c.recvs.empty(); });
}

Word Explorer::digest(const World& world) {
  Word hash = 0;
  const auto add = [&](Word value) { hash = mix(hash, value); };
  for (const RankWorld& rank : world.ranks) {
    add(rank.position * 4 + rank.entered * 2 + rank.returned);
    add(rank.posts);
    for (const Slot slot : rank.slots) add(static_cast<Word>(slot));
    for (const Word word : rank.memory) add(word);
  }
  for (const Channel& channel : world.channels) {
    for (const auto* side : {&channel.sends, &channel.recvs}) {
      add(side->size());
      for (const Message& m : *side) {
        add(index(m.slot) * 2 + m.buffered), add(m.begin), add(m.count);
        for (const Word word : m.payload) add(word);
      }
    }
  }
  return hash;
}

}  // namespace

Exploration explore(std::span<const Program> programs, const Shape& shape, AliasMode alias,
                    const ExplorerLimits& limits) {
  Exploration result = Explorer(programs, shape, alias, false).run(limits);
  if (!result.ok) return result;
  const Exploration eager = Explorer(programs, shape, alias, true).run(limits);
  result.ok = eager.ok, result.what = eager.what, result.states += eager.states;
  result.exhaustive = result.exhaustive && eager.exhaustive;
  return result;
}

}  // namespace shoal::verify
