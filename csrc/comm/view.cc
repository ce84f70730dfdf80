/// Views: a rank says where its memory lies, and the others look at it there.
///
/// Each rank puts an announcement into its entry line: the whole operation is an all_gather of
/// those lines. The lease that an announcement speaks of has been granted before (leases.h), so
/// that whoever reads the line holds it already.
#include <type_traits>
#include <utility>

#include "comm/arguments.h"
#include "comm/impl.h"
#include "comm/report.h"
#include "core/clock.h"
#include "shoal/communicator.h"
#include "transport/shm/node_group.h"

namespace shoal {

struct View::State {
  std::shared_ptr<comm::Context> context;  // shared_ptr: the mapping outlives the communicator
  const void* data = nullptr;
  std::int64_t bytes = 0;
  comm::Lease lease;                // none: this rank's own memory, or a copy
  std::shared_ptr<PoolBlock> copy;  // shared_ptr: one block for the ranks of an all_gather
};

View::View() noexcept = default;
View::View(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
View::View(View&&) noexcept = default;

View& View::operator=(View&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

View::~View() {
  if (state_ == nullptr || state_->lease.row == memory::kNoOffset) return;
  if (state_->context->in_its_process()) state_->context->leases().release(state_->lease);
}

const void* View::data() const noexcept { return state_ == nullptr ? nullptr : state_->data; }
Bytes View::bytes() const noexcept { return {state_ == nullptr ? 0 : state_->bytes}; }

namespace {

/// What each rank says. All zeros but the fingerprint: it has nothing to show.
struct Announcement {
  std::uint64_t fingerprint = 0;  ///< of the call as the user made it
  comm::Lease lease;
  std::uint64_t failed = 0;  ///< not 0: no memory for the lease
};
static_assert(std::is_trivially_copyable_v<Announcement>);
static_assert(sizeof(Announcement) <= sizeof(transport::shm::EntryLine::payload),
              "one entry line, one flag round");

using Impl = CommunicatorImpl;

View make_view(const std::shared_ptr<Impl>& impl, const void* data, std::int64_t bytes,
               const comm::Lease& lease = {}, std::shared_ptr<PoolBlock> copy = nullptr) {
  auto state = std::make_unique<View::State>();
  state->context = impl->context;
  state->data = data;
  state->bytes = bytes;
  state->lease = lease;
  state->copy = std::move(copy);
  return View(std::move(state));
}

/// Where the input lies in this rank's pool; kNoOffset: there is none to show. Throws
/// InvalidArgument.
memory::Offset place(const Impl& impl, Collective collective, const void* data,
                     std::int64_t bytes) {
  const memory::Arena& arena = impl.context->arena();
  if (bytes == 0) return memory::kNoOffset;
  if (arena.is_read_only(data)) {
    comm::refuse(impl, collective,
                 "the input of a view is itself a view of another rank's memory; let its owner "
                 "show it, or pass a copy that lies in the pool");
  }
  const memory::Offset offset = arena.offset_of(data, bytes);
  if (offset == memory::kNoOffset) {
    comm::refuse(impl, collective,
                 "the input of a view must be pool memory; make it with comm.empty() or inside "
                 "`with shoal.numpy_pool():` (C++: Communicator::allocate)");
  }
  return offset;
}

/// The second mapping of the arena: made by the first view, before anything is posted.
void map_read_only(const Impl& impl, Collective collective) {
  const Status status = impl.context->arena().map_read_only();
  if (status.ok()) return;
  throw Error(status.code, std::string(name_of(collective)) +
                               ": the node's memory cannot be mapped a second time, for reading "
                               "(mmap, errno " +
                               std::to_string(status.detail) +
                               "); raise the limit of address space (ulimit -v) or give a smaller "
                               "pool_bytes" +
                               impl.describe_self());
}

/// Where a block of this rank lies in that mapping.
const std::byte* read_only(const Impl& impl, const PoolBlock& block) {
  const memory::Arena& arena = impl.context->arena();
  return arena.read_only_at(static_cast<std::byte*>(block.data()) - arena.base());
}

/// Puts an announcement before all ranks, and theirs before this one.
std::vector<Announcement> exchange(const std::shared_ptr<Impl>& impl, const Announcement& mine,
                                   const CallOptions& options, const Interrupt& interrupt) {
  std::vector<Announcement> all(impl->members.size());
  const exec::Plan& plan = impl->plan(comm::view_key(sizeof mine));
  const exec::Call call{&plan, &mine, all.data(), comm::timeout_ms(*impl, options) * kNsPerMs};
  exec::Run* run = impl->context->engine().start(*impl->group, call);
  if (run != nullptr) Work(impl, *run).wait(interrupt);
  return all;
}

/// All ranks see the same announcements, so all of them throw, or none does.
void check(const Impl& impl, const std::vector<Announcement>& all) {
  for (std::size_t r = 1; r < all.size(); ++r) {
    if (all[r].fingerprint == all[0].fingerprint) continue;
    throw Error(
        ErrorCode::kMismatch,
        comm::describe_mismatch(impl.group->binding().communicator, impl.group->issued(), 0,
                                all[0].fingerprint, static_cast<Rank>(r), all[r].fingerprint) +
            " (with view=True)" + impl.describe_self());
  }
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].failed == 0) continue;
    throw Error(ErrorCode::kOutOfMemory, "rank " + std::to_string(r) +
                                             " has no pool memory left to keep account of views" +
                                             impl.describe_self());
  }
}

/// One node. A view for each rank of what that one shows, which for this one is `input` itself, at
/// `offset`; empty where a rank has nothing to show.
std::vector<View> share(const std::shared_ptr<Impl>& impl, const exec::PlanKey& key,
                        const void* input, memory::Offset offset, const CallOptions& options,
                        const Interrupt& interrupt) {
  comm::Leases& leases = impl->context->leases();
  const std::vector<int>& local_ranks = impl->group->binding().local_ranks;
  const std::int64_t bytes = key.count * size_of(key.dtype);
  Announcement mine;
  mine.fingerprint = exec::fingerprint(key);
  bool granted = false;
  if (offset != memory::kNoOffset && local_ranks.size() > 1) {
    const auto lease = leases.grant(offset, bytes, local_ranks);
    granted = lease.has_value();
    if (granted) mine.lease = *lease;
    mine.failed = granted ? 0 : 1;
  }
  std::vector<Announcement> all;
  try {
    all = exchange(impl, mine, options, interrupt);
    check(*impl, all);
  } catch (const Error& error) {
    // These two, where the communicator lives on, are seen by all ranks alike: nobody has a view.
    // If it has ended, somebody may have got one before the error reached this rank.
    const bool nobody =
        error.code() == ErrorCode::kMismatch || error.code() == ErrorCode::kOutOfMemory;
    if (granted && nobody && !impl->group->ended()) leases.withdraw(mine.lease, local_ranks);
    throw;
  }
  std::vector<View> views(all.size());
  for (std::size_t r = 0; r < all.size(); ++r) {
    const comm::Lease& lease = all[r].lease;
    if (static_cast<Rank>(r) == impl->rank) {
      if (offset != memory::kNoOffset) views[r] = make_view(impl, input, bytes);
    } else if (lease.row != memory::kNoOffset) {
      leases.hold(lease);
      views[r] = make_view(impl, impl->context->arena().read_only_at(lease.begin), bytes, lease);
    }
  }
  return views;
}

}  // namespace

View Communicator::broadcast_view(ConstBuffer input, Count count, DataType dtype, Rank root,
                                  const CallOptions& options, const Interrupt& interrupt) {
  impl_->require_running();
  const exec::PlanKey key =
      comm::make_key(*impl_, Collective::kBroadcast, count, dtype, ReduceOp::kSum, root, false);
  const std::int64_t bytes = count.value * size_of(dtype);
  memory::Offset offset = memory::kNoOffset;
  if (root == rank()) {
    comm::check_buffer(*impl_, key, "input", input.data, input.bytes.value, bytes);
    offset = place(*impl_, key.collective, input.data, bytes);
  }
  map_read_only(*impl_, key.collective);
  if (impl_->group->binding().one_node()) {
    return std::move(share(impl_, key, input.data, offset, options, interrupt)[root]);
  }
  if (root == rank()) {
    // In place, so that nothing is written here.
    broadcast(input, {const_cast<void*>(input.data), {bytes}}, count, dtype, root, options)
        .wait(interrupt);
    return make_view(impl_, input.data, bytes);
  }
  auto copy = std::make_shared<PoolBlock>(allocate({bytes}));
  broadcast({}, {copy->data(), {bytes}}, count, dtype, root, options).wait(interrupt);
  const std::byte* data = read_only(*impl_, *copy);
  return make_view(impl_, data, bytes, {}, std::move(copy));
}

std::vector<View> Communicator::all_gather_view(ConstBuffer input, Count count, DataType dtype,
                                                const CallOptions& options,
                                                const Interrupt& interrupt) {
  impl_->require_running();
  const exec::PlanKey key =
      comm::make_key(*impl_, Collective::kAllGather, count, dtype, ReduceOp::kSum, 0, false);
  const std::int64_t bytes = count.value * size_of(dtype);
  comm::check_buffer(*impl_, key, "input", input.data, input.bytes.value, bytes);
  const memory::Offset offset = place(*impl_, key.collective, input.data, bytes);
  map_read_only(*impl_, key.collective);
  if (impl_->group->binding().one_node()) {
    return share(impl_, key, input.data, offset, options, interrupt);
  }
  auto copy = std::make_shared<PoolBlock>(allocate({bytes * size()}));
  all_gather(input, {copy->data(), {bytes * size()}}, count, dtype, options).wait(interrupt);
  const std::byte* data = read_only(*impl_, *copy);
  std::vector<View> views;
  for (Rank r = 0; r < size(); ++r) {
    views.push_back(r == rank() ? make_view(impl_, input.data, bytes)
                                : make_view(impl_, data + r * bytes, bytes, {}, copy));
  }
  return views;
}

std::vector<Rank> Communicator::holders(const void* data, Bytes bytes) const {
  const memory::Offset offset = impl_->context->arena().offset_of(data, bytes.value);
  if (offset == memory::kNoOffset || !impl_->context->in_its_process()) return {};
  return impl_->context->leases().holders(offset, bytes.value);
}

}  // namespace shoal
