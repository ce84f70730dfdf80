#include "torch/elements.h"

#include <ATen/ops/mul.h>

#include <optional>

namespace shoal::torch {

namespace {

std::optional<DataType> known(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return DataType::kFloat32;
    case at::kDouble:
      return DataType::kFloat64;
    case at::kHalf:
      return DataType::kFloat16;
    case at::kBFloat16:
      return DataType::kBfloat16;
    case at::kFloat8_e4m3fn:
      return DataType::kFloat8E4m3;
    case at::kFloat8_e5m2:
      return DataType::kFloat8E5m2;
    case at::kChar:
      return DataType::kInt8;
    case at::kShort:
      return DataType::kInt16;
    case at::kInt:
      return DataType::kInt32;
    case at::kLong:
      return DataType::kInt64;
    case at::kByte:
    case at::kBool:
      return DataType::kUint8;
    case at::kUInt16:
      return DataType::kUint16;
    case at::kUInt32:
      return DataType::kUint32;
    case at::kUInt64:
      return DataType::kUint64;
    default:
      return std::nullopt;
  }
}

ReduceOp op_of_bools(const char* call, const c10d::ReduceOp& op) {
  switch (op) {
    case c10d::ReduceOp::SUM:
    case c10d::ReduceOp::MAX:
    case c10d::ReduceOp::BOR:
      return ReduceOp::kMax;
    case c10d::ReduceOp::PRODUCT:
    case c10d::ReduceOp::MIN:
    case c10d::ReduceOp::BAND:
      return ReduceOp::kMin;
    case c10d::ReduceOp::BXOR:
      return ReduceOp::kBxor;
    default:
      TORCH_CHECK(false, call, ": bools have no average; convert the tensor to a floating type");
  }
}

}  // namespace

Elements moved(const at::Tensor& tensor) {
  if (const auto dtype = known(tensor.scalar_type())) return {*dtype, {tensor.numel()}};
  return {DataType::kUint8, {static_cast<std::int64_t>(tensor.nbytes())}};
}

Elements reduced(const char* call, const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kComplexFloat) return {DataType::kFloat32, {2 * tensor.numel()}};
  if (tensor.scalar_type() == at::kComplexDouble) return {DataType::kFloat64, {2 * tensor.numel()}};
  const auto dtype = known(tensor.scalar_type());
  TORCH_CHECK(dtype.has_value(), call, ": ", tensor.scalar_type(),
              " cannot be reduced; convert the tensor to a floating or integer type");
  return {*dtype, {tensor.numel()}};
}

ReduceOp op_for(const char* call, const c10d::ReduceOp& op, at::ScalarType type) {
  if (type == at::kBool) return op_of_bools(call, op);
  const bool is_linear =
      op == c10d::ReduceOp::SUM || op == c10d::ReduceOp::AVG || op == c10d::ReduceOp::PREMUL_SUM;
  TORCH_CHECK(!at::isComplexType(type) || is_linear, call,
              ": complex numbers have sums and averages only");
  const bool is_bitwise =
      op == c10d::ReduceOp::BAND || op == c10d::ReduceOp::BOR || op == c10d::ReduceOp::BXOR;
  TORCH_CHECK(!is_bitwise || at::isIntegralType(type, /*includeBool=*/true), call,
              ": bitwise operations are for integers and bools; the tensor is ", type);
  switch (op) {
    case c10d::ReduceOp::SUM:
    case c10d::ReduceOp::PREMUL_SUM:
      return ReduceOp::kSum;
    case c10d::ReduceOp::AVG:
      TORCH_CHECK(!at::isIntegralType(type, /*includeBool=*/true), call,
                  ": integers have no average; use SUM and divide, or a floating type");
      return ReduceOp::kAvg;
    case c10d::ReduceOp::PRODUCT:
      return ReduceOp::kProd;
    case c10d::ReduceOp::MIN:
      return ReduceOp::kMin;
    case c10d::ReduceOp::MAX:
      return ReduceOp::kMax;
    case c10d::ReduceOp::BAND:
      return ReduceOp::kBand;
    case c10d::ReduceOp::BOR:
      return ReduceOp::kBor;
    case c10d::ReduceOp::BXOR:
      return ReduceOp::kBxor;
    default:
      TORCH_CHECK(false, call, ": this reduce op is not known");
  }
}

at::Tensor prescaled(const at::Tensor& tensor, const c10d::ReduceOp& op) {
  if (op != c10d::ReduceOp::PREMUL_SUM) return tensor;
  TORCH_CHECK(at::isFloatingType(tensor.scalar_type()) || at::isComplexType(tensor.scalar_type()),
              "PREMUL_SUM is for floating types; the tensor is ", tensor.scalar_type());
  // NCCL's by name only: torch 2.13 calls it PreMulSumSupplement, too.
  const auto* factor = static_cast<c10d::NCCLPreMulSumSupplement*>(op.supplement_.get());
  TORCH_CHECK(factor != nullptr, "PREMUL_SUM without its factor: use _make_nccl_premul_sum");
  const auto type = tensor.scalar_type();
  const bool is_float8 = type == at::kFloat8_e4m3fn || type == at::kFloat8_e5m2;
  const at::Tensor x = is_float8 ? tensor.to(at::kFloat) : tensor;  // torch multiplies no float8
  if (!factor->tensor_factor.defined()) return at::mul(x, factor->double_factor).to(type);
  at::Tensor by = factor->tensor_factor.to(tensor.device());
  if (is_float8) by = by.to(at::kFloat);
  return at::mul(x, by).to(type);
}

}  // namespace shoal::torch
