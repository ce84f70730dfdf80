/// What collectives are to leave behind, written another way.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "reduce/reduce.h"
#include "shoal/types.h"

namespace shoal::cuda::testing {

using Array = std::vector<unsigned char>;

/// Any bits at all: infinities, NaNs and subnormal numbers among them.
inline Array noise(std::size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  Array data(bytes);
  for (unsigned char& byte : data) byte = static_cast<unsigned char>(random());
  return data;
}

/// What every rank's output is to be, written another way.
inline std::vector<Array> expected(Collective collective, DataType dtype, std::int64_t count,
                                   int root, const std::vector<Array>& inputs,
                                   const std::vector<Array>& outputs) {
  const int ranks = static_cast<int>(inputs.size());
  const auto block = static_cast<std::size_t>(count * size_of(dtype));
  std::vector<Array> wanted = outputs;
  const auto put = [&](int rank, std::size_t to, int from, std::size_t at) {
    std::copy_n(inputs[from].begin() + std::ptrdiff_t(at), block,
                wanted[rank].begin() + std::ptrdiff_t(to));
  };
  const auto put_fold = [&](int rank, std::size_t at) {
    std::vector<const void*> sources;
    for (const Array& input : inputs) sources.push_back(input.data() + at);
    reduce::fold(dtype, ReduceOp::kSum, wanted[rank].data(), sources, count);
  };
  for (int r = 0; r < ranks; ++r) {
    const auto me = static_cast<std::size_t>(r);
    if (collective == Collective::kBroadcast) put(r, 0, root, 0);
    if (collective == Collective::kReduce && r == root) put_fold(r, 0);
    if (collective == Collective::kAllReduce) put_fold(r, 0);
    if (collective == Collective::kReduceScatter) put_fold(r, me * block);
    if (collective == Collective::kScatter) put(r, 0, root, me * block);
    for (int q = 0; q < ranks; ++q) {
      const auto from = static_cast<std::size_t>(q);
      if (collective == Collective::kAllGather) put(r, from * block, q, 0);
      if (collective == Collective::kGather && r == root) put(r, from * block, q, 0);
      if (collective == Collective::kAllToAll) put(r, from * block, q, me * block);
    }
  }
  return wanted;
}

}  // namespace shoal::cuda::testing
