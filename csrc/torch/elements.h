/// torch's element types and reductions, in shoal's words.
#pragma once

#include <ATen/core/Tensor.h>

#include <torch/csrc/distributed/c10d/Types.hpp>

#include "shoal/communicator.h"

namespace shoal::torch {

/// What a tensor's memory holds, for a call: `count` elements of `dtype`.
struct Elements {
  DataType dtype;
  Count count;
};

/// For calls that only move data: any type; one that shoal does not know goes as bytes.
Elements moved(const at::Tensor& tensor);

/// For reductions. Complex numbers are pairs of floats (sums only), bools are 0 and 1: see
/// op_for(). Throws c10::Error naming `call` for other types.
Elements reduced(const char* call, const at::Tensor& tensor);

/// Of bools: sum, max and bor are "or", product, min and band are "and", as under NCCL; what
/// torch.bool holds stays 0 or 1. PREMUL_SUM is a sum; prescale() comes before it.
ReduceOp op_for(const char* call, const c10d::ReduceOp& op, at::ScalarType type);

/// The tensor, or what PREMUL_SUM makes of it: a new one, multiplied by the factor.
at::Tensor prescaled(const at::Tensor& tensor, const c10d::ReduceOp& op);

}  // namespace shoal::torch
