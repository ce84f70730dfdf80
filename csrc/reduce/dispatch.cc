#include <algorithm>
#include <array>

#include "core/assert.h"
#include "reduce/kernel_table.h"
#include "reduce/reduce.h"

namespace shoal::reduce {

// One line for each copy of kernels.cc that CMakeLists.txt compiles.
#if defined(__x86_64__)
namespace v2 {
extern const KernelTable kTable;
}
namespace v3 {
extern const KernelTable kTable;
}
namespace v4 {
extern const KernelTable kTable;
}
#else
namespace plain {
extern const KernelTable kTable;
}
#endif

namespace {

constexpr int kMaxTables = 3;

struct Supported {
  std::array<const KernelTable*, kMaxTables> tables{};
  std::size_t count = 0;

  Supported() noexcept {
#if defined(__x86_64__)
    // Spelled out: the builtin wants a literal. It asks the operating system too (XSAVE).
    add(true, v2::kTable);  // the oldest processor shoal runs on
    add(__builtin_cpu_supports("x86-64-v3"), v3::kTable);
    add(__builtin_cpu_supports("x86-64-v4"), v4::kTable);
#else
    add(true, plain::kTable);
#endif
  }

  void add(bool supported, const KernelTable& table) noexcept {
    if (supported) tables[count++] = &table;
  }
};

/// Every target is a source.
bool is_in_place(std::span<void* const> targets, std::span<const void* const> sources) noexcept {
  return std::all_of(targets.begin(), targets.end(), [&](const void* target) {
    return std::find(sources.begin(), sources.end(), target) != sources.end();
  });
}

const KernelTable& best() noexcept {
  static const KernelTable& table = *supported_tables().back();
  return table;
}

}  // namespace

std::span<const KernelTable* const> supported_tables() noexcept {
  static const Supported supported;
  return {supported.tables.data(), supported.count};
}

const char* instruction_set() noexcept { return best().instruction_set; }

void fold(DataType dtype, ReduceOp op, std::span<void* const> targets,
          std::span<const void* const> sources, std::int64_t count, double scale,
          Stores stores) noexcept {
  SHOAL_ASSERT(!targets.empty() && !sources.empty() && count >= 0);
  SHOAL_ASSERT(supports(op, dtype) && (scale == 1.0 || !is_integer(dtype)));
  best().of(dtype, op).fold({targets.data(), static_cast<std::int64_t>(targets.size()),
                             sources.data(), static_cast<std::int64_t>(sources.size()), count,
                             scale,
                             stores == Stores::kStreaming && !is_in_place(targets, sources)});
}

Accumulate accumulator(DataType dtype, ReduceOp op) noexcept {
  SHOAL_ASSERT(supports(op, dtype));
  return best().of(dtype, op).accumulate;
}

void copy(void* target, const void* source, std::int64_t bytes, Stores stores) noexcept {
  (stores == Stores::kStreaming ? best().stream : best().copy)(target, source, bytes);
}

void scale(DataType dtype, void* dst, std::int64_t count, double scale) noexcept {
  const void* const sources[] = {dst};
  fold(dtype, ReduceOp::kSum, dst, sources, count, scale);
}

}  // namespace shoal::reduce
