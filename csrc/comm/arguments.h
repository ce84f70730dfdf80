/// What a call is given, checked before anything is posted: each function throws InvalidArgument
/// (if it says nothing else) that says what was expected and what came.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "comm/impl.h"

namespace shoal::comm {

[[noreturn]] void refuse(const CommunicatorImpl& impl, Collective collective,
                         const std::string& what);

/// Where a rank has no input (or output) what it gives is not looked at.
void check_buffer(const CommunicatorImpl& impl, const exec::PlanKey& key, const char* which,
                  const void* data, std::int64_t given, std::int64_t needed);

/// Where in the output the input may lie, or in the input the output: exactly, or not at all.
void check_overlap(const CommunicatorImpl& impl, const exec::Plan& plan, const void* input,
                   const void* output);

/// What is to be written lies in nobody's view and is lent to nobody: BufferInUse names the holder.
/// `call` and `which` begin the text: "all_reduce", "output". Not needed while there are no views:
/// Context::has_views().
void check_writable(const CommunicatorImpl& impl, std::string_view call, std::string_view which,
                    const void* data, std::int64_t bytes);

exec::PlanKey make_key(const CommunicatorImpl& impl, Collective collective, Count count,
                       DataType dtype, ReduceOp op, Rank root, bool deterministic);

std::int64_t timeout_ms(const CommunicatorImpl& impl, const CallOptions& options);

}  // namespace shoal::comm
