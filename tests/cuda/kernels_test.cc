// The kernels, compiled by g++, against csrc/reduce and plain copies: the same bits for every type,
// operation, number of ranks, misalignment and tail. What nvcc makes of the same source is compared
// on a GPU (docs/gpu.md).
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "cuda/kernel_list.h"
#include "cuda/kernel_parameters.h"
#include "cuda/reference.h"
#include "fake_cuda/fake_cuda.h"
#include "reduce/reduce.h"

extern "C" const FakeKernel* shoal_fake_kernel(const char* name);

namespace shoal::cuda {
namespace {

using testing::expected;
using testing::noise;
using Bytes = testing::Array;

/// The ranks of a node, whose buffers lie in one address space: local rank r's slice begins at 0.
class KernelNode {
 public:
  KernelNode(Collective collective, DataType dtype, ReduceOp op, int ranks, std::int64_t count)
      : choice_(kernel_for(collective, dtype, op)),
        records_(static_cast<std::size_t>(ranks)),
        bases_(static_cast<std::size_t>(ranks)) {
    parameters_.records = records_.data();
    parameters_.record_stride = sizeof(Record);
    parameters_.bases = bases_.data();
    parameters_.abort = &abort_;
    parameters_.complaint = &complaint_;
    parameters_.sequence = 7;
    parameters_.fingerprint = 0xfeed;
    parameters_.count = count * size_of(dtype) / choice_.element_bytes;
    parameters_.scale = op == ReduceOp::kAvg && reduces(collective) ? 1.0 / ranks : 1.0;
    parameters_.collective = static_cast<int>(collective);
    parameters_.ranks = ranks;
    for (Record& record : records_) record = {7, 0xfeed, 0, 0, 0, 0};
  }

  void give(int rank, const void* input, void* output) {
    records_[rank].input_offset =
        static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(input));
    records_[rank].output_offset =
        static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(output));
  }
  Record& record(int rank) { return records_[rank]; }
  void set_root(int root) { parameters_.root = root; }
  void abort() { abort_ = 1; }
  [[nodiscard]] std::uint64_t complaint() const { return complaint_; }

  /// Each rank's share, one after the other: no order between them is needed within a launch.
  void run(unsigned blocks = 3) {
    const FakeKernel* kernel = shoal_fake_kernel(kKernelNames[choice_.number]);
    ASSERT_EQ(kernel->parameter_bytes, sizeof parameters_);
    for (int rank = parameters_.ranks - 1; rank >= 0; --rank) {
      parameters_.self = rank;
      const FakeLaunch launch{{blocks, 1, 1}, {kBlockThreads, 1, 1}};
      kernel->run(&parameters_, &launch);
    }
  }

 private:
  KernelChoice choice_;
  std::vector<Record> records_;
  std::vector<std::uint64_t> bases_;
  std::uint32_t abort_ = 0;
  std::uint64_t complaint_ = 0;
  KernelParameters parameters_;
};

/// Numbers whose sums stay finite, so that rounding shows.
void make_tame(DataType dtype, unsigned char* data, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    unsigned char* top = data + (i + 1) * size_of(dtype) - 1;  // little-endian: sign and exponent
    if (dtype == DataType::kFloat64 || dtype == DataType::kFloat32) *top = (*top & 0x81) | 0x3e;
    if (dtype == DataType::kFloat16) *top = (*top & 0x83) | 0x38;
    if (dtype == DataType::kBfloat16) *top = (*top & 0x81) | 0x3e;
    if (dtype == DataType::kFloat8E4m3) *top = (*top & 0x8f) | 0x30;
    if (dtype == DataType::kFloat8E5m2) *top = (*top & 0x87) | 0x38;
  }
}

bool is_nan(DataType dtype, const unsigned char* at) {
  std::uint16_t half;
  float single;
  double wide;
  switch (dtype) {
    case DataType::kFloat16:
      std::memcpy(&half, at, 2);
      return (half & 0x7fff) > 0x7c00;
    case DataType::kBfloat16:
      std::memcpy(&half, at, 2);
      return (half & 0x7fff) > 0x7f80;
    case DataType::kFloat8E4m3:
      return (*at & 0x7f) == 0x7f;
    case DataType::kFloat8E5m2:
      return (*at & 0x7f) > 0x7c;
    case DataType::kFloat32:
      std::memcpy(&single, at, 4);
      return single != single;
    case DataType::kFloat64:
      std::memcpy(&wide, at, 8);
      return wide != wide;
    default:
      return false;
  }
}

/// Which NaN a NaN is, is not specified.
void expect_same(DataType dtype, const unsigned char* got, const unsigned char* wanted,
                 std::int64_t count, const std::string& what) {
  const std::int64_t size = size_of(dtype);
  for (std::int64_t i = 0; i < count; ++i) {
    const unsigned char *a = got + i * size, *b = wanted + i * size;
    if (std::memcmp(a, b, static_cast<std::size_t>(size)) == 0) continue;
    ASSERT_TRUE(is_nan(dtype, a) && is_nan(dtype, b)) << what << ", element " << i;
  }
}

struct Case {
  int ranks;
  std::int64_t count;
  std::size_t shift;  ///< of the inputs' beginnings from a vector's
  std::size_t output_shift;
};

void check_all_reduce(DataType dtype, ReduceOp op, const Case& c, bool tame, bool in_place) {
  const auto bytes = static_cast<std::size_t>(c.count * size_of(dtype));
  std::vector<Bytes> inputs, outputs;
  std::vector<const void*> sources;
  constexpr std::size_t kGuard = 64;
  for (int r = 0; r < c.ranks; ++r) {
    inputs.push_back(noise(bytes + 2 * kGuard, 100u * static_cast<unsigned>(r) + 1));
    if (tame) make_tame(dtype, inputs.back().data() + c.shift, c.count);
    outputs.push_back(noise(bytes + 2 * kGuard, 9));
  }
  for (int r = 0; r < c.ranks; ++r) sources.push_back(inputs[r].data() + c.shift);
  Bytes wanted(bytes + 1);
  reduce::fold(dtype, op, wanted.data(), sources, c.count,
               op == ReduceOp::kAvg ? 1.0 / c.ranks : 1.0);
  KernelNode node(Collective::kAllReduce, dtype, op, c.ranks, c.count);
  const std::vector<Bytes> before = in_place ? inputs : outputs;
  std::vector<Bytes>& results = in_place ? inputs : outputs;
  const std::size_t shift = in_place ? c.shift : c.output_shift;
  for (int r = 0; r < c.ranks; ++r) {
    node.give(r, inputs[r].data() + c.shift, results[r].data() + shift);
  }
  node.run();
  const std::string what = std::string(name_of(op)) + " of " + std::string(name_of(dtype)) + ", " +
                           std::to_string(c.ranks) + " ranks, count " + std::to_string(c.count) +
                           ", shift " + std::to_string(c.shift) + "/" +
                           std::to_string(c.output_shift);
  for (int r = 0; r < c.ranks; ++r) {
    expect_same(dtype, results[r].data() + shift, wanted.data(), c.count, what);
    const auto ends_at = static_cast<std::ptrdiff_t>(shift + bytes);
    ASSERT_TRUE(
        std::equal(results[r].begin() + ends_at, results[r].end(), before[r].begin() + ends_at))
        << what << ": wrote beyond the end";
    ASSERT_TRUE(std::equal(results[r].begin(), results[r].begin() + std::ptrdiff_t(shift),
                           before[r].begin()))
        << what << ": wrote before the beginning";
  }
}

class KernelFold : public ::testing::TestWithParam<int> {};

// Counts around slices, lines and vectors; every misalignment of inputs, alone and against outputs.
TEST_P(KernelFold, HasTheHostsBits) {
  const auto dtype = static_cast<DataType>(GetParam());
  const auto size = static_cast<std::size_t>(size_of(dtype));
  for (int o = 0; o < kReduceOps; ++o) {
    const auto op = static_cast<ReduceOp>(o);
    if (!supports(op, dtype)) continue;
    for (const int ranks : {1, 2, 3, 5, 8}) {
      for (const std::int64_t count : {0, 1, 2, 7, 31, 129, 1000, 4099}) {
        const bool tame = count % 2 == 1;
        check_all_reduce(dtype, op, {ranks, count, 0, 0}, tame, true);
        check_all_reduce(dtype, op, {ranks, count, size % 16, size % 16}, tame, false);
      }
    }
    for (std::size_t shift = 0; shift < 16; ++shift) {
      check_all_reduce(dtype, op, {3, 517, shift, shift}, true, false);
      check_all_reduce(dtype, op, {3, 517, shift, (shift * 7 + 3) % 16}, false, false);
      check_all_reduce(dtype, op, {2, 517, shift, shift}, false, true);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Types, KernelFold, ::testing::Range(0, kDataTypes), [](const auto& type) {
  return std::string(name_of(static_cast<DataType>(type.param)));
});

TEST(KernelCollectives, MoveAndFoldWhatTheyShould) {
  for (int c = 0; c < kCollectives; ++c) {
    const auto collective = static_cast<Collective>(c);
    if (collective == Collective::kBarrier) continue;
    for (const DataType dtype : {DataType::kInt32, DataType::kUint8, DataType::kInt16}) {
      for (const int ranks : {1, 2, 3, 7}) {
        for (const std::int64_t count : {0, 1, 3, 64, 1021}) {
          const int root = ranks / 2;
          const auto bytes = static_cast<std::size_t>(ranks * count * size_of(dtype));
          std::vector<Bytes> inputs, outputs;
          for (int r = 0; r < ranks; ++r) {
            inputs.push_back(noise(bytes + 1, static_cast<unsigned>(r)));
            outputs.push_back(noise(bytes + 1, 77));
          }
          const auto wanted = expected(collective, dtype, count, root, inputs, outputs);
          KernelNode node(collective, dtype, ReduceOp::kSum, ranks, count);
          node.set_root(root);
          for (int r = 0; r < ranks; ++r) node.give(r, inputs[r].data(), outputs[r].data());
          node.run();
          ASSERT_EQ(outputs, wanted) << name_of(collective) << " of " << name_of(dtype) << ", "
                                     << ranks << " ranks, count " << count;
        }
      }
    }
  }
}

// In place, what lies where it belongs already is neither read nor written.
TEST(KernelCollectives, GatherAndScatterInPlace) {
  constexpr int kRanks = 3;
  constexpr std::int64_t kCount = 100;
  const auto place = [](Bytes& buffer, int rank) { return buffer.data() + rank * kCount; };
  std::vector<Bytes> all;
  for (int r = 0; r < kRanks; ++r) all.push_back(noise(kRanks * kCount, unsigned(r) + 5));
  Bytes wanted;
  for (int r = 0; r < kRanks; ++r) {
    wanted.insert(wanted.end(), place(all[r], r), place(all[r], r) + kCount);
  }
  KernelNode gather(Collective::kAllGather, DataType::kUint8, ReduceOp::kSum, kRanks, kCount);
  for (int r = 0; r < kRanks; ++r) gather.give(r, place(all[r], r), all[r].data());
  gather.run();
  for (const Bytes& buffer : all) EXPECT_EQ(buffer, wanted);
}

TEST(KernelCollectives, AMismatchIsReportedAndNothingWritten) {
  constexpr int kRanks = 3;
  std::vector<Bytes> data;
  for (int r = 0; r < kRanks; ++r) data.push_back(noise(256, unsigned(r)));
  const std::vector<Bytes> before = data;
  KernelNode node(Collective::kAllReduce, DataType::kUint8, ReduceOp::kSum, kRanks, 256);
  for (int r = 0; r < kRanks; ++r) node.give(r, data[r].data(), data[r].data());
  node.record(1).fingerprint = 0xbad;
  node.run();
  EXPECT_EQ(data, before);
  EXPECT_EQ(node.complaint(), complaint_of(7, 1));
}

TEST(KernelCollectives, NothingIsWrittenAfterAnAbort) {
  Bytes data = noise(256, 1);
  const Bytes before = data;
  Bytes input = noise(256, 2);
  KernelNode node(Collective::kBroadcast, DataType::kUint8, ReduceOp::kSum, 1, 256);
  node.give(0, input.data(), data.data());
  node.abort();
  node.run();
  EXPECT_EQ(data, before);
}

TEST(KernelList, EveryNameIsThereOnce) {
  for (int i = 0; i < kKernels; ++i) {
    EXPECT_NE(shoal_fake_kernel(kKernelNames[i]), nullptr) << kKernelNames[i];
    for (int j = 0; j < i; ++j) EXPECT_STRNE(kKernelNames[i], kKernelNames[j]);
  }
  EXPECT_EQ(shoal_fake_kernel("shoal_sum_of_nothing"), nullptr);
}

}  // namespace
}  // namespace shoal::cuda
