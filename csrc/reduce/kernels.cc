/// Plain loops, compiled once per instruction set (SHOAL_KERNELS names the copy, e.g. v3) and left
/// to the compiler's vectoriser. Chosen at run time by dispatch.cc.
///
/// Nothing here may come from a header with inline functions: the linker would keep one copy of
/// such a function for the whole library, perhaps the one compiled for a newer processor.
/// -ffp-contract=off (CMakeLists.txt): a fused multiply-add would give other bits than v2 has.
///
/// A fold of k sources runs block by block. A block's partial results stay in a small array on the
/// stack, so each source is read once, dst is written once, dst may be any one of the sources, and
/// 16-bit floats accumulate in float32 and round once. Loads and stores go through memcpy: the
/// user's arrays need not be aligned.
#include <stdint.h>
#include <string.h>

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "reduce/kernel_table.h"

#ifdef __clang__
#define SHOAL_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define SHOAL_INDEPENDENT _Pragma("GCC ivdep")  // else dst == source falls to the scalar loop
#endif

namespace shoal::reduce::SHOAL_KERNELS {
namespace {

// 512 elements: 2 KiB of float32 for each of two blocks, which leaves L1 to the sources.
constexpr int64_t kBlock = 512;

template <class T>
T load(const void* from, int64_t i) noexcept {
  T value;
  memcpy(&value, static_cast<const char*>(from) + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <class T>
void store(void* to, int64_t i, T value) noexcept {
  memcpy(static_cast<char*>(to) + i * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

const void* advance(const void* p, int64_t bytes) noexcept {
  return static_cast<const char*>(p) + bytes;
}

// ---- operations. Signed integers are handled as unsigned ones where they wrap around.

struct Sum {
  template <class T>
  static T apply(T a, T b) noexcept {
    return static_cast<T>(a + b);
  }
};

struct Prod {
  template <class T>
  static T apply(T a, T b) noexcept {
    return static_cast<T>(a * b);
  }
};

// IEEE 754-2019 minimum and maximum: a NaN on either side is the result, and -0 < +0, so that the
// result does not depend on the order of the sources. a != a: a is NaN; a NaN in b fails a < b.

template <class T>
T when_equal(T a, T, bool) noexcept {
  return a;
}
template <>
float when_equal(float a, float b, bool is_min) noexcept {
  const auto x = __builtin_bit_cast(uint32_t, a), y = __builtin_bit_cast(uint32_t, b);
  return __builtin_bit_cast(float, is_min ? x | y : x& y);  // differ in the sign of zero at most
}
template <>
double when_equal(double a, double b, bool is_min) noexcept {
  const auto x = __builtin_bit_cast(uint64_t, a), y = __builtin_bit_cast(uint64_t, b);
  return __builtin_bit_cast(double, is_min ? x | y : x& y);
}

struct Min {
  template <class T>
  static T apply(T a, T b) noexcept {
    const T chosen = (a < b || a != a) ? a : b;
    return a == b ? when_equal(a, b, true) : chosen;
  }
};

struct Max {
  template <class T>
  static T apply(T a, T b) noexcept {
    const T chosen = (a > b || a != a) ? a : b;
    return a == b ? when_equal(a, b, false) : chosen;
  }
};

// ---- float32, float64 and integers: the accumulator has the type of the elements.

template <class T>
T scaled(T value, double scale) noexcept {
  return static_cast<T>(static_cast<double>(value) * scale);
}

template <class T>
void scale_all(void* dst, const void* source, int64_t count, double scale) noexcept {
  SHOAL_INDEPENDENT
  for (int64_t i = 0; i < count; ++i) store<T>(dst, i, scaled(load<T>(source, i), scale));
}

template <class T, class Op>
void fold_two(void* dst, const void* a, const void* b, int64_t count) noexcept {
  SHOAL_INDEPENDENT
  for (int64_t i = 0; i < count; ++i) store<T>(dst, i, Op::apply(load<T>(a, i), load<T>(b, i)));
}

/// One block of k >= 3 sources that begin `offset` bytes into each; two sources a pass.
template <class T, class Op>
void fold_block(void* dst, const void* const* sources, int64_t k, int64_t offset,
                int64_t count) noexcept {
  T sums[kBlock];
  fold_two<T, Op>(sums, advance(sources[0], offset), advance(sources[1], offset), count);
  int64_t s = 2;
  for (; s + 2 < k; s += 2) {
    const void* const a = advance(sources[s], offset);
    const void* const b = advance(sources[s + 1], offset);
    SHOAL_INDEPENDENT
    for (int64_t i = 0; i < count; ++i)
      sums[i] = Op::apply(Op::apply(sums[i], load<T>(a, i)), load<T>(b, i));
  }
  for (; s + 1 < k; ++s) fold_two<T, Op>(sums, sums, advance(sources[s], offset), count);
  fold_two<T, Op>(dst, sums, advance(sources[s], offset), count);
}

template <class T, class Op>
void fold_wide(void* dst, const void* const* sources, int64_t k, int64_t count,
               double scale) noexcept {
  if (k == 1 && scale != 1.0) return scale_all<T>(dst, sources[0], count, scale);
  if (count == 0) return;  // an empty array may be at a null address, which memmove must not see
  if (k == 1) return static_cast<void>(memmove(dst, sources[0], count * sizeof(T)));
  if (k == 2 && scale == 1.0) return fold_two<T, Op>(dst, sources[0], sources[1], count);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = count - begin < kBlock ? count - begin : kBlock;
    const int64_t offset = begin * static_cast<int64_t>(sizeof(T));
    char* const out = static_cast<char*>(dst) + offset;
    if (k == 2) {
      fold_two<T, Op>(out, advance(sources[0], offset), advance(sources[1], offset), n);
    } else {
      fold_block<T, Op>(out, sources, k, offset, n);
    }
    if (scale != 1.0) scale_all<T>(out, out, n, scale);  // while the block is in L1
  }
}

// ---- float16 and bfloat16: widened to float32, folded there, rounded once to nearest even.

struct Bfloat16 {
  static void widen(float* to, const void* from, int64_t count) noexcept {
    SHOAL_INDEPENDENT
    for (int64_t i = 0; i < count; ++i)
      to[i] = __builtin_bit_cast(float, static_cast<uint32_t>(load<uint16_t>(from, i)) << 16);
  }

  static void narrow(void* to, const float* from, int64_t count) noexcept {
    SHOAL_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) {
      const auto bits = __builtin_bit_cast(uint32_t, from[i]);
      const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);  // carries into infinity
      const uint32_t quiet =
          bits | 0x400000;  // a NaN whose payload lies below must not be infinity
      store(to, i, static_cast<uint16_t>((from[i] != from[i] ? quiet : rounded) >> 16));
    }
  }
};

struct Float16 {
  static void widen(float* to, const void* from, int64_t count) noexcept {
    int64_t i = 0;
#ifdef __F16C__  // g++ 12 converts one at a time otherwise
    for (; i + 8 <= count; i += 8)
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(load<__m128i>(advance(from, i * 2), 0)));
#endif
    for (; i < count; ++i) to[i] = static_cast<float>(load<_Float16>(from, i));
  }

  static void narrow(void* to, const float* from, int64_t count) noexcept {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8)
      store(static_cast<char*>(to) + i * 2, 0,
            _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < count; ++i) store(to, i, static_cast<_Float16>(from[i]));
  }
};

template <class Half, class Op>
void fold_half(void* dst, const void* const* sources, int64_t k, int64_t count,
               double scale) noexcept {
  float sums[kBlock], next[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = count - begin < kBlock ? count - begin : kBlock;
    Half::widen(sums, advance(sources[0], begin * 2), n);
    for (int64_t s = 1; s < k; ++s) {  // two loops: g++ 12 vectorises neither in one
      Half::widen(next, advance(sources[s], begin * 2), n);
      fold_two<float, Op>(sums, sums, next, n);
    }
    if (scale != 1.0) scale_all<float>(sums, sums, n, scale);
    Half::narrow(static_cast<char*>(dst) + begin * 2, sums, n);
  }
}

}  // namespace

// Integers of either sign have the same sums and products; their order differs.
extern const KernelTable kTable;
const KernelTable kTable = {
    SHOAL_INSTRUCTION_SET,
    {
        {fold_wide<float, Sum>, fold_wide<float, Prod>, fold_wide<float, Min>,
         fold_wide<float, Max>},
        {fold_wide<double, Sum>, fold_wide<double, Prod>, fold_wide<double, Min>,
         fold_wide<double, Max>},
        {fold_wide<uint32_t, Sum>, fold_wide<uint32_t, Prod>, fold_wide<int32_t, Min>,
         fold_wide<int32_t, Max>},
        {fold_wide<uint64_t, Sum>, fold_wide<uint64_t, Prod>, fold_wide<int64_t, Min>,
         fold_wide<int64_t, Max>},
        {fold_wide<uint8_t, Sum>, fold_wide<uint8_t, Prod>, fold_wide<uint8_t, Min>,
         fold_wide<uint8_t, Max>},
        {fold_half<Float16, Sum>, fold_half<Float16, Prod>, fold_half<Float16, Min>,
         fold_half<Float16, Max>},
        {fold_half<Bfloat16, Sum>, fold_half<Bfloat16, Prod>, fold_half<Bfloat16, Min>,
         fold_half<Bfloat16, Max>},
    },
};

}  // namespace shoal::reduce::SHOAL_KERNELS
