#include "comm/arguments.h"

#include <algorithm>
#include <functional>

namespace shoal::comm {

using Impl = CommunicatorImpl;

[[gnu::cold]] void refuse(const Impl& impl, Collective collective, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument,
              std::string(name_of(collective)) + ": " + what + impl.describe_self());
}

[[gnu::cold]] void refuse_buffer(const Impl& impl, const exec::PlanKey& key, const char* which,
                                 const void* data, std::int64_t given, std::int64_t needed,
                                 int place) {
  const std::string name = which + (place < 0 ? std::string() : "[" + std::to_string(place) + "]");
  if (given == needed && data == nullptr) refuse(impl, key.collective, name + " is null");
  refuse(impl, key.collective,
         name + " has " + std::to_string(given) + " bytes, needs " + std::to_string(needed) +
             " (count " + std::to_string(key.count) + " x " + std::string(name_of(key.dtype)) +
             ")");
}

namespace {

bool gathers(Collective collective) {
  return collective == Collective::kAllGather || collective == Collective::kGather;
}
bool scatters(Collective collective) {
  return collective == Collective::kReduceScatter || collective == Collective::kScatter;
}

[[noreturn, gnu::cold]] void refuse_overlap(const Impl& impl, Collective collective) {
  const char* form = gathers(collective)                   ? "in place means input == output[rank]"
                     : scatters(collective)                ? "in place means output == input[rank]"
                     : collective == Collective::kAllToAll ? "it has no in-place form"
                                                           : "in place means input == output";
  refuse(impl, collective,
         std::string("input and output overlap; ") + form + "; otherwise give separate memory");
}

/// Of one side: the addresses of its blocks, each of which has been looked at.
template <class Side>
std::vector<void*> blocks_of(const Impl& impl, const exec::Plan& plan, const char* which,
                             const Side& side, std::int64_t bytes, std::int64_t block_bytes) {
  std::vector<void*> blocks;
  if (bytes == 0 && plan.key.count > 0) return blocks;  // this rank has none
  const std::int64_t n = block_bytes == 0 ? 0 : bytes / block_bytes;
  if (side.list.empty()) {
    check_buffer(impl, plan.key, which, side.whole.data, side.whole.bytes.value, bytes);
    void* const first = const_cast<void*>(side.whole.data);
    for (std::int64_t k = 0; k < n; ++k) {
      blocks.push_back(static_cast<std::byte*>(first) + k * block_bytes);
    }
    return blocks;
  }
  if (side.list.size() != impl.members.size()) {
    refuse(impl, plan.key.collective,
           std::string(which) + " has " + std::to_string(side.list.size()) +
               " buffers, needs one for each of " + std::to_string(impl.members.size()) + " ranks");
  }
  for (const auto& block : side.list) {
    check_buffer(impl, plan.key, which, block.data, block.bytes.value, block_bytes,
                 static_cast<int>(blocks.size()));
    blocks.push_back(const_cast<void*>(block.data));
  }
  return blocks;
}

}  // namespace

void check_in_place(const Impl& impl, const exec::Plan& plan, std::uintptr_t in,
                    std::uintptr_t out) {
  const std::int64_t block = plan.key.count * plan.element_bytes;
  const auto mine = static_cast<std::uintptr_t>(plan.shape.rank * block);
  const Collective collective = plan.key.collective;
  const bool in_place = gathers(collective)                   ? in == out + mine
                        : scatters(collective)                ? out == in + mine
                        : collective == Collective::kAllToAll ? false
                                                              : in == out;
  if (!in_place) refuse_overlap(impl, collective);
}

bool BlockAddresses::are_adjacent(const std::vector<void*>& blocks) const noexcept {
  const auto follows = [&](const void* a, const void* b) {
    return static_cast<const std::byte*>(a) + block_bytes == b;
  };
  return std::ranges::adjacent_find(blocks, std::not_fn(follows)) == blocks.end();
}

BlockAddresses check_lists(const Impl& impl, const exec::Plan& plan, const ConstBlocks& input,
                           const Blocks& output) {
  const Collective collective = plan.key.collective;
  BlockAddresses found;
  found.block_bytes = plan.key.count * plan.element_bytes;
  found.input = blocks_of(impl, plan, "input", input, plan.input_bytes, found.block_bytes);
  found.output = blocks_of(impl, plan, "output", output, plan.output_bytes, found.block_bytes);
  const auto mine = static_cast<std::size_t>(plan.shape.rank);
  for (std::size_t i = 0; i < found.input.size(); ++i) {
    for (std::size_t o = 0; o < found.output.size(); ++o) {
      const auto in = reinterpret_cast<std::uintptr_t>(found.input[i]);
      const auto out = reinterpret_cast<std::uintptr_t>(found.output[o]);
      const auto bytes = static_cast<std::uintptr_t>(found.block_bytes);
      if (in + bytes <= out || out + bytes <= in) continue;
      const bool is_place = gathers(collective) ? o == mine : scatters(collective) && i == mine;
      if (in != out || !is_place) refuse_overlap(impl, collective);
    }
  }
  return found;
}

namespace {

[[noreturn, gnu::cold]] void refuse_view(const Impl& impl, std::string_view call,
                                         std::string_view which) {
  throw Error(ErrorCode::kInvalidArgument,
              std::string(call) + ": " + std::string(which) +
                  " is a view, which cannot be written; give other memory" + impl.describe_self());
}

[[noreturn, gnu::cold]] void refuse_lent(const Impl& impl, std::string_view call,
                                         std::string_view which, const std::vector<Rank>& holders) {
  const auto member = std::ranges::find(impl.members, holders[0]);
  const auto rank =
      member == impl.members.end() ? holders[0] : static_cast<Rank>(member - impl.members.begin());
  std::string text = std::string(call) + ": " + std::string(which) +
                     " is in use: " + impl.context->name(rank, holders[0]);
  if (holders.size() > 1) text += " and " + std::to_string(holders.size() - 1) + " more";
  throw Error(ErrorCode::kBufferInUse,
              text + (holders.size() > 1 ? " hold" : " holds") +
                  " a view of it; let the views go there first (del), or give other memory" +
                  impl.describe_self());
}

}  // namespace

void check_writable(const Impl& impl, std::string_view call, std::string_view which,
                    const void* data, std::int64_t bytes) {
  Context& context = *impl.context;
  if (bytes == 0) return;
  if (context.arena().is_read_only(data)) refuse_view(impl, call, which);
  const memory::Offset offset = context.arena().offset_of(data, bytes);
  if (offset == memory::kNoOffset) return;
  const std::vector<Rank> holders = context.leases().holders(offset, bytes);
  if (!holders.empty()) refuse_lent(impl, call, which, holders);
}

[[gnu::cold]] void refuse_key(const Impl& impl, Collective collective, Count count, DataType dtype,
                              ReduceOp op, Rank root) {
  const auto ranks = static_cast<Rank>(impl.members.size());
  if (count.value < 0 || count.value > exec::kMaxCount) {
    refuse(impl, collective, "count " + std::to_string(count.value) + " is not in [0, 2^36)");
  }
  if (root < 0 || root >= ranks || root > exec::kMaxRoot) {
    refuse(impl, collective,
           "root " + std::to_string(root) + " is not in [0, " +
               std::to_string(std::min(ranks, exec::kMaxRoot + 1)) + ")");
  }
  refuse(impl, collective,
         std::string(name_of(op)) + " of " + std::string(name_of(dtype)) + " is not defined; " +
             (op == ReduceOp::kAvg ? "use sum and divide, or a floating type"
                                   : "use an integer type of the same size for its bits"));
}

}  // namespace shoal::comm
