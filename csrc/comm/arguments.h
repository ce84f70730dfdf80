/// What a call is given, checked before anything is posted: each function throws InvalidArgument
/// (if it says nothing else) that says what was expected and what came.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "comm/impl.h"

namespace shoal::comm {

[[noreturn]] void refuse(const CommunicatorImpl& impl, Collective collective,
                         const std::string& what);

[[noreturn]] void refuse_buffer(const CommunicatorImpl& impl, const exec::PlanKey& key,
                                const char* which, const void* data, std::int64_t given,
                                std::int64_t needed, int place);
/// Where a rank has no input (or output) what it gives is not looked at. `place`: of a list's
/// buffer.
inline void check_buffer(const CommunicatorImpl& impl, const exec::PlanKey& key, const char* which,
                         const void* data, std::int64_t given, std::int64_t needed,
                         int place = -1) {
  if (needed > 0 && (given != needed || data == nullptr)) {
    refuse_buffer(impl, key, which, data, given, needed, place);
  }
}

/// The two buffers have bytes in common.
void check_in_place(const CommunicatorImpl& impl, const exec::Plan& plan, std::uintptr_t in,
                    std::uintptr_t out);
/// Where in the output the input may lie, or in the input the output: exactly, or not at all.
inline void check_overlap(const CommunicatorImpl& impl, const exec::Plan& plan, const void* input,
                          const void* output) {
  if (plan.input_bytes == 0 || plan.output_bytes == 0) return;
  const auto in = reinterpret_cast<std::uintptr_t>(input);
  const auto out = reinterpret_cast<std::uintptr_t>(output);
  const bool disjoint = in + plan.input_bytes <= out || out + plan.output_bytes <= in;
  if (!disjoint) check_in_place(impl, plan, in, out);
}

/// Where each block of a call's input and output lies. Of a rank that has none of one: none.
struct BlockAddresses {
  std::int64_t block_bytes = 0;
  std::vector<void*> input, output;

  /// One behind the other: no list is needed.
  [[nodiscard]] bool are_adjacent(const std::vector<void*>& blocks) const noexcept;
};
/// All of the above of a call with a list.
[[nodiscard]] BlockAddresses check_lists(const CommunicatorImpl& impl, const exec::Plan& plan,
                                         const ConstBlocks& input, const Blocks& output);

/// What is to be written lies in nobody's view and is lent to nobody: BufferInUse names the holder.
/// `call` and `which` begin the text: "all_reduce", "output". Not needed while there are no views:
/// Context::has_views().
void check_writable(const CommunicatorImpl& impl, std::string_view call, std::string_view which,
                    const void* data, std::int64_t bytes);

[[noreturn]] void refuse_key(const CommunicatorImpl& impl, Collective collective, Count count,
                             DataType dtype, ReduceOp op, Rank root);
inline exec::PlanKey make_key(const CommunicatorImpl& impl, Collective collective, Count count,
                              DataType dtype, ReduceOp op, Rank root, bool deterministic,
                              bool device = false) {
  const auto ranks = static_cast<Rank>(impl.members.size());
  if (count.value < 0 || count.value > exec::kMaxCount || root < 0 || root >= ranks ||
      root > exec::kMaxRoot || (reduces(collective) && !supports(op, dtype))) {
    refuse_key(impl, collective, count, dtype, op, root);
  }
  exec::PlanKey key;
  key.collective = collective;
  key.dtype = dtype;
  key.op = reduces(collective) ? op : ReduceOp::kSum;
  // Kernels always are.
  key.deterministic = deterministic && reduces(collective) && !(device && impl.has_kernels());
  key.device = device;
  key.root = static_cast<std::uint16_t>(root);
  key.count = count.value;
  return key;
}

inline std::int64_t timeout_ms(const CommunicatorImpl& impl, const CallOptions& options) {
  return options.timeout_ms > 0 ? options.timeout_ms : impl.context->options().timeout_ms;
}

}  // namespace shoal::comm
