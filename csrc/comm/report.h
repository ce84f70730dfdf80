/// The texts users read. Made when something has gone wrong, never on the data path.
#pragma once

#include <cstdint>
#include <string>

#include "exec/plan.h"
#include "shoal/types.h"

namespace shoal::comm {

/// The key of the exchange behind a view: an all_gather of `bytes` from each rank whose op, which
/// an all_gather has none of, keeps it apart from one that a user has called.
exec::PlanKey view_key(std::int64_t bytes) noexcept;

/// "all_reduce(count 1024, float32, sum)".
std::string describe(const exec::PlanKey& key);
/// "4096 bytes", "1.5 GiB".
std::string describe_bytes(std::int64_t bytes);
/// "1.5 s", "20 ms".
std::string describe_ms(std::int64_t ms);

/// "ranks called different things as #5 of communicator 0: rank 0 ..., rank 1 ...".
std::string describe_mismatch(std::uint32_t communicator, std::uint64_t sequence, Rank a,
                              std::uint64_t fingerprint_a, Rank b, std::uint64_t fingerprint_b);

}  // namespace shoal::comm
