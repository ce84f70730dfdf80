/// Plain loops, compiled once per instruction set (SHOAL_KERNELS names the copy, e.g. v3) and left
/// to the compiler's vectoriser. Chosen at run time by dispatch.cc.
///
/// Nothing here may come from a header with inline functions: the linker would keep one copy of
/// such a function for the whole library, perhaps the one compiled for a newer processor.
/// -ffp-contract=off (CMakeLists.txt): a fused multiply-add would give other bits than v2 has.
///
/// A fold of k sources runs block by block. A block's partial results stay in a small array on the
/// stack, so each source is read once, each target is written once, a target may be any one of the
/// sources, and small floats accumulate in float32 and round once. Loads and stores go through
/// memcpy: the user's arrays need not be aligned.
#include <stdint.h>
#include <string.h>

#ifdef __x86_64__
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

// Elements whose partial results are kept at a time. 512, but of narrow types as many as fill 2
// KiB: little beside L1, which is left to the sources, and much beside what a block costs to begin.
template <class T>
constexpr int64_t kBlock = sizeof(T) < sizeof(float) ? 2048 / sizeof(T) : 512;
// Where stores stream: so few that the processor, which looks ahead about as far, loads the next
// block while it stores this one (two sources, two targets: 14 to 17 % faster than with 2 KiB).
template <class T>
constexpr int64_t kStreamBlock = 512 / sizeof(T);

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
void* advance(void* p, int64_t bytes) noexcept { return static_cast<char*>(p) + bytes; }

// ---- stores past the caches. Whole cache lines of aligned targets; the rest as usual.

constexpr int64_t kLine = 64;

/// Bytes before the next line.
int64_t head_of(const void* p) noexcept {
  return static_cast<int64_t>(-reinterpret_cast<uintptr_t>(p) & (kLine - 1));
}

void stream_line(char* to, const char* from) noexcept {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), load<__m512i>(from, 0));
#elif defined(__AVX__)
  for (int64_t i = 0; i < 2; ++i)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + i, load<__m256i>(from, i));
#elif defined(__x86_64__)
  for (int64_t i = 0; i < 4; ++i)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, load<__m128i>(from, i));
#else
  memcpy(to, from, kLine);
#endif
}

/// Not libc's memcpy, which is one `rep movsb` from 2 KiB on: where lines have to come from another
/// core that takes up to twice as long (256 KiB, 1 MiB on a Xeon with AVX-512).
void copy_lines(void* target, const void* source, int64_t bytes) noexcept {
  char* to = static_cast<char*>(target);
  const char* from = static_cast<const char*>(source);
  using Line = char __attribute__((vector_size(kLine)));
  constexpr int64_t kStep = 4 * kLine;
  int64_t at = 0;
  for (; at + kStep <= bytes; at += kStep) {
    const Line a = load<Line>(from + at, 0), b = load<Line>(from + at, 1);
    const Line c = load<Line>(from + at, 2), d = load<Line>(from + at, 3);
    store(to + at, 0, a), store(to + at, 1, b), store(to + at, 2, c), store(to + at, 3, d);
  }
  if (at < bytes) memcpy(to + at, from + at, bytes - at);  // of no bytes, at null addresses
}

/// Without the fence.
void stream_bytes(void* target, const void* source, int64_t bytes) noexcept {
  if (bytes == 0) return;  // maybe at null addresses
  char* to = static_cast<char*>(target);
  const char* from = static_cast<const char*>(source);
  int64_t at = head_of(to) < bytes ? head_of(to) : bytes;
  memcpy(to, from, at);
  for (; at + 4 * kLine <= bytes; at += 4 * kLine) {
    for (int64_t i = 0; i < 4; ++i) stream_line(to + at + i * kLine, from + at + i * kLine);
  }
  for (; at + kLine <= bytes; at += kLine) stream_line(to + at, from + at);
  memcpy(to + at, from + at, bytes - at);
}

/// Streaming stores are weakly ordered: this orders them before the flag that tells of them.
void finish_stream() noexcept {
#ifdef __x86_64__
  _mm_sfence();
#endif
}

void stream_copy(void* target, const void* source, int64_t bytes) noexcept {
  stream_bytes(target, source, bytes);
  finish_stream();
}

// ---- operations. Signed integers are handled as unsigned ones where they wrap around.

template <class T>
constexpr bool kIsInteger = static_cast<T>(0.5) == 0;

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
/// As ints, which they would be promoted to, 65535 * 65535 is too large.
template <>
uint16_t Prod::apply(uint16_t a, uint16_t b) noexcept {
  return static_cast<uint16_t>(static_cast<uint32_t>(a) * b);
}

// IEEE 754-2019 minimum and maximum: a NaN on either side is the result, and -0 < +0, so that the
// result does not depend on the order of the sources. a != a: a is NaN; a NaN in b fails a < b.

float when_equal(float a, float b, bool is_min) noexcept {
  const auto x = __builtin_bit_cast(uint32_t, a), y = __builtin_bit_cast(uint32_t, b);
  return __builtin_bit_cast(float, is_min ? x | y : x& y);  // differ in the sign of zero at most
}
double when_equal(double a, double b, bool is_min) noexcept {
  const auto x = __builtin_bit_cast(uint64_t, a), y = __builtin_bit_cast(uint64_t, b);
  return __builtin_bit_cast(double, is_min ? x | y : x& y);
}

struct Min {
  template <class T>
  static T apply(T a, T b) noexcept {
    if constexpr (kIsInteger<T>) {
      return a < b ? a : b;  // one instruction
    } else {
      const T chosen = (a < b || a != a) ? a : b;
      return a == b ? when_equal(a, b, true) : chosen;
    }
  }
};

struct Max {
  template <class T>
  static T apply(T a, T b) noexcept {
    if constexpr (kIsInteger<T>) {
      return a > b ? a : b;  // one instruction
    } else {
      const T chosen = (a > b || a != a) ? a : b;
      return a == b ? when_equal(a, b, false) : chosen;
    }
  }
};

struct Band {
  template <class T>
  static T apply(T a, T b) noexcept {
    return static_cast<T>(a & b);
  }
};

struct Bor {
  template <class T>
  static T apply(T a, T b) noexcept {
    return static_cast<T>(a | b);
  }
};

struct Bxor {
  template <class T>
  static T apply(T a, T b) noexcept {
    return static_cast<T>(a ^ b);
  }
};

// ---- float32, float64 and integers: the accumulator has the type of the elements.

/// Integers never are: their kernels are smaller for it.
template <class T>
bool scales(const FoldArguments& f) noexcept {
  return !kIsInteger<T> && f.scale != 1.0;
}

template <class T>
T scaled(T value, double scale) noexcept {
  return static_cast<T>(static_cast<double>(value) * scale);
}

template <class T>
void scale_all(void* dst, const void* source, int64_t count, double scale) noexcept {
  SHOAL_INDEPENDENT
  for (int64_t i = 0; i < count; ++i) store<T>(dst, i, scaled(load<T>(source, i), scale));
}

/// The same to two places.
template <class T, class Op>
void fold_two_to_two(void* dst, void* other, const void* a, const void* b, int64_t count) noexcept {
  SHOAL_INDEPENDENT
  for (int64_t i = 0; i < count; ++i) {
    const T value = Op::apply(load<T>(a, i), load<T>(b, i));
    store<T>(dst, i, value);
    store<T>(other, i, value);
  }
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
  T sums[kBlock<T>];
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

/// `n` elements from `offset` bytes on, to one place.
template <class T, class Op>
void fold_part(void* dst, const FoldArguments& f, int64_t offset, int64_t n) noexcept {
  const void* const first = advance(f.sources[0], offset);
  if (f.source_count == 1) {
    if (scales<T>(f)) return scale_all<T>(dst, first, n, f.scale);
    return static_cast<void>(memmove(dst, first, n * sizeof(T)));
  }
  if (f.source_count == 2) {
    fold_two<T, Op>(dst, first, advance(f.sources[1], offset), n);
  } else {
    fold_block<T, Op>(dst, f.sources, f.source_count, offset, n);
  }
  if (scales<T>(f)) scale_all<T>(dst, dst, n, f.scale);  // while the block is in L1
}

/// To each target, from a block in L1.
void store_block(const FoldArguments& f, int64_t offset, const void* block,
                 int64_t bytes) noexcept {
  for (int64_t t = 0; t < f.target_count; ++t) {
    void* const to = advance(f.targets[t], offset);
    if (f.streams) {
      stream_bytes(to, block, bytes);
    } else {
      memcpy(to, block, bytes);
    }
  }
}

/// Calls part(offset in bytes, elements) for one block of `elements` after another. Where stores
/// stream, the first one is so short that the others begin at a cache line of the first target.
template <class T, class Part>
void for_blocks(const FoldArguments& f, int64_t elements, Part&& part) noexcept {
  constexpr int64_t kSize = sizeof(T);
  const int64_t head = f.streams ? head_of(f.targets[0]) : 0;
  int64_t begin = 0;
  int64_t next = head % kSize == 0 && head > 0 ? head / kSize : elements;
  while (begin < f.count) {
    if (next > f.count) next = f.count;
    part(begin * kSize, next - begin);
    begin = next;
    next += elements;
  }
}

template <class T, class Op>
void fold_wide(const FoldArguments& f) noexcept {
  if (f.count == 0) return;  // an empty array may be at a null address, which memmove must not see
  if (f.target_count == 1 && !f.streams) {
    // Two sources and no scale need no blocks.
    if (f.source_count <= 2 && !scales<T>(f)) {
      return fold_part<T, Op>(f.targets[0], f, 0, f.count);
    }
    return for_blocks<T>(f, kBlock<T>, [&](int64_t offset, int64_t n) noexcept {
      fold_part<T, Op>(advance(f.targets[0], offset), f, offset, n);
    });
  }
  if (f.target_count == 2 && f.source_count == 2 && !scales<T>(f) && !f.streams) {
    return fold_two_to_two<T, Op>(f.targets[0], f.targets[1], f.sources[0], f.sources[1], f.count);
  }
  alignas(kLine) T block[kBlock<T>];
  for_blocks<T>(f, f.streams ? kStreamBlock<T> : kBlock<T>,
                [&](int64_t offset, int64_t n) noexcept {
                  fold_part<T, Op>(block, f, offset, n);
                  store_block(f, offset, block, n * static_cast<int64_t>(sizeof(T)));
                });
  if (f.streams) finish_stream();
}

template <class T, class Op>
void accumulate_wide(void* target, const void* source, int64_t count) noexcept {
  fold_two<T, Op>(target, target, source, count);
}

// ---- bits do not know where elements end: one kernel for all widths of integers.

template <int64_t kSize, class Op>
void fold_bits(const FoldArguments& f) noexcept {
  FoldArguments bytes = f;
  bytes.count *= kSize;
  fold_wide<uint8_t, Op>(bytes);
}

template <int64_t kSize, class Op>
void accumulate_bits(void* target, const void* source, int64_t count) noexcept {
  accumulate_wide<uint8_t, Op>(target, source, count * kSize);
}

// ---- floats smaller than float32: widened to it, folded there, rounded once to nearest even.

struct Bfloat16 {
  using Element = uint16_t;
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
  using Element = uint16_t;
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

/// Bits of float8: sign, exponent with `kBias`, `kMantissa` bits. Magnitudes from `kSpecial` on are
/// no numbers (infinity, if there is one, is the first of them); `kOverflow` is what a number
/// becomes that is too large, also an infinity. Without float32's subnormal numbers, which are slow
/// and which some programs flush to zero. Not inlined: once a block is not often, and 8 kernels
/// share them.
template <int kMantissa, int kBias, int kSpecial, int kOverflow>
struct Float8 {
  using Element = uint8_t;
  static constexpr int kShift = 23 - kMantissa;            // to float32's mantissa
  static constexpr int32_t kRebias = (127 - kBias) << 23;  // to float32's exponent
  static constexpr int32_t kNormal = 1 << kMantissa;       // the smallest normal number
  static constexpr int32_t kInfinity = 0x7f800000;         // float32's

  /// 2 to the power of `exponent`.
  static float power(int exponent) noexcept {
    return __builtin_bit_cast(float, (127 + exponent) << 23);
  }

  /// All ones if a < b, else 0. Of a comparison g++ 12 makes branches here, which only AVX-512
  /// takes back.
  static int32_t less(int32_t a, int32_t b) noexcept { return (a - b) >> 31; }

  [[gnu::noinline]] static void widen(float* to, const void* from, int64_t count) noexcept {
    const float unit = power(1 - kBias - kMantissa);  // of subnormal numbers
    SHOAL_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) {
      const int32_t bits = load<uint8_t>(from, i);
      const int32_t magnitude = bits & 0x7f;
      const int32_t normal = (magnitude << kShift) + kRebias;
      const int32_t tiny = __builtin_bit_cast(int32_t, static_cast<float>(magnitude) * unit);
      const int32_t is_tiny = less(magnitude, kNormal);
      const int32_t number = (tiny & is_tiny) | (normal & ~is_tiny);
      const int32_t special = kInfinity & ~less(magnitude, kSpecial);
      const uint32_t sign = static_cast<uint32_t>(bits & 0x80) << 24;
      to[i] = __builtin_bit_cast(float, static_cast<uint32_t>(number | special) | sign);
    }
  }

  [[gnu::noinline]] static void narrow(void* to, const float* from, int64_t count) noexcept {
    // Added to a smaller number, its last place is float8's: the sum is rounded there.
    const float rounder = power(24 - kBias - kMantissa);
    const int32_t rounder_bits = __builtin_bit_cast(int32_t, rounder);
    SHOAL_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) {
      const auto bits = __builtin_bit_cast(uint32_t, from[i]);
      const auto magnitude = static_cast<int32_t>(bits & 0x7fffffff);
      const int32_t half = (1 << (kShift - 1)) - 1 + ((magnitude >> kShift) & 1);
      const int32_t normal = (magnitude - kRebias + half) >> kShift;  // carries into the exponent
      const float sum = __builtin_bit_cast(float, magnitude) + rounder;
      const int32_t tiny = __builtin_bit_cast(int32_t, sum) - rounder_bits;
      const int32_t is_tiny = less(magnitude, kRebias + (kNormal << kShift));
      const int32_t number = (tiny & is_tiny) | (normal & ~is_tiny);
      const int32_t finite = number < kOverflow ? number : kOverflow;
      const int32_t code = finite | (0x7f & less(kInfinity, magnitude));
      store(to, i, static_cast<uint8_t>(static_cast<uint32_t>(code) | (bits >> 24 & 0x80)));
    }
  }
};
using Float8E4m3 = Float8<3, 7, 0x7f, 0x7e>;
using Float8E5m2 = Float8<2, 15, 0x7c, 0x7c>;

template <class Small, class Op>
void fold_small(const FoldArguments& f) noexcept {
  using Element = typename Small::Element;
  float sums[kBlock<float>], next[kBlock<float>];
  alignas(kLine) Element block[kBlock<float>];
  const bool direct = f.target_count == 1 && !f.streams;
  for_blocks<Element>(f, kBlock<float>, [&](int64_t offset, int64_t n) noexcept {
    Small::widen(sums, advance(f.sources[0], offset), n);
    for (int64_t s = 1; s < f.source_count; ++s) {  // two loops: g++ 12 vectorises neither in one
      Small::widen(next, advance(f.sources[s], offset), n);
      fold_two<float, Op>(sums, sums, next, n);
    }
    if (f.scale != 1.0) scale_all<float>(sums, sums, n, f.scale);
    Small::narrow(direct ? advance(f.targets[0], offset) : block, sums, n);
    if (!direct) store_block(f, offset, block, n * static_cast<int64_t>(sizeof(Element)));
  });
  if (f.streams) finish_stream();
}

template <class Small, class Op>
void accumulate_small(void* target, const void* source, int64_t count) noexcept {
  const void* const sources[] = {target, source};
  fold_small<Small, Op>({&target, 1, sources, 2, count, 1.0, false});
}

// ---- the table

template <class T, class Op>
constexpr OpKernels kWide = {fold_wide<T, Op>, accumulate_wide<T, Op>};
template <class T, class Op>
constexpr OpKernels kBits = {fold_bits<sizeof(T), Op>, accumulate_bits<sizeof(T), Op>};
template <class Small, class Op>
constexpr OpKernels kSmall = {fold_small<Small, Op>, accumulate_small<Small, Op>};
constexpr OpKernels kNone = {nullptr, nullptr};

template <class T>
constexpr KernelRow kFloats = {{kWide<T, Sum>, kWide<T, Prod>, kWide<T, Min>, kWide<T, Max>,
                                kWide<T, Sum>, kNone, kNone, kNone}};

template <class Small>
constexpr KernelRow kSmalls = {{kSmall<Small, Sum>, kSmall<Small, Prod>, kSmall<Small, Min>,
                                kSmall<Small, Max>, kSmall<Small, Sum>, kNone, kNone, kNone}};

/// Integers of either sign share sums and products; their order differs.
template <class T, class Unsigned>
constexpr KernelRow kIntegers = {{kWide<Unsigned, Sum>, kWide<Unsigned, Prod>, kWide<T, Min>,
                                  kWide<T, Max>, kNone, kBits<T, Band>, kBits<T, Bor>,
                                  kBits<T, Bxor>}};

}  // namespace

extern const KernelTable kTable;
const KernelTable kTable = {
    SHOAL_INSTRUCTION_SET,
    copy_lines,
    stream_copy,
    {
        kFloats<float>,
        kFloats<double>,
        kIntegers<int32_t, uint32_t>,
        kIntegers<int64_t, uint64_t>,
        kIntegers<uint8_t, uint8_t>,
        kSmalls<Float16>,
        kSmalls<Bfloat16>,
        kIntegers<int8_t, uint8_t>,
        kIntegers<int16_t, uint16_t>,
        kIntegers<uint16_t, uint16_t>,
        kIntegers<uint32_t, uint32_t>,
        kIntegers<uint64_t, uint64_t>,
        kSmalls<Float8E4m3>,
        kSmalls<Float8E5m2>,
    },
};

}  // namespace shoal::reduce::SHOAL_KERNELS
