#include "comm/arguments.h"

#include <algorithm>

namespace shoal::comm {

using Impl = CommunicatorImpl;

[[gnu::cold]] void refuse(const Impl& impl, Collective collective, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument,
              std::string(name_of(collective)) + ": " + what + impl.describe_self());
}

[[gnu::cold]] void refuse_buffer(const Impl& impl, const exec::PlanKey& key, const char* which,
                                 const void* data, std::int64_t given, std::int64_t needed) {
  if (given == needed && data == nullptr) {
    refuse(impl, key.collective, std::string(which) + " is null");
  }
  refuse(impl, key.collective,
         std::string(which) + " has " + std::to_string(given) + " bytes, needs " +
             std::to_string(needed) + " (count " + std::to_string(key.count) + " x " +
             std::string(name_of(key.dtype)) + ")");
}

void check_in_place(const Impl& impl, const exec::Plan& plan, std::uintptr_t in,
                    std::uintptr_t out) {
  const std::int64_t block = plan.key.count * plan.element_bytes;
  const auto mine = static_cast<std::uintptr_t>(plan.shape.rank * block);
  const Collective collective = plan.key.collective;
  const bool gathers = collective == Collective::kAllGather || collective == Collective::kGather;
  const bool scatters =
      collective == Collective::kReduceScatter || collective == Collective::kScatter;
  const bool in_place = gathers                               ? in == out + mine
                        : scatters                            ? out == in + mine
                        : collective == Collective::kAllToAll ? false
                                                              : in == out;
  if (in_place) return;
  const std::string form = gathers    ? "in place means input == output[rank]"
                           : scatters ? "in place means output == input[rank]"
                           : collective == Collective::kAllToAll ? "it has no in-place form"
                                                                 : "in place means input == output";
  refuse(impl, collective,
         "input and output overlap; " + form + "; otherwise give separate memory");
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
