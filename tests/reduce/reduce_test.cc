// Every kernel of every instruction set this processor has, against arithmetic written another way:
// doubles rounded by nearbyint() to the format's grid, integers in 128 bits.
#include "reduce/reduce.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "reduce/kernel_table.h"

namespace shoal::reduce {
namespace {

using Array = std::vector<unsigned char>;  // elements as bytes: may be looked at from odd addresses

// Whatever is in the enumerations is tested: there are no lists to forget a new one in.
std::vector<DataType> all_types() {
  std::vector<DataType> types;
  for (int i = 0; i < kDataTypes; ++i) types.push_back(static_cast<DataType>(i));
  return types;
}

std::vector<DataType> floats() {
  std::vector<DataType> types = all_types();
  std::erase_if(types, is_integer);
  return types;
}

std::vector<ReduceOp> all_ops() {
  std::vector<ReduceOp> ops;
  for (int i = 0; i < kReduceOps; ++i) ops.push_back(static_cast<ReduceOp>(i));
  return ops;
}

std::vector<ReduceOp> ops_of(DataType dtype) {
  std::vector<ReduceOp> ops = all_ops();
  std::erase_if(ops, [dtype](ReduceOp op) { return !supports(op, dtype); });
  return ops;
}

__extension__ using Wide = __int128;  // holds every element, and every sum of two
__extension__ using UnsignedWide = unsigned __int128;

// ---- the reference: formats

struct Format {
  int mantissa;      // bits stored
  int min_exponent;  // of the smallest normal number
  int bits;
  double largest = 0;  // if there is no infinity
};

constexpr Format kBinary16{10, -14, 16};
constexpr Format kBrain16{7, -126, 16};
constexpr Format kBinary32{23, -126, 32};
constexpr Format kE4m3{3, -6, 8, 448};
constexpr Format kE5m2{2, -14, 8};

/// x on the format's grid, to nearest even; past the largest number: infinity, or the largest.
double rounded(double x, Format f) {
  if (std::isnan(x) || x == 0) return x;
  if (std::isinf(x)) return f.largest > 0 ? std::copysign(f.largest, x) : x;
  const int exponent = std::max(std::ilogb(x), f.min_exponent);
  const double r =
      std::ldexp(std::nearbyint(std::ldexp(x, f.mantissa - exponent)), exponent - f.mantissa);
  if (f.largest > 0) return std::copysign(std::min(std::fabs(r), f.largest), r);
  const double limit = std::ldexp(1.0, 2 - f.min_exponent);  // 2^(largest exponent + 1)
  return std::fabs(r) >= limit ? std::copysign(HUGE_VAL, r) : r;
}

double decode(int bits, Format f) {
  const int mantissa = bits & ((1 << f.mantissa) - 1);
  const int all = (1 << (f.bits - 1)) - 1;
  const int exponent = (bits & all) >> f.mantissa;
  const double sign = bits > all ? -1.0 : 1.0;
  if (f.largest > 0) {
    if ((bits & all) == all) return std::nan("");
  } else if (exponent == all >> f.mantissa) {
    return mantissa ? std::nan("") : sign * HUGE_VAL;
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, f.min_exponent - f.mantissa);
  return sign *
         std::ldexp(mantissa + (1 << f.mantissa), exponent - 1 + f.min_exponent - f.mantissa);
}

/// x must be on the grid.
int encode(double x, Format f) {
  const int all = (1 << (f.bits - 1)) - 1;
  const int sign = std::signbit(x) ? all + 1 : 0;
  if (std::isnan(x)) return sign | all;
  if (std::isinf(x)) return sign | (all >> f.mantissa) << f.mantissa;
  const double a = std::fabs(x);
  if (a < std::ldexp(1.0, f.min_exponent))
    return sign | int(std::ldexp(a, f.mantissa - f.min_exponent));
  const int exponent = std::ilogb(a);
  const int mantissa = int(std::ldexp(a, f.mantissa - exponent)) - (1 << f.mantissa);
  return sign | (exponent - f.min_exponent + 1) << f.mantissa | mantissa;
}

template <class T>
T element(const Array& array, std::size_t i) {
  T value;
  std::memcpy(&value, array.data() + i * sizeof(T), sizeof(T));
  return value;
}

template <class T>
void put(Array& array, std::size_t i, T value) {
  std::memcpy(array.data() + i * sizeof(T), &value, sizeof(T));
}

double get_float(DataType dtype, const Array& a, std::size_t i) {
  switch (dtype) {
    case DataType::kFloat32:
      return element<float>(a, i);
    case DataType::kFloat64:
      return element<double>(a, i);
    case DataType::kFloat16:
      return decode(element<std::uint16_t>(a, i), kBinary16);
    case DataType::kFloat8E4m3:
      return decode(element<std::uint8_t>(a, i), kE4m3);
    case DataType::kFloat8E5m2:
      return decode(element<std::uint8_t>(a, i), kE5m2);
    default:
      return decode(element<std::uint16_t>(a, i), kBrain16);
  }
}

void put_float(DataType dtype, Array& a, std::size_t i, double x) {
  switch (dtype) {
    case DataType::kFloat32:
      return put(a, i, static_cast<float>(x));
    case DataType::kFloat64:
      return put(a, i, x);
    case DataType::kFloat16:
      return put(a, i, static_cast<std::uint16_t>(encode(rounded(x, kBinary16), kBinary16)));
    case DataType::kFloat8E4m3:
      return put(a, i, static_cast<std::uint8_t>(encode(rounded(x, kE4m3), kE4m3)));
    case DataType::kFloat8E5m2:
      return put(a, i, static_cast<std::uint8_t>(encode(rounded(x, kE5m2), kE5m2)));
    default:
      return put(a, i, static_cast<std::uint16_t>(encode(rounded(x, kBrain16), kBrain16)));
  }
}

Wide get_integer(DataType dtype, const Array& a, std::size_t i) {
  switch (dtype) {
    case DataType::kInt8:
      return element<std::int8_t>(a, i);
    case DataType::kInt16:
      return element<std::int16_t>(a, i);
    case DataType::kInt32:
      return element<std::int32_t>(a, i);
    case DataType::kInt64:
      return element<std::int64_t>(a, i);
    case DataType::kUint8:
      return element<std::uint8_t>(a, i);
    case DataType::kUint16:
      return element<std::uint16_t>(a, i);
    case DataType::kUint32:
      return element<std::uint32_t>(a, i);
    case DataType::kUint64:
      return element<std::uint64_t>(a, i);
    default:
      ADD_FAILURE() << name_of(dtype) << " is no integer";
      return 0;
  }
}

void put_integer(DataType dtype, Array& a, std::size_t i, Wide x) {
  switch (size_of(dtype)) {  // the low bits, whatever the sign
    case 1:
      return put(a, i, static_cast<std::uint8_t>(x));
    case 2:
      return put(a, i, static_cast<std::uint16_t>(x));
    case 4:
      return put(a, i, static_cast<std::uint32_t>(x));
    default:
      return put(a, i, static_cast<std::uint64_t>(x));
  }
}

// ---- the reference: operations

double minimum(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::nan("");
  if (a == b) return std::signbit(a) ? a : b;
  return std::fmin(a, b);
}

double apply(ReduceOp op, double a, double b) {
  switch (op) {
    case ReduceOp::kSum:
    case ReduceOp::kAvg:  // scaled at the end
      return a + b;
    case ReduceOp::kProd:
      return a * b;
    case ReduceOp::kMin:
      return minimum(a, b);
    case ReduceOp::kMax:
      return -minimum(-a, -b);
    default:
      ADD_FAILURE() << name_of(op) << " of floats";
      return 0;
  }
}

Wide apply(ReduceOp op, Wide a, Wide b) {
  switch (op) {
    case ReduceOp::kSum:
      return a + b;
    case ReduceOp::kProd:
      return static_cast<Wide>(static_cast<UnsignedWide>(a) * static_cast<UnsignedWide>(b));
    case ReduceOp::kMin:
      return a < b ? a : b;
    case ReduceOp::kMax:
      return a < b ? b : a;
    case ReduceOp::kBand:
      return a & b;
    case ReduceOp::kBor:
      return a | b;
    case ReduceOp::kBxor:
      return a ^ b;
    default:
      ADD_FAILURE() << name_of(op) << " of integers";
      return 0;
  }
}

/// A double sum or product of two float32 rounds to the right float32: 53 >= 2 * 24 + 2 bits.
double folded_float(DataType dtype, ReduceOp op, const std::vector<Array>& sources, std::size_t i,
                    double scale) {
  const bool wide = dtype == DataType::kFloat64;
  double sum = get_float(dtype, sources[0], i);
  for (std::size_t s = 1; s < sources.size(); ++s) {
    sum = apply(op, sum, get_float(dtype, sources[s], i));
    if (!wide) sum = rounded(sum, kBinary32);
  }
  if (scale == 1.0) return sum;
  return wide ? sum * scale : rounded(sum * scale, kBinary32);
}

Array reference(DataType dtype, ReduceOp op, const std::vector<Array>& sources, std::size_t count,
                double scale = 1.0) {
  Array out(sources[0].size());
  for (std::size_t i = 0; i < count; ++i) {
    if (!is_integer(dtype)) {
      put_float(dtype, out, i, folded_float(dtype, op, sources, i, scale));
      continue;
    }
    put_integer(dtype, out, i, get_integer(dtype, sources[0], i));
    for (std::size_t s = 1; s < sources.size(); ++s)
      put_integer(dtype, out, i,
                  apply(op, get_integer(dtype, out, i), get_integer(dtype, sources[s], i)));
  }
  return out;
}

// ---- comparing

bool same(DataType dtype, const Array& a, const Array& b, std::size_t i) {
  const std::size_t bytes = static_cast<std::size_t>(size_of(dtype));
  if (std::memcmp(a.data() + i * bytes, b.data() + i * bytes, bytes) == 0) return true;
  return !is_integer(dtype) && std::isnan(get_float(dtype, a, i)) &&
         std::isnan(get_float(dtype, b, i));
}

std::string text(DataType dtype, const Array& a, std::size_t i) {
  if (dtype == DataType::kUint64) return std::to_string(element<std::uint64_t>(a, i));
  if (is_integer(dtype)) return std::to_string(static_cast<std::int64_t>(get_integer(dtype, a, i)));
  return std::to_string(get_float(dtype, a, i));
}

::testing::AssertionResult equal(DataType dtype, const Array& got, const Array& wanted,
                                 std::size_t count) {
  for (std::size_t i = 0; i < count; ++i)
    if (!same(dtype, got, wanted, i))
      return ::testing::AssertionFailure()
             << name_of(dtype) << " element " << i << " of " << count << " is "
             << text(dtype, got, i) << ", wanted " << text(dtype, wanted, i);
  return ::testing::AssertionSuccess();
}

// ---- inputs

Array random_array(DataType dtype, std::size_t count, std::mt19937& random) {
  Array a(count * static_cast<std::size_t>(size_of(dtype)));
  std::uniform_real_distribution<double> uniform(-1.5, 1.5);
  std::uniform_int_distribution<std::int64_t> integer(std::numeric_limits<std::int64_t>::min());
  for (std::size_t i = 0; i < count; ++i) {
    if (is_integer(dtype)) {
      put_integer(dtype, a, i, integer(random));
    } else {
      put_float(dtype, a, i, uniform(random));
    }
  }
  return a;
}

std::vector<Array> random_arrays(DataType dtype, std::size_t count, int k) {
  std::mt19937 random(static_cast<unsigned>(count * 131 + static_cast<std::size_t>(k)));
  std::vector<Array> arrays;
  for (int s = 0; s < k; ++s) arrays.push_back(random_array(dtype, count, random));
  return arrays;
}

std::vector<const void*> pointers(const std::vector<Array>& arrays) {
  std::vector<const void*> p;
  for (const Array& a : arrays) p.push_back(a.data());
  return p;
}

void run(const KernelTable& table, DataType dtype, ReduceOp op, void* dst,
         const std::vector<const void*>& sources, std::size_t count, double scale = 1.0) {
  table.of(dtype, op).fold({&dst, 1, sources.data(), static_cast<std::int64_t>(sources.size()),
                            static_cast<std::int64_t>(count), scale, false});
}

void run_to_all(const KernelTable& table, DataType dtype, ReduceOp op,
                const std::vector<void*>& targets, const std::vector<const void*>& sources,
                std::size_t count, bool streams) {
  table.of(dtype, op).fold({targets.data(), static_cast<std::int64_t>(targets.size()),
                            sources.data(), static_cast<std::int64_t>(sources.size()),
                            static_cast<std::int64_t>(count), 1.0, streams});
}

class Kernels : public ::testing::TestWithParam<const KernelTable*> {
 protected:
  const KernelTable& table() const { return *GetParam(); }
};

// What a call is allowed to ask for is there, and nothing else.
TEST_P(Kernels, AreThereForEverySupportedPair) {
  int pairs = 0;
  for (DataType dtype : all_types())
    for (ReduceOp op : all_ops()) {
      const OpKernels& kernels = table().of(dtype, op);
      EXPECT_EQ(kernels.fold != nullptr, supports(op, dtype)) << name_of(op) << name_of(dtype);
      EXPECT_EQ(kernels.accumulate != nullptr, supports(op, dtype)) << name_of(op);
      pairs += supports(op, dtype);
    }
  EXPECT_EQ(pairs, 6 * 5 + 8 * 7) << "6 floating types with avg, 8 integers with band, bor, bxor";
}

// The blocks' borders (512 elements, 2 KiB of narrow ones), vector tails and the special cases of
// one and two sources.
TEST_P(Kernels, EqualTheReference) {
  for (DataType dtype : all_types())
    for (ReduceOp op : ops_of(dtype))
      for (std::size_t count : {0, 1, 3, 16, 17, 1000, 4099})
        for (int k : {1, 2, 3, 5, 8, 64}) {
          const std::vector<Array> sources = random_arrays(dtype, count, k);
          Array got(sources[0].size() + 64, 0xa5);
          run(table(), dtype, op, got.data(), pointers(sources), count);
          ASSERT_TRUE(equal(dtype, got, reference(dtype, op, sources, count), count))
              << name_of(op) << " of " << k;
          for (std::size_t i = sources[0].size(); i < got.size(); ++i)
            ASSERT_EQ(got[i], 0xa5) << "wrote past the end: " << name_of(dtype) << name_of(op);
        }
}

TEST_P(Kernels, DestinationMayBeAnySource) {
  for (DataType dtype : all_types())
    for (ReduceOp op : ops_of(dtype))
      for (std::size_t count : {7, 1000, 4099})
        for (int k : {1, 2, 3, 4, 5, 8}) {
          const std::vector<Array> originals = random_arrays(dtype, count, k);
          const Array wanted = reference(dtype, op, originals, count);
          for (int alias = 0; alias < k; ++alias) {
            std::vector<Array> sources = originals;
            Array& dst = sources[static_cast<std::size_t>(alias)];
            run(table(), dtype, op, dst.data(), pointers(sources), count);
            ASSERT_TRUE(equal(dtype, dst, wanted, count))
                << name_of(op) << " of " << k << ", dst is source " << alias;
          }
        }
}

TEST_P(Kernels, AccumulateIsAFoldOfTwo) {
  for (DataType dtype : all_types())
    for (ReduceOp op : ops_of(dtype))
      for (std::size_t count : {0, 1, 7, 1000, 4099}) {
        std::vector<Array> sources = random_arrays(dtype, count, 2);
        const Array wanted = reference(dtype, op, sources, count);
        table().of(dtype, op).accumulate(sources[0].data(), sources[1].data(),
                                         static_cast<std::int64_t>(count));
        ASSERT_TRUE(equal(dtype, sources[0], wanted, count)) << name_of(op);
      }
}

// Each target at another distance from a cache line, so that streamed heads, lines and tails
// differ; the last target is the first source.
void expect_targets(const KernelTable& table, DataType dtype, ReduceOp op, std::size_t count, int k,
                    bool streams, std::size_t shift) {
  std::vector<Array> sources = random_arrays(dtype, count, k);
  const std::vector<const void*> at = pointers(sources);
  const Array wanted = reference(dtype, op, sources, count);
  const std::size_t bytes = sources[0].size();
  Array first(bytes + 192, 0xa5), second(bytes + 192, 0xa5);
  run_to_all(table, dtype, op, {first.data() + 64, second.data() + 64 + shift, sources[0].data()},
             at, count, streams);
  for (const Array* target : {&first, &second}) {
    const std::size_t begin = 64 + (target == &second ? shift : 0);
    ASSERT_TRUE(equal(dtype, Array(target->begin() + begin, target->end()), wanted, count))
        << name_of(op) << " of " << k << ", streams " << streams << ", shift " << shift;
    for (std::size_t i = 0; i < target->size(); ++i) {
      if (i == begin) i += bytes;
      ASSERT_EQ((*target)[i], 0xa5) << "wrote outside, at " << i << " of " << bytes;
    }
  }
  ASSERT_TRUE(equal(dtype, sources[0], wanted, count))
      << name_of(op) << ": the target that is a source";
}

TEST_P(Kernels, SeveralTargets) {
  for (DataType dtype : all_types())
    for (std::size_t count : {0, 1, 15, 100, 1000, 4099})
      for (int k : {1, 2, 3, 5})
        for (bool streams : {false, true}) {
          for (std::size_t shift : {0, 1, 4, 32, 60})  // places are the same to all operations
            expect_targets(table(), dtype, ReduceOp::kSum, count, k, streams, shift);
          for (ReduceOp op : ops_of(dtype))
            expect_targets(table(), dtype, op, count, k, streams, 4);
        }
}

// A case of its own, without blocks: one of two ranks of a node reduces to both.
TEST_P(Kernels, TwoTargetsOfTwoSources) {
  for (DataType dtype : all_types())
    for (ReduceOp op : ops_of(dtype))
      for (std::size_t count : {0, 1, 17, 1000, 4099}) {
        std::vector<Array> sources = random_arrays(dtype, count, 2);
        const Array wanted = reference(dtype, op, sources, count);
        Array out(sources[0].size());
        run_to_all(table(), dtype, op, {out.data(), sources[1].data()}, pointers(sources), count,
                   false);
        ASSERT_TRUE(equal(dtype, out, wanted, count)) << name_of(op);
        ASSERT_TRUE(equal(dtype, sources[1], wanted, count)) << name_of(op);
      }
}

TEST_P(Kernels, Copies) {
  for (const CopyKernel copy : {table().copy, table().stream})
    for (std::size_t bytes : {0, 1, 63, 64, 65, 256, 1000, 4096, 5000})
      for (std::size_t shift : {0, 1, 17, 63}) {
        Array from(bytes + 64), to(bytes + 192, 0xa5);
        for (std::size_t i = 0; i < bytes; ++i) from[i] = static_cast<unsigned char>(i * 7 + 1);
        copy(to.data() + 64 + shift, from.data(), static_cast<std::int64_t>(bytes));
        for (std::size_t i = 0; i < to.size(); ++i) {
          const bool inside = i >= 64 + shift && i < 64 + shift + bytes;
          ASSERT_EQ(to[i], inside ? from[i - 64 - shift] : 0xa5) << i << " of " << bytes;
        }
      }
}

// Slices of a user's array begin anywhere; UBSan watches the loads.
TEST_P(Kernels, UnalignedArrays) {
  constexpr std::size_t kCount = 1003;
  for (DataType dtype : all_types())
    for (ReduceOp op : ops_of(dtype))
      for (int k : {1, 2, 3}) {
        const std::vector<Array> sources = random_arrays(dtype, kCount, k);
        std::vector<Array> shifted;
        std::vector<const void*> at;
        for (const Array& s : sources) {
          shifted.emplace_back(s.size() + 8);
          std::memcpy(shifted.back().data() + 1, s.data(), s.size());
          at.push_back(shifted.back().data() + 1);
        }
        Array out(sources[0].size() + 8);
        run(table(), dtype, op, out.data() + 3, at, kCount);
        out.erase(out.begin(), out.begin() + 3);
        ASSERT_TRUE(equal(dtype, out, reference(dtype, op, sources, kCount), kCount))
            << name_of(op);
      }
}

/// The largest number, and a subnormal one.
std::pair<double, double> limits(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat8E4m3:
      return {448, 0x1p-9};
    case DataType::kFloat8E5m2:
      return {57344, 0x1p-16};
    case DataType::kFloat16:
      return {65504, 0x1p-24};
    case DataType::kFloat64:
      return {std::numeric_limits<double>::max(), 0x1p-130};
    default:
      return {0x1.fep127, 0x1p-130};
  }
}

// All pairs and triples of NaN, infinities, zeros of both signs, subnormals, the largest numbers.
TEST_P(Kernels, SpecialValues) {
  for (DataType dtype : floats()) {
    const auto [largest, tiny] = limits(dtype);
    const double values[] = {std::nan(""), HUGE_VAL, -HUGE_VAL, 0.0,   -0.0,
                             largest,      -largest, tiny,      -tiny, 1.0};
    constexpr std::size_t kValues = std::size(values), kCount = kValues * kValues * kValues;
    std::vector<Array> sources(3, Array(kCount * static_cast<std::size_t>(size_of(dtype))));
    for (std::size_t i = 0; i < kCount; ++i) {
      put_float(dtype, sources[0], i, values[i % kValues]);
      put_float(dtype, sources[1], i, values[i / kValues % kValues]);
      put_float(dtype, sources[2], i, values[i / kValues / kValues]);
    }
    for (ReduceOp op : ops_of(dtype))
      for (std::size_t k : {3, 2, 1}) {
        const std::vector<Array> some(sources.begin(), sources.begin() + static_cast<long>(k));
        Array got(sources[0].size());
        run(table(), dtype, op, got.data(), pointers(some), kCount);
        ASSERT_TRUE(equal(dtype, got, reference(dtype, op, some, kCount), kCount))
            << name_of(op) << " of " << k;
      }
  }
}

// Each 16-bit number survives widening and rounding: x * 1 for all 65,536 of them, NaNs included
// (also one whose payload is lost by rounding: bfloat16 0x7f81, a signalling NaN).
TEST_P(Kernels, EveryHalfSurvives) {
  for (DataType dtype : {DataType::kFloat16, DataType::kBfloat16}) {
    constexpr std::size_t kAll = 65536;
    std::vector<Array> sources(2, Array(kAll * 2));
    for (std::size_t i = 0; i < kAll; ++i) {
      put(sources[0], i, static_cast<std::uint16_t>(i));
      put_float(dtype, sources[1], i, 1.0);
    }
    Array got(kAll * 2);
    run(table(), dtype, ReduceOp::kProd, got.data(), pointers(sources), kAll);
    ASSERT_TRUE(equal(dtype, got, sources[0], kAll));
  }
}

// Every pair of float8 numbers, NaNs and infinities among them.
TEST_P(Kernels, EveryPairOfFloat8) {
  for (DataType dtype : {DataType::kFloat8E4m3, DataType::kFloat8E5m2}) {
    constexpr std::size_t kAll = 65536;
    std::vector<Array> sources(2, Array(kAll));
    for (std::size_t i = 0; i < kAll; ++i) {
      put(sources[0], i, static_cast<std::uint8_t>(i));
      put(sources[1], i, static_cast<std::uint8_t>(i >> 8));
    }
    for (ReduceOp op : ops_of(dtype)) {
      Array got(kAll);
      run(table(), dtype, op, got.data(), pointers(sources), kAll);
      ASSERT_TRUE(equal(dtype, got, reference(dtype, op, sources, kAll), kAll)) << name_of(op);
    }
  }
}

// 1.0, scaled: the one way to have a float32 of one's choice rounded. Every float16, which are all
// numbers half way between two of float8 and their neighbours; and any float32.
TEST_P(Kernels, EveryFloat16IsRoundedToFloat8) {
  std::mt19937 random(8);
  for (DataType dtype : {DataType::kFloat8E4m3, DataType::kFloat8E5m2}) {
    constexpr std::size_t kCount = 17;  // a vector and one more
    std::vector<Array> ones(1, Array(kCount));
    for (std::size_t i = 0; i < kCount; ++i) put_float(dtype, ones[0], i, 1);
    const auto expect_rounded = [&](double x) {
      Array got(kCount);
      run(table(), dtype, ReduceOp::kSum, got.data(), pointers(ones), kCount, x);
      ASSERT_TRUE(equal(dtype, got, reference(dtype, ReduceOp::kSum, ones, kCount, x), kCount))
          << x;
    };
    for (int bits = 0; bits < 65536; ++bits) {
      expect_rounded(decode(bits, kBinary16));
      expect_rounded(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
    }
  }
}

// 2048 + 1 + 1 is 2048 in float16 and 256 + 1 + 1 is 256 in bfloat16 if every step rounds.
TEST_P(Kernels, SmallFloatsAccumulateInFloat32) {
  for (auto [dtype, big] : {std::pair{DataType::kFloat16, 2048.0},
                            {DataType::kBfloat16, 256.0},
                            {DataType::kFloat8E4m3, 16.0},
                            {DataType::kFloat8E5m2, 8.0}}) {
    std::vector<Array> sources(3, Array(2));
    put_float(dtype, sources[0], 0, big);
    put_float(dtype, sources[1], 0, 1);
    put_float(dtype, sources[2], 0, 1);
    Array got(2);
    run(table(), dtype, ReduceOp::kSum, got.data(), pointers(sources), 1);
    EXPECT_EQ(get_float(dtype, got, 0), big + 2);
  }
}

TEST_P(Kernels, ScaledSum) {
  for (DataType dtype : floats())
    for (std::size_t count : {1, 17, 1000, 4099})
      for (int k : {1, 2, 3, 7}) {
        const std::vector<Array> sources = random_arrays(dtype, count, k);
        Array got(sources[0].size());
        run(table(), dtype, ReduceOp::kSum, got.data(), pointers(sources), count, 1.0 / k);
        ASSERT_TRUE(
            equal(dtype, got, reference(dtype, ReduceOp::kSum, sources, count, 1.0 / k), count))
            << "avg of " << k;
      }
}

// Ranks on unlike processors must hold the same parameters.
TEST_P(Kernels, SameBitsAsTheBaseline) {
  const KernelTable& baseline = *supported_tables().front();
  for (DataType dtype : all_types())
    for (ReduceOp op : ops_of(dtype))
      for (int k : {2, 3, 8}) {
        const std::vector<Array> sources = random_arrays(dtype, 4099, k);
        const double scale = is_integer(dtype) ? 1.0 : 1.0 / 3;
        Array a(sources[0].size()), b(sources[0].size());
        run(table(), dtype, op, a.data(), pointers(sources), 4099, scale);
        run(baseline, dtype, op, b.data(), pointers(sources), 4099, scale);
        ASSERT_EQ(a, b) << name_of(dtype) << " " << name_of(op) << " of " << k;
      }
}

std::string table_name(const ::testing::TestParamInfo<const KernelTable*>& info) {
  std::string name = info.param->instruction_set;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(Isa, Kernels,
                         ::testing::ValuesIn(supported_tables().begin(), supported_tables().end()),
                         table_name);

// The public functions take the best table, map avg to a scaled sum, and scale in place.
TEST(Reduce, FoldAndScale) {
  EXPECT_STREQ(instruction_set(), supported_tables().back()->instruction_set);
  float a[] = {1, 2, 3}, b[] = {3, 6, 9}, out[3];
  const void* const sources[] = {a, b};
  fold(DataType::kFloat32, ReduceOp::kAvg, out, sources, 3, 0.5);
  EXPECT_EQ(out[0], 2);
  EXPECT_EQ(out[2], 6);
  scale(DataType::kFloat32, out, 3, 0.25);
  EXPECT_EQ(out[0], 0.5f);
  EXPECT_EQ(out[2], 1.5f);
}

}  // namespace
}  // namespace shoal::reduce
