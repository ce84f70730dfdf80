/// The body of every kernel, for nvcc and for g++ alike: templates over a team of threads.
///
/// One launch is one rank's share of one collective, by the algorithm `direct` (schedule/direct.h),
/// which is the kernels' specification: this rank folds slice i of every rank's input and stores it
/// to slice i of every rank's output, or moves its blocks. Elements are combined in rank order, as
/// csrc/reduce does it and with the same rounding, so the bits are those of the host. (Which NaN a
/// NaN is, its sign and payload, is not specified.) Where the slices lie is not the schedule's
/// business but this file's: they begin at lines.
///
/// nvcc compiles with -fmad=false: a fused multiply-add would round once where the host rounds
/// twice.
#pragma once

#include <stdint.h>
#include <string.h>

#include "cuda/kernel_meeting.h"
#include "cuda/kernel_parameters.h"
#include "cuda/kernel_words.h"
#include "shoal/types.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#endif

namespace shoal::cuda::kernels {

// ---- vectors

struct alignas(16) Vector {
  uint32_t words[4];
};
static_assert(sizeof(Vector) == kVectorBytes);

/// Past the first-level cache, which is not told what other processors write.
SHOAL_BOTH Vector load_vector(const void* from, int64_t i) {
#ifdef __CUDA_ARCH__
  const uint4 raw = __ldcg(static_cast<const uint4*>(from) + i);
  return {{raw.x, raw.y, raw.z, raw.w}};
#else
  return static_cast<const Vector*>(from)[i];
#endif
}

SHOAL_BOTH void store_vector(void* to, int64_t i, const Vector& v) {
#ifdef __CUDA_ARCH__
  __stcg(static_cast<uint4*>(to) + i, make_uint4(v.words[0], v.words[1], v.words[2], v.words[3]));
#else
  static_cast<Vector*>(to)[i] = v;
#endif
}

/// memcpy: the user's arrays need not be aligned to their elements.
template <class T>
SHOAL_BOTH T load(const void* from, int64_t i) {
  T value;
  memcpy(&value, static_cast<const char*>(from) + i * int64_t{sizeof(T)}, sizeof(T));
  return value;
}

template <class T>
SHOAL_BOTH void store(void* to, int64_t i, T value) {
  memcpy(static_cast<char*>(to) + i * int64_t{sizeof(T)}, &value, sizeof(T));
}

template <class To, class From>
SHOAL_BOTH To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// ---- formats: how elements lie in memory, and as what they are combined

/// The accumulator has the type of the elements.
template <class T>
struct Plain {
  using Element = T;  ///< in memory
  using Lane = T;     ///< of a vector
  using Value = T;    ///< what is combined
  static SHOAL_BOTH T widen(T value) { return value; }
  static SHOAL_BOTH T narrow(T value) { return value; }
};

/// Bytes one at a time where they must be, four where they can be.
struct Bits {
  using Element = uint8_t;
  using Lane = uint32_t;
  using Value = uint32_t;
  static SHOAL_BOTH uint32_t widen(uint32_t value) { return value; }
  static SHOAL_BOTH uint32_t narrow(uint32_t value) { return value; }
};

struct Bfloat16 {
  using Element = uint16_t;
  using Lane = uint16_t;
  using Value = float;
  static SHOAL_BOTH float widen(uint16_t value) {
    return bits_of<float>(static_cast<uint32_t>(value) << 16);
  }
  static SHOAL_BOTH uint16_t narrow(float value) {
    const auto bits = bits_of<uint32_t>(value);
    const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);  // carries into infinity
    const uint32_t quiet = bits | 0x400000;  // a NaN whose payload lies below stays one
    return static_cast<uint16_t>((value != value ? quiet : rounded) >> 16);
  }
};

struct Float16 {
  using Element = uint16_t;
  using Lane = uint16_t;
  using Value = float;
#ifdef __CUDACC__
  static SHOAL_BOTH float widen(uint16_t value) { return __half2float(bits_of<__half>(value)); }
  static SHOAL_BOTH uint16_t narrow(float value) {
    return bits_of<uint16_t>(__float2half_rn(value));
  }
#else
  static float widen(uint16_t value) { return static_cast<float>(bits_of<_Float16>(value)); }
  static uint16_t narrow(float value) { return bits_of<uint16_t>(static_cast<_Float16>(value)); }
#endif
};

/// As csrc/reduce/kernels.cc has it, which explains it.
template <int kMantissa, int kBias, int kSpecial, int kOverflow>
struct Float8 {
  using Element = uint8_t;
  using Lane = uint8_t;
  using Value = float;
  static constexpr int kShift = 23 - kMantissa;
  static constexpr int32_t kRebias = (127 - kBias) << 23;
  static constexpr int32_t kNormal = 1 << kMantissa;
  static constexpr int32_t kInfinity = 0x7f800000;

  static SHOAL_BOTH float power(int exponent) { return bits_of<float>((127 + exponent) << 23); }

  static SHOAL_BOTH float widen(uint8_t value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890  // has instructions for it
    constexpr auto kKind = kMantissa == 3 ? __NV_E4M3 : __NV_E5M2;
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(value, kKind)));
#else
    const int32_t magnitude = value & 0x7f;
    const int32_t normal = (magnitude << kShift) + kRebias;
    const float tiny = static_cast<float>(magnitude) * power(1 - kBias - kMantissa);
    const int32_t number = magnitude < kNormal ? bits_of<int32_t>(tiny) : normal;
    const int32_t special = magnitude < kSpecial ? 0 : kInfinity;
    const uint32_t sign = static_cast<uint32_t>(value & 0x80) << 24;
    return bits_of<float>(static_cast<uint32_t>(number | special) | sign);
#endif
  }
  static SHOAL_BOTH uint8_t narrow(float value) {
    const auto bits = bits_of<uint32_t>(value);
    const auto magnitude = static_cast<int32_t>(bits & 0x7fffffff);
    const int32_t half = (1 << (kShift - 1)) - 1 + ((magnitude >> kShift) & 1);
    const int32_t normal = (magnitude - kRebias + half) >> kShift;
    const float rounder = power(24 - kBias - kMantissa);
    const float sum = bits_of<float>(magnitude) + rounder;
    const int32_t tiny = bits_of<int32_t>(sum) - bits_of<int32_t>(rounder);
    const int32_t number = magnitude < kRebias + (kNormal << kShift) ? tiny : normal;
    const int32_t finite = number < kOverflow ? number : kOverflow;
    const int32_t code = magnitude > kInfinity ? 0x7f : finite;
    return static_cast<uint8_t>(static_cast<uint32_t>(code) | (bits >> 24 & 0x80));
  }
};
using Float8E4m3 = Float8<3, 7, 0x7f, 0x7e>;
using Float8E5m2 = Float8<2, 15, 0x7c, 0x7c>;

// ---- operations; see csrc/reduce/kernels.cc, whose words these are

struct Sum {
  template <class T>
  static SHOAL_BOTH T apply(T a, T b) {
    return static_cast<T>(a + b);
  }
};

struct Prod {
  template <class T>
  static SHOAL_BOTH T apply(T a, T b) {
    if constexpr (sizeof(T) < sizeof(int)) {  // as ints, 65535 * 65535 is too large
      return static_cast<T>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
    } else {
      return a * b;
    }
  }
};

template <class T>
constexpr bool kIsInteger = static_cast<T>(0.5) == 0;

/// IEEE 754-2019 minimum and maximum: a NaN on either side is the result, and -0 < +0.
template <class T, bool kMin>
SHOAL_BOTH T extreme(T a, T b) {
  if constexpr (kIsInteger<T>) {
    return (kMin ? a < b : a > b) ? a : b;
  } else {
    if (a == b) {  // differ in the sign of zero at most
      if constexpr (sizeof(T) == 4) {
        const auto x = bits_of<uint32_t>(a), y = bits_of<uint32_t>(b);
        return bits_of<T>(kMin ? x | y : x & y);
      } else {
        const auto x = bits_of<uint64_t>(a), y = bits_of<uint64_t>(b);
        return bits_of<T>(kMin ? x | y : x & y);
      }
    }
    return (kMin ? a < b : a > b) || a != a ? a : b;  // a NaN in b fails the comparison
  }
}

struct Min {
  template <class T>
  static SHOAL_BOTH T apply(T a, T b) {
    return extreme<T, true>(a, b);
  }
};

struct Max {
  template <class T>
  static SHOAL_BOTH T apply(T a, T b) {
    return extreme<T, false>(a, b);
  }
};

struct Band {
  template <class T>
  static SHOAL_BOTH T apply(T a, T b) {
    return static_cast<T>(a & b);
  }
};

struct Bor {
  template <class T>
  static SHOAL_BOTH T apply(T a, T b) {
    return static_cast<T>(a | b);
  }
};

struct Bxor {
  template <class T>
  static SHOAL_BOTH T apply(T a, T b) {
    return static_cast<T>(a ^ b);
  }
};

/// Integers have no average.
template <class T>
SHOAL_BOTH T scaled(T value, double scale) {
  if constexpr (kIsInteger<T>) {
    return value;
  } else {
    return scale == 1.0 ? value : static_cast<T>(static_cast<double>(value) * scale);
  }
}

// ---- what one rank does

/// Once per block of threads, in shared memory.
struct Job {
  const char* sources[kMaxKernelRanks];
  char* targets[kMaxKernelRanks];
  int64_t count;  ///< elements
  int32_t source_count, target_count;
  int32_t pairs;    ///< > 0: so many moves of `count` elements, source to target, and no fold
  int32_t refused;  ///< not 0: nothing is to be written; a rank + 1: it has called something else
};
/// In Job::refused: the communicator has ended.
inline constexpr int32_t kEnded = -1;

/// Which threads share the work: all of a launch.
struct Share {
  int64_t index, count;
};

/// targets[*][i] = sources[0][i] op sources[1][i] op ..., for `count` elements.
struct Fold {
  const char* const* sources;
  char* const* targets;
  int32_t source_count, target_count;
  int64_t count;
  double scale;
};

/// Their addresses begin at the same place within a vector, so that one can be taken from each at a
/// time.
SHOAL_BOTH bool is_congruent(const Fold& f) {
  const auto first = reinterpret_cast<uintptr_t>(f.targets[0]);
  uintptr_t difference = 0;
  for (int i = 0; i < f.source_count; ++i) {
    difference |= first ^ reinterpret_cast<uintptr_t>(f.sources[i]);
  }
  for (int i = 1; i < f.target_count; ++i) {
    difference |= first ^ reinterpret_cast<uintptr_t>(f.targets[i]);
  }
  return (difference & (kVectorBytes - 1)) == 0;
}

/// A move has nothing to do where it ends where it began.
SHOAL_BOTH bool is_stored(const Fold& f, int target) {
  return f.source_count > 1 || f.scale != 1.0 || f.targets[target] != f.sources[0];
}

/// Elements [begin, end) one at a time.
template <class Format, class Op>
SHOAL_BOTH void fold_elements(const Fold& f, int64_t begin, int64_t end, Share share) {
  using Element = typename Format::Element;
  using Value = typename Format::Value;
  for (int64_t i = begin + share.index; i < end; i += share.count) {
    Value sum = Format::widen(load<Element>(f.sources[0], i));
    for (int s = 1; s < f.source_count; ++s) {
      sum = Op::apply(sum, static_cast<Value>(Format::widen(load<Element>(f.sources[s], i))));
    }
    const auto result = static_cast<Element>(Format::narrow(scaled(sum, f.scale)));
    for (int t = 0; t < f.target_count; ++t) {
      if (is_stored(f, t)) store(f.targets[t], i, result);
    }
  }
}

template <class Format>
struct Lanes {
  static constexpr int kCount = kVectorBytes / int(sizeof(typename Format::Lane));
  typename Format::Lane of[kCount];
};

/// Vectors of each source that a thread loads before it combines them: enough bytes under way to
/// keep the memory busy, few enough accumulators to stay in registers.
template <class Format>
constexpr int kUnroll = Lanes<Format>::kCount <= 8 ? 4 : 2;

/// `n` vectors that begin `offset` bytes into each source and target.
template <class Format, class Op>
SHOAL_BOTH void fold_vectors(const Fold& f, int64_t offset, int64_t n, Share share) {
  using Value = typename Format::Value;
  constexpr int kLanes = Lanes<Format>::kCount;
  constexpr int kVectors = kUnroll<Format>;
  for (int64_t first = share.index; first < n; first += kVectors * share.count) {
    Value sums[kVectors][kLanes];
    for (int s = 0; s < f.source_count; ++s) {
      const char* const source = f.sources[s] + offset;
      Vector loaded[kVectors];
      SHOAL_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const int64_t i = first + v * share.count;
        if (i < n) loaded[v] = load_vector(source, i);
      }
      SHOAL_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        if (first + v * share.count >= n) continue;
        const auto lanes = bits_of<Lanes<Format>>(loaded[v]);
        SHOAL_UNROLL
        for (int l = 0; l < kLanes; ++l) {
          const Value value = Format::widen(lanes.of[l]);
          sums[v][l] = s == 0 ? value : Op::apply(sums[v][l], value);
        }
      }
    }
    SHOAL_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int64_t i = first + v * share.count;
      if (i >= n) continue;
      Lanes<Format> result;
      SHOAL_UNROLL
      for (int l = 0; l < kLanes; ++l) result.of[l] = Format::narrow(scaled(sums[v][l], f.scale));
      const auto vector = bits_of<Vector>(result);
      for (int t = 0; t < f.target_count; ++t) {
        if (is_stored(f, t)) store_vector(f.targets[t] + offset, i, vector);
      }
    }
  }
}

template <class Format, class Op>
SHOAL_BOTH void fold(const Fold& f, Share share) {
  constexpr int64_t kSize = sizeof(typename Format::Element);
  const auto first = reinterpret_cast<uintptr_t>(f.targets[0]);
  const auto to_vector = static_cast<int64_t>(-first & (kVectorBytes - 1));
  const int64_t head = to_vector / kSize;
  if (to_vector % kSize != 0 || head > f.count || !is_congruent(f)) {
    return fold_elements<Format, Op>(f, 0, f.count, share);
  }
  const int64_t vectors = (f.count - head) * kSize / kVectorBytes;
  const int64_t tail = head + vectors * (kVectorBytes / kSize);
  fold_elements<Format, Op>(f, 0, head, share);
  fold_vectors<Format, Op>(f, head * kSize, vectors, share);
  fold_elements<Format, Op>(f, tail, f.count, share);
}

// ---- from records to addresses

struct Slice {
  int64_t begin, count;  ///< elements
};

/// Slice `self` of `count` elements.
SHOAL_BOTH Slice slice_of(int64_t count, int ranks, int self, int64_t element_bytes) {
  const int64_t grain = kSliceBytes / element_bytes;
  const int64_t each = ((count + ranks - 1) / ranks + grain - 1) / grain * grain;
  const int64_t begin = each * self < count ? each * self : count;
  return {begin, count - begin < each ? count - begin : each};
}

SHOAL_BOTH const Record& record_of(const KernelParameters& p, int rank) {
  return *reinterpret_cast<const Record*>(reinterpret_cast<const char*>(p.records) +
                                          rank * p.record_stride);
}

SHOAL_BOTH char* address_of(const KernelParameters& p, int owner, int64_t offset) {
  return reinterpret_cast<char*>(static_cast<uintptr_t>(load_base(p.bases + owner)) +
                                 static_cast<uintptr_t>(offset));
}

/// Where `rank`'s buffers lie, by what it has written before it was ready.
SHOAL_BOTH Answer look_up(const KernelParameters& p, int rank, Buffers& buffers) {
  const Record& record = record_of(p, rank);
  if (record.sequence != p.sequence || record.fingerprint != p.fingerprint) {
    return Answer::kOther;
  }
  buffers.input = address_of(p, record.input_owner, record.input_offset);
  buffers.output = address_of(p, record.output_owner, record.output_offset);
  return Answer::kSame;
}

/// The part of the job that `rank`'s buffers decide. Each rank's by one thread.
SHOAL_BOTH void resolve_rank(const KernelParameters& p, Job& job, int rank, int64_t element_bytes) {
  Buffers buffers{};
  const Answer answer =
      p.spin.ready != nullptr ? receive_header(p, rank, buffers) : look_up(p, rank, buffers);
  if (answer != Answer::kSame) {
    job.refused = answer == Answer::kOther ? rank + 1 : kEnded;
    return;
  }
  char* const input = buffers.input;
  char* const output = buffers.output;
  const int64_t block = p.count * element_bytes;
  const int64_t slice = slice_of(p.count, p.ranks, p.self, element_bytes).begin * element_bytes;
  const bool is_self = rank == p.self;
  const bool is_root = rank == p.root;
  switch (static_cast<Collective>(p.collective)) {
    case Collective::kAllReduce:
      job.sources[rank] = input + slice;
      job.targets[rank] = output + slice;
      return;
    case Collective::kReduce:
      job.sources[rank] = input + slice;
      if (is_root) job.targets[0] = output + slice;
      return;
    case Collective::kReduceScatter:
      job.sources[rank] = input + p.self * block;
      if (is_self) job.targets[0] = output;
      return;
    case Collective::kBroadcast:
      job.targets[rank] = output + slice;
      if (is_root) job.sources[0] = input + slice;
      return;
    case Collective::kGather:
      if (is_self) job.sources[0] = input;
      if (is_root) job.targets[0] = output + p.self * block;
      return;
    case Collective::kScatter:
      if (is_root) job.sources[0] = input + p.self * block;
      if (is_self) job.targets[0] = output;
      return;
    case Collective::kAllGather:
    case Collective::kAllToAll: {
      // From `self` on, so that the ranks do not all read one buffer at once.
      const int place = (rank - p.self + p.ranks) % p.ranks;
      const bool gathers = static_cast<Collective>(p.collective) == Collective::kAllGather;
      job.sources[place] = gathers ? input : input + p.self * block;
      if (!is_self) return;
      for (int k = 0; k < p.ranks; ++k) {
        job.targets[k] = output + (p.self + k) % p.ranks * block;
      }
      return;
    }
    case Collective::kBarrier:
      return;
  }
}

/// The part that is the same whatever the records say. One thread, before the others.
SHOAL_BOTH void open_job(const KernelParameters& p, Job& job, int64_t element_bytes) {
  const auto collective = static_cast<Collective>(p.collective);
  const bool whole_blocks = collective == Collective::kReduceScatter ||
                            collective == Collective::kGather || collective == Collective::kScatter;
  const bool moves_pairs =
      collective == Collective::kAllGather || collective == Collective::kAllToAll;
  const bool ended = p.spin.ready != nullptr ? has_ended(p) : load_flag(p.abort) != 0;
  job.refused = ended ? kEnded : 0;
  job.pairs = moves_pairs ? p.ranks : 0;
  job.count = whole_blocks || moves_pairs ? p.count
                                          : slice_of(p.count, p.ranks, p.self, element_bytes).count;
  job.source_count = reduces(collective) ? p.ranks : 1;
  job.target_count =
      collective == Collective::kAllReduce || collective == Collective::kBroadcast ? p.ranks : 1;
}

template <class Format, class Op>
SHOAL_BOTH void work(const Job& job, double scale, Share share) {
  if (job.pairs == 0) {
    return fold<Format, Op>(
        {job.sources, job.targets, job.source_count, job.target_count, job.count, scale}, share);
  }
  for (int k = 0; k < job.pairs; ++k) {
    fold<Format, Op>({job.sources + k, job.targets + k, 1, 1, job.count, scale}, share);
  }
}

/// One launch. `Team` says which thread of which block this is, and lets those of a block meet.
template <class Format, class Op, class Team>
SHOAL_BOTH void run(const KernelParameters& p, const Team& team, Job& job) {
  constexpr int64_t kSize = sizeof(typename Format::Element);
  const bool spins = p.spin.ready != nullptr;
  const bool leads = team.thread() == 0;
  if (leads && team.block() == 0 && p.runs != nullptr) store_flag(p.runs, *p.runs + 1);
  if (spins) arrive(p, team);
  if (leads) open_job(p, job, kSize);
  team.meet();
  if (job.refused == 0) {
    for (int r = team.thread(); r < p.ranks; r += team.threads()) resolve_rank(p, job, r, kSize);
  }
  if (spins) team.publish();  // the others' buffers are read after their headers
  team.meet();
  if (leads && job.refused > 0) complain(p, job.refused - 1);
  const Share share{team.block() * int64_t{team.threads()} + team.thread(),
                    int64_t{team.blocks()} * team.threads()};
  if (job.refused == 0 && job.count > 0) work<Format, Op>(job, p.scale, share);
  if (spins) leave_together(p, team);
}

}  // namespace shoal::cuda::kernels
