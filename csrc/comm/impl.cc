#include "comm/impl.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/report.h"
#include "core/clock.h"

namespace shoal {

using comm::ControlHead;
using comm::ControlKind;

namespace {

/// Ranks of one node if every node has the same number of them and they are numbered node by node;
/// 1 where that is not so (then schedules know nothing of locality).
Rank uniform_node_ranks(const std::vector<int>& node_of) {
  const auto ranks = static_cast<Rank>(node_of.size());
  Rank width = 1;
  while (width < ranks && node_of[width] == node_of[0]) ++width;
  if (ranks % width != 0) return 1;
  for (Rank r = 0; r < ranks; ++r) {
    const Rank first = r / width * width;
    if (node_of[r] != node_of[first]) return 1;
    if (r == first &&
        std::find(node_of.begin(), node_of.begin() + r, node_of[r]) != node_of.begin() + r) {
      return 1;
    }
  }
  return width;
}

}  // namespace

CommunicatorImpl::CommunicatorImpl(std::shared_ptr<comm::Context> owner, std::uint32_t id,
                                   std::vector<Rank> world_ranks, memory::Offset control)
    : context(std::move(owner)),
      members(std::move(world_ranks)),
      control_(control),
      heard_(members.size()) {
  rank = static_cast<Rank>(std::find(members.begin(), members.end(), context->rank()) -
                           members.begin());
  group = std::make_unique<exec::Group>(bind(id, control), events());
  context->engine().add_group(*group);
  context->attach(id, *this);
}

CommunicatorImpl::~CommunicatorImpl() {
  if (!context->in_its_process()) {
    // A forked child, in which no driver of CUDA may be called.
    (void)device_calls_.release();
    (void)host_calls_.release();
    (void)stream_messages_.release();
    return;
  }
  device_calls_.reset();
  host_calls_.reset();
  stream_messages_.reset();
  context->detach(group->binding().communicator);
  context->engine().remove_group(*group);
  comm::Context::Shared shared{{}, std::move(device_blocks_)};
  if (group->slots() != memory::kNoOffset) shared.blocks.push_back(group->slots());
  if (group->binding().node.self() == 0) shared.blocks.push_back(control_);
  context->depart(group->binding(), std::move(shared));
}

exec::Binding CommunicatorImpl::bind(std::uint32_t id, memory::Offset control) {
  exec::Binding binding;
  binding.communicator = id;
  binding.rank = rank;
  binding.ranks = static_cast<Rank>(members.size());
  std::vector<int> node_of;
  for (const Rank world : members) node_of.push_back(context->peers()[world].node);
  binding.node_ranks = uniform_node_ranks(node_of);
  int self = 0;
  for (Rank r = 0; r < binding.ranks; ++r) {
    exec::Route route = context->route(members[r]);
    if (node_of[r] == node_of[rank]) {
      route.node_index = static_cast<int>(binding.node_members.size());
      if (r == rank) self = route.node_index;
      binding.node_members.push_back(r);
      binding.local_ranks.push_back(context->peers()[members[r]].local_rank);
    }
    binding.routes.push_back(route);
  }
  const int locals = static_cast<int>(binding.node_members.size());
  std::byte* memory = context->arena().at(control);
  binding.node = transport::shm::NodeGroup(memory, locals, self);
  binding.board = exec::AbortBoard(memory + transport::shm::control_bytes(locals), self);
  binding.side_block = reinterpret_cast<exec::SideBlock*>(memory + exec::side_block_offset(locals));
  binding.shm = &context->node();
  binding.health = &context->health();
  return binding;
}

const exec::Plan& CommunicatorImpl::make_plan(PlanBucket& bucket, const exec::PlanKey& key) {
  const std::lock_guard lock(plans_mutex_);
  if (const exec::Plan* plan = find_plan(bucket, exec::fingerprint(key))) return *plan;
  KnownPlan& made = known_or_new(key, choose(key).algorithm);
  made.next = bucket.load();
  // release: pairs with the acquire in find_plan()
  bucket.store(&made, std::memory_order_release);
  return made.plan;
}

CommunicatorImpl::KnownPlan& CommunicatorImpl::known_or_new(const exec::PlanKey& key,
                                                            schedule::Algorithm algorithm) {
  for (KnownPlan** link = &dropped_plans_; *link != nullptr; link = &(*link)->next) {
    KnownPlan& known = **link;
    if (known.plan.key != key || known.plan.program.algorithm != algorithm) continue;
    *link = known.next;
    return known;
  }
  const exec::Layout layout{group->binding().one_node(), context->crowded()};
  return own_plans_.emplace_front(exec::make_plan(key, algorithm, shape(), layout), nullptr);
}

void CommunicatorImpl::use_algorithm(Collective collective,
                                     std::optional<schedule::Algorithm> algorithm) {
  const std::lock_guard lock(plans_mutex_);
  forced_[static_cast<std::size_t>(collective)] = algorithm;
  for (PlanBucket& bucket : plans_) drop_plans(bucket, collective);
}

void CommunicatorImpl::drop_plans(PlanBucket& bucket, Collective collective) noexcept {
  KnownPlan* kept = nullptr;
  for (KnownPlan* known = bucket.load(); known != nullptr;) {
    KnownPlan* const next = known->next;
    KnownPlan*& list = known->plan.key.collective == collective ? dropped_plans_ : kept;
    known->next = std::exchange(list, known);
    known = next;
  }
  bucket.store(kept);
}

schedule::Shape CommunicatorImpl::shape() const noexcept {
  const exec::Binding& binding = group->binding();
  schedule::Shape shape;
  shape.rank = rank;
  shape.ranks = binding.ranks;
  shape.node_ranks = binding.one_node() ? binding.ranks : binding.node_ranks;
  return shape;
}

comm::Choice CommunicatorImpl::choose(const exec::PlanKey& key) const noexcept {
  const auto& forced = forced_[static_cast<std::size_t>(key.collective)];
  if (forced.has_value() && !key.deterministic) return {*forced, "forced by use_algorithm"};
  return comm::choose(key, shape(), group->binding().one_node(), context->tuning(),
                      context->has_put());
}

bool CommunicatorImpl::has_kernels() const noexcept {
  const exec::Binding& binding = group->binding();
  return binding.one_node() && binding.ranks <= cuda::kMaxKernelRanks;
}

template <class Calls>
void CommunicatorImpl::set_up(std::once_flag& made, std::unique_ptr<Calls>& calls) {
  std::call_once(made, [&] {
    auto new_calls = std::make_unique<Calls>(*this);
    context->engine().synchronised([&] { calls = std::move(new_calls); });
  });
}

comm::StreamCalls& CommunicatorImpl::stream_calls() {
  if (has_kernels()) {
    set_up(stream_calls_made_, device_calls_);
    return *device_calls_;
  }
  set_up(stream_calls_made_, host_calls_);
  return *host_calls_;
}

comm::HostCalls& CommunicatorImpl::stream_messages() {
  set_up(stream_messages_made_, stream_messages_);
  return *stream_messages_;
}

void CommunicatorImpl::require_own_process() const {
  if (!context->in_its_process()) {
    throw Error(ErrorCode::kInvalidArgument,
                "a forked child of a rank may only read pool memory; make all calls in the "
                "parent, or start processes with `shoal run`");
  }
}

[[gnu::cold]] void CommunicatorImpl::refuse_to_run() const {
  require_own_process();
  throw Error(group->failure().code,
              "communicator " + std::to_string(group->binding().communicator) +
                  " has ended by an earlier error: " + group->failure_text());
}

std::string CommunicatorImpl::describe_self() const {
  return "; this is rank " + std::to_string(rank) + " of " + std::to_string(members.size());
}

std::vector<Rank> CommunicatorImpl::others() const {
  std::vector<Rank> ranks = members;
  std::erase(ranks, context->rank());
  return ranks;
}

// --- texts -------------------------------------------------------------------------------------

exec::GroupEvents CommunicatorImpl::events() {
  exec::GroupEvents events;
  events.signature = describe_self();
  events.explain = [this](const exec::Run* run, Status status) { return explain(run, status); };
  events.explain_mismatch = [this](std::uint64_t sequence, Status status) {
    return explain_mismatch(sequence, status);
  };
  events.suspect_mismatch = [this](const exec::Run& run) { ask(run); };
  events.announce = [this](Status status, const std::string& text) {
    ControlHead head;
    head.kind = ControlKind::kFailed;
    head.code = static_cast<std::uint8_t>(status.code);
    head.communicator = group->binding().communicator;
    head.rank = status.rank;
    context->publish(others(), head, text);
  };
  return events;
}

/// What streams are about, where no run tells. Engine's lock.
std::string CommunicatorImpl::describe_current() const {
  const std::array<const comm::StreamCalls*, 3> all{device_calls_.get(), host_calls_.get(),
                                                    stream_messages_.get()};
  for (const comm::StreamCalls* calls : all) {
    std::string text = calls == nullptr ? "" : calls->describe_current();
    if (!text.empty()) return text;
  }
  return {};
}

/// Engine's lock.
std::string CommunicatorImpl::explain(const exec::Run* run, Status status) {
  const exec::Binding& binding = group->binding();
  std::string during;
  if (run != nullptr) {
    during = " during " + std::string(name_of(run->plan().key.collective)) + " #" +
             std::to_string(run->sequence());
  } else {
    during = describe_current();
  }
  const std::string who = status.rank >= 0 && status.rank < binding.ranks
                              ? context->name(status.rank, members[status.rank])
                              : "a rank";
  switch (status.code) {
    case ErrorCode::kPeerFailed:
      return who + " " + context->cause(members[status.rank]) + during;
    case ErrorCode::kMismatch:
      return run != nullptr ? explain_mismatch(run->sequence(), status)
                            : "ranks called different things";
    case ErrorCode::kTimeout:
      return run != nullptr && status.detail > 0
                 ? explain_timeout(run->plan().key, run->sequence(), status)
                 : "an operation timed out, waiting for " + who + during;
    case ErrorCode::kOutOfMemory:
      return status.rank == rank ? context->pool().explain_out_of_memory(status.detail)
                                 : who + " has no pool memory left to stage its buffers" + during;
    case ErrorCode::kTransport:
      return who + " cannot be reached over the network" + during + " (" +
             context->describe_network() +
             "); it is not known to have died: look at links, addresses and firewalls between the "
             "hosts, and at UCX's own words with UCX_LOG_LEVEL=warn";
    default:
      return std::string(name_of(status.code)) + " by " + who + during;
  }
}

/// `status`: the two ranks. Both have entered.
std::string CommunicatorImpl::explain_mismatch(std::uint64_t sequence, Status status) const {
  const exec::Binding& binding = group->binding();
  const auto a = static_cast<Rank>(status.detail), b = status.rank;
  const auto fingerprint = [&](Rank r) {
    return binding.node.entry(sequence, binding.routes[r].node_index).fingerprint;
  };
  return comm::describe_mismatch(binding.communicator, sequence, a, fingerprint(a), b,
                                 fingerprint(b));
}

/// What is known of a rank that is waited for.
std::string CommunicatorImpl::standing(const exec::PlanKey& key, std::uint64_t sequence, Rank of) {
  const exec::Binding& binding = group->binding();
  const exec::Route& route = binding.routes[of];
  const std::int64_t now = now_ns();
  if (route.node_index < 0) {
    if (asked_ns_ != 0 && heard_[of].at_ns < asked_ns_ - comm::kAnswerNs) {
      return "does not answer: stopped, hung, or cut off from the network";
    }
    return heard_[of].issued < sequence ? "has not called it yet" : "has called it";
  }
  const auto& page = context->node().page(binding.local_ranks[route.node_index]);
  const std::int64_t silent_ms =
      (now - page.heartbeat_ns.load(std::memory_order_relaxed)) / kNsPerMs;
  if (silent_ms > 1000) {
    return "is stopped or hung: no heartbeat for " + comm::describe_ms(silent_ms);
  }
  if (!binding.node.entered(sequence, route.node_index)) {
    return key.device && !has_kernels() ? "has not come to it: it has not called it yet, or its "
                                          "stream is busy with what was "
                                          "enqueued before"
                                        : "has not called it yet";
  }
  if (device_calls_ != nullptr && !device_calls_->is_reached(sequence, of)) {
    return "has not come to it: it has called it, its stream is busy with what was enqueued before";
  }
  return "has called it and not finished";
}

std::string CommunicatorImpl::explain_timeout(const exec::PlanKey& key, std::uint64_t sequence,
                                              Status status) {
  const exec::Binding& binding = group->binding();
  std::string text = comm::describe(key) + " #" + std::to_string(sequence) +
                     " has not finished after " + comm::describe_ms(status.detail / kNsPerMs) +
                     ": ";
  std::string late;
  int named = 0;
  for (Rank r = 0; r < binding.ranks; ++r) {
    if (r == rank) continue;
    const std::string state = standing(key, sequence, r);
    const bool suspicious = r == status.rank || state.starts_with("is stopped") ||
                            state.starts_with("does not answer") || state.starts_with("has not");
    if (!suspicious || ++named > 8) continue;
    late += (late.empty() ? "" : "; ") + context->name(r, members[r]) + " " + state;
  }
  if (named > 8) late += "; and " + std::to_string(named - 8) + " more";
  if (late.empty()) late = "all ranks have called it, none has finished";
  return text + late;
}

// --- control messages --------------------------------------------------------------------------

/// Engine's lock.
void CommunicatorImpl::ask(const exec::Run& run) {
  ControlHead head;
  head.kind = ControlKind::kQuery;
  head.communicator = group->binding().communicator;
  head.sequence = run.sequence();
  head.fingerprint = run.plan().fingerprint;
  head.rank = rank;
  asked_ns_ = now_ns();
  context->publish(others(), head);
}

/// Control thread.
void CommunicatorImpl::receive(Rank from_world, const ControlHead& head, const std::string& text) {
  context->engine().synchronised([&] {
    switch (head.kind) {
      case ControlKind::kQuery:
        answer(from_world, head);
        return;
      case ControlKind::kStanding:
        if (head.rank >= 0 && head.rank < static_cast<Rank>(heard_.size())) {
          heard_[head.rank] = {now_ns(), head.sequence};
        }
        return;
      case ControlKind::kMismatch:
        group->fail({ErrorCode::kMismatch, head.rank, 0}, nullptr,
                    comm::describe_mismatch(head.communicator, head.sequence, head.rank,
                                            head.fingerprint, head.other, head.other_fingerprint),
                    false);
        return;
      case ControlKind::kFailed:
        group->fail({static_cast<ErrorCode>(head.code), head.rank, 0}, nullptr, text, false);
        return;
    }
  });
  context->engine().wake();
}

/// Whatever this rank owes the others it cannot do any more: all of them learn why.
void CommunicatorImpl::lose_device(const std::string& text) {
  const std::string whole = context->name(rank, context->rank()) + " has lost its GPU: " + text;
  context->engine().synchronised(
      [&] { group->fail({ErrorCode::kDevice, rank, 0}, nullptr, whole, true); });
  context->engine().wake();
}

/// Another rank does not get on with #sequence. If this one has issued something else under that
/// number, all are told; if it has not issued it yet, it is late, which is no mismatch.
void CommunicatorImpl::answer(Rank from_world, const ControlHead& query) {
  ControlHead head;
  head.communicator = query.communicator;
  head.rank = rank;
  const std::uint64_t mine = group->fingerprint_of(query.sequence);
  if (mine == 0 || mine == query.fingerprint) {
    head.kind = ControlKind::kStanding;
    head.sequence = group->issued();
    context->publish({from_world}, head);
    return;
  }
  head.kind = ControlKind::kMismatch;
  head.sequence = query.sequence;
  head.fingerprint = mine;
  head.other = query.rank;
  head.other_fingerprint = query.fingerprint;
  context->publish(others(), head);
  group->fail({ErrorCode::kMismatch, rank, 0}, nullptr,
              comm::describe_mismatch(head.communicator, head.sequence, head.rank, mine, head.other,
                                      head.other_fingerprint),
              false);
}

}  // namespace shoal
