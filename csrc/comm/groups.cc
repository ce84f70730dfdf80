/// Communicators made of others.
#include <algorithm>
#include <cstring>

#include "comm/impl.h"

namespace shoal {

namespace {

/// What each rank says in split(): one entry line.
struct SplitLine {
  std::int64_t color;
  std::int64_t key;
  std::int64_t next_id;
};

template <class T>
std::vector<T> gather_all(Communicator& comm, const T& mine) {
  std::vector<T> all(static_cast<std::size_t>(comm.size()));
  constexpr std::int64_t kBytes = sizeof(T);
  comm.all_gather({&mine, {kBytes}}, {all.data(), {kBytes * comm.size()}}, Count{kBytes},
                  DataType::kUint8)
      .wait();
  return all;
}

/// The control memory of a communicator's ranks on one node. The first of them makes it.
class NodeControl {
 public:
  /// `ranks` of `parent`, this one among them.
  NodeControl(CommunicatorImpl& parent, std::span<const Rank> ranks) : context_(*parent.context) {
    const auto node_of = [&](Rank r) { return context_.peers()[parent.members[r]].node; };
    const auto beside = [&](Rank r) { return node_of(r) == node_of(parent.rank); };
    leader_ = static_cast<std::size_t>(std::ranges::find_if(ranks, beside) - ranks.begin());
    leader_rank_ = ranks[leader_];
    if (leader_rank_ != parent.rank) return;
    const auto made = context_.make_control(static_cast<int>(std::ranges::count_if(ranks, beside)));
    if (made.ok()) offset_ = made.value();
  }
  ~NodeControl() {
    if (offset_ != memory::kNoOffset) context_.pool().free(offset_);
  }
  NodeControl(const NodeControl&) = delete;
  NodeControl& operator=(const NodeControl&) = delete;

  /// Whose offset counts: place among `ranks`, and the rank itself.
  [[nodiscard]] std::size_t leader() const noexcept { return leader_; }
  [[nodiscard]] Rank leader_rank() const noexcept { return leader_rank_; }
  /// kNoOffset where another rank makes it, or there is no memory.
  [[nodiscard]] memory::Offset offset() const noexcept { return offset_; }
  /// From here on it is the communicator's.
  void hand_over() noexcept { offset_ = memory::kNoOffset; }

 private:
  comm::Context& context_;
  std::size_t leader_ = 0;
  Rank leader_rank_ = 0;
  memory::Offset offset_ = memory::kNoOffset;
};

std::shared_ptr<CommunicatorImpl> make_communicator(const CommunicatorImpl& parent, std::int64_t id,
                                                    std::span<const Rank> ranks, NodeControl& made,
                                                    memory::Offset control) {
  if (control == memory::kNoOffset) {
    throw Error(ErrorCode::kOutOfMemory, "a new communicator: rank " +
                                             std::to_string(made.leader_rank()) +
                                             " has no pool memory left");
  }
  std::vector<Rank> members;
  for (const Rank r : ranks) members.push_back(parent.members[r]);
  auto impl = std::make_shared<CommunicatorImpl>(parent.context, static_cast<std::uint32_t>(id),
                                                 std::move(members), control);
  made.hand_over();
  return impl;
}

/// Numbers up to `after` - 1 are in use now.
void take_numbers(comm::Context& context, std::int64_t after) {
  if (after > transport::kMaxCommunicators) {
    throw Error(ErrorCode::kInvalidArgument,
                "a job has at most " + std::to_string(transport::kMaxCommunicators) +
                    " communicators over its life; keep and re-use them");
  }
  context.set_next_communicator(static_cast<std::uint32_t>(after));
}

}  // namespace

Communicator Communicator::split(int color, int key) {
  impl_->require_running();
  comm::Context& context = *impl_->context;
  const std::vector<SplitLine> lines =
      gather_all(*this, SplitLine{color, key, context.next_communicator()});
  std::vector<std::int64_t> colors;
  std::int64_t first_id = 0;
  for (const SplitLine& line : lines) {
    first_id = std::max(first_id, line.next_id);
    if (line.color >= 0) colors.push_back(line.color);
  }
  std::sort(colors.begin(), colors.end());
  colors.erase(std::unique(colors.begin(), colors.end()), colors.end());
  take_numbers(context, first_id + static_cast<std::int64_t>(colors.size()));

  std::vector<Rank> ranks;  // of this communicator, in the order of the new one
  for (Rank r = 0; r < size() && color >= 0; ++r) {
    if (lines[r].color == color) ranks.push_back(r);
  }
  std::stable_sort(ranks.begin(), ranks.end(),
                   [&](Rank a, Rank b) { return lines[a].key < lines[b].key; });
  if (color < 0) {
    gather_all(*this, memory::kNoOffset);
    return Communicator(nullptr);
  }
  NodeControl control(*impl_, ranks);
  const std::vector<memory::Offset> controls = gather_all(*this, control.offset());
  const std::int64_t id =
      first_id + (std::lower_bound(colors.begin(), colors.end(), color) - colors.begin());
  return Communicator(
      make_communicator(*impl_, id, ranks, control, controls[control.leader_rank()]));
}

namespace {

/// What each rank says in group().
struct GroupLine {
  std::int64_t next_id;
  memory::Offset control;
};

void check_group(const CommunicatorImpl& parent, std::span<const Rank> ranks) {
  const auto size = static_cast<Rank>(parent.members.size());
  std::vector<Rank> sorted(ranks.begin(), ranks.end());
  std::ranges::sort(sorted);
  const bool in_range = !sorted.empty() && sorted.front() >= 0 && sorted.back() < size;
  if (!in_range || std::ranges::adjacent_find(sorted) != sorted.end() ||
      std::ranges::find(ranks, parent.rank) == ranks.end()) {
    throw Error(ErrorCode::kInvalidArgument, "group: needs different ranks in [0, " +
                                                 std::to_string(size) + "), this one among them" +
                                                 parent.describe_self());
  }
}

}  // namespace

Communicator Communicator::group(std::span<const Rank> ranks, const Exchange& exchange) {
  impl_->require_running();
  check_group(*impl_, ranks);
  NodeControl control(*impl_, ranks);
  const GroupLine mine{impl_->context->next_communicator(), control.offset()};
  std::string text(sizeof mine, '\0');
  std::memcpy(text.data(), &mine, sizeof mine);
  const std::vector<std::string> all = exchange(text);
  std::vector<GroupLine> lines(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].size() != sizeof mine || all.size() != ranks.size()) {
      throw Error(ErrorCode::kInvalidArgument, "group: the exchange must return what each of the " +
                                                   std::to_string(ranks.size()) +
                                                   " ranks gave it, in rank order");
    }
    std::memcpy(&lines[i], all[i].data(), sizeof mine);
  }
  std::int64_t id = 0;
  for (const GroupLine& line : lines) id = std::max(id, line.next_id);
  take_numbers(*impl_->context, id + 1);
  return Communicator(
      make_communicator(*impl_, id, ranks, control, lines[control.leader()].control));
}

}  // namespace shoal
