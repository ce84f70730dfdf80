#include "comm/report.h"

#include <cstdio>

namespace shoal::comm {

namespace {

constexpr ReduceOp kViewOp = ReduceOp::kMax;  // other calls that do not reduce say kSum

}  // namespace

exec::PlanKey view_key(std::int64_t bytes) noexcept {
  exec::PlanKey key;
  key.collective = Collective::kAllGather;
  key.op = kViewOp;
  key.count = bytes;
  return key;
}

std::string describe(const exec::PlanKey& key) {
  std::string text(name_of(key.collective));
  if (key.collective == Collective::kBarrier) return text + (key.device ? "(CUDA)" : "");
  if (key.collective == Collective::kAllGather && key.op == kViewOp) {
    return "broadcast or all_gather with view=True";
  }
  text += "(count " + std::to_string(key.count) + ", " + std::string(name_of(key.dtype));
  if (reduces(key.collective)) text += ", " + std::string(name_of(key.op));
  if (has_root(key.collective)) text += ", root " + std::to_string(key.root);
  if (key.deterministic) text += ", deterministic";
  if (key.device) text += ", CUDA";
  return text + ")";
}

std::string describe_bytes(std::int64_t bytes) {
  if (bytes < 10'000) return std::to_string(bytes) + " bytes";
  const char* const units[] = {"KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes) / 1024;
  int unit = 0;
  for (; value >= 1024 && unit < 3; ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %s", value, units[unit]);
  return text;
}

std::string describe_ms(std::int64_t ms) {
  char text[32];
  if (ms < 1000) {
    std::snprintf(text, sizeof text, "%lld ms", static_cast<long long>(ms));
  } else {
    std::snprintf(text, sizeof text, "%.1f s", static_cast<double>(ms) / 1000);
  }
  return text;
}

std::string describe_mismatch(std::uint32_t communicator, std::uint64_t sequence, Rank a,
                              std::uint64_t fingerprint_a, Rank b, std::uint64_t fingerprint_b) {
  if (b < a) {
    std::swap(a, b);
    std::swap(fingerprint_a, fingerprint_b);
  }
  return "ranks called different things as #" + std::to_string(sequence) + " of communicator " +
         std::to_string(communicator) + ": rank " + std::to_string(a) + " called " +
         describe(exec::key_of(fingerprint_a)) + ", rank " + std::to_string(b) + " called " +
         describe(exec::key_of(fingerprint_b)) +
         "; all ranks must issue the same collectives in the same order";
}

}  // namespace shoal::comm
