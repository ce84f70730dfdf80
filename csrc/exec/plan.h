/// What is to be done, worked out once per shape and kept.
#pragma once

#include <cstdint>
#include <functional>

#include "schedule/catalog.h"
#include "shoal/types.h"

namespace shoal::exec {

/// Everything all ranks must agree on, and nothing else: no address, no in-place. POD.
struct PlanKey {
  Collective collective = Collective::kBarrier;
  DataType dtype = DataType::kUint8;
  ReduceOp op = ReduceOp::kSum;
  bool deterministic = false;
  std::uint16_t root = 0;
  std::int64_t count = 0;  ///< elements of one block, see schedule/shape.h

  friend bool operator==(const PlanKey&, const PlanKey&) = default;
};

/// 2^36 elements in one block; what a fingerprint can hold.
inline constexpr std::int64_t kMaxCount = (std::int64_t{1} << 36) - 1;

/// All of a key in 64 bits, so that a mismatch can name both sides:
/// collective 4 | dtype 4 | op 3 | deterministic 1 | root 16 | count 36.
constexpr std::uint64_t fingerprint(const PlanKey& key) noexcept {
  return std::uint64_t(key.collective) << 60 | std::uint64_t(key.dtype) << 56 |
         std::uint64_t(key.op) << 53 | std::uint64_t(key.deterministic) << 52 |
         std::uint64_t(key.root) << 36 | static_cast<std::uint64_t>(key.count);
}

constexpr PlanKey key_of(std::uint64_t fingerprint) noexcept {
  PlanKey key;
  key.collective = static_cast<Collective>(fingerprint >> 60 & 0xf);
  key.dtype = static_cast<DataType>(fingerprint >> 56 & 0xf);
  key.op = static_cast<ReduceOp>(fingerprint >> 53 & 0x7);
  key.deterministic = (fingerprint >> 52 & 1) != 0;
  key.root = static_cast<std::uint16_t>(fingerprint >> 36 & 0xffff);
  key.count = static_cast<std::int64_t>(fingerprint & kMaxCount);
  return key;
}

/// The part of a fingerprint that travels in every message: a mix, so that any difference shows
/// with probability 1 - 2^-12.
constexpr std::uint16_t short_fingerprint(std::uint64_t fingerprint) noexcept {
  std::uint64_t x = fingerprint;
  x = (x ^ (x >> 31)) * 0x7fb5d329728ea185;
  x = (x ^ (x >> 27)) * 0x81dadef4bc2dd44d;
  return static_cast<std::uint16_t>((x ^ (x >> 33)) & 0xfff);
}

struct KeyHash {
  std::size_t operator()(const PlanKey& key) const noexcept {
    return std::hash<std::uint64_t>{}(fingerprint(key) * 0x9e3779b97f4a7c15);
  }
};

/// Immutable once made.
struct Plan {
  PlanKey key;
  std::uint64_t fingerprint = 0;
  schedule::Algorithm algorithm = schedule::Algorithm::kDirect;
  schedule::Shape shape;  ///< as this rank sees it
  std::int64_t element_bytes = 1;
  std::int64_t input_bytes = 0;  ///< of this rank's buffers
  std::int64_t output_bytes = 0;
  std::int64_t scratch_bytes = 0;
  /// Every rank's whole input fits an entry line: the operation is the line and nothing else.
  /// Opaque step; its specification is `direct`.
  bool in_line = false;
};

/// `shape` as this rank sees it, without collective, root and count.
Plan make_plan(const PlanKey& key, schedule::Algorithm algorithm, schedule::Shape shape,
               bool one_node) noexcept;

}  // namespace shoal::exec
