#include "comm/selector.h"

#include "core/assert.h"
#include "tune/text.h"

namespace shoal::comm {

namespace {

using schedule::Algorithm;

// Up to here a message's latency outweighs its bytes (TCP: 5 us against 9 GB/s).
constexpr std::int64_t kLatencyBytes = 32 << 10;
// Of two ranks, who exchange as many bytes in one round as in two: up to here the round saved
// outweighs that each folds all of them (TCP, 256 KiB: 67 us against 82; 1 MiB: 222 against 202).
constexpr std::int64_t kPairBytes = 512 << 10;
// Above this, ring's nearest-neighbour traffic wins over Rabenseifner's long distances.
constexpr std::int64_t kRingBytes = 4 << 20;
// Blocks up to here are worth Bruck's log2 P rounds of combined, repeatedly forwarded blocks.
constexpr std::int64_t kBruckBlockBytes = 256;
// Blocks up to here are worth being collected in the node, so that fewer messages cross the network
// (4 ranks on 2 nodes over TCP, 1 MiB: 365 us without, 690 us with).
constexpr std::int64_t kParcelBlockBytes = 32 << 10;
// A broadcast up to here is done before a node has met (4 ranks on 2 nodes, 8 B: 26 us against 40).
constexpr std::int64_t kTinyBroadcastBytes = 256;
// Up to so many nodes the rounds of a ring between them cost less than more bytes.
constexpr Rank kFewNodes = 8;

Choice over_messages(const exec::PlanKey& key, const schedule::Shape& shape) noexcept {
  const std::int64_t bytes = key.count * size_of(key.dtype);
  switch (key.collective) {
    case Collective::kBarrier:
      return {Algorithm::kDissemination, "ceil(log2 P) rounds"};
    case Collective::kBroadcast:
    case Collective::kGather:
    case Collective::kScatter:
      return {Algorithm::kBinomial, "ceil(log2 P) rounds"};
    case Collective::kReduce:
      if (key.deterministic) return {Algorithm::kOrdered, "deterministic: folds in rank order"};
      return {Algorithm::kBinomial, "ceil(log2 P) rounds"};
    case Collective::kAllReduce:
      if (key.deterministic) return {Algorithm::kOrdered, "deterministic: folds in rank order"};
      if (bytes <= (shape.ranks == 2 ? kPairBytes : kLatencyBytes)) {
        return {Algorithm::kRecursiveDoubling, "small: fewest rounds"};
      }
      if (bytes <= kRingBytes)
        return {Algorithm::kRabenseifner, "medium: log2 P rounds, 2 N bytes"};
      return {Algorithm::kRing, "large: 2 N bytes to neighbours only"};
    case Collective::kAllGather:
      if (bytes * shape.ranks <= kLatencyBytes) return {Algorithm::kBruck, "small: fewest rounds"};
      return {Algorithm::kRing, "large: neighbours only"};
    case Collective::kReduceScatter:
      if (key.deterministic) return {Algorithm::kOrdered, "deterministic: folds in rank order"};
      if (bytes <= kLatencyBytes) return {Algorithm::kPairwise, "small: all exchanges at once"};
      return {Algorithm::kRing, "large: neighbours only"};
    case Collective::kAllToAll:
      if (bytes <= kBruckBlockBytes && shape.ranks >= 8) {
        return {Algorithm::kBruck, "small blocks, many ranks: ceil(log2 P) rounds"};
      }
      return {Algorithm::kPairwise, "every byte travels once"};
  }
  return {Algorithm::kRing, ""};
}

/// Of an algorithm that is direct in the node: is it worth more than messages between all ranks?
bool pays_to_meet_node(const exec::PlanKey& key, const schedule::Shape& shape) noexcept {
  const std::int64_t bytes = key.count * size_of(key.dtype);
  switch (key.collective) {
    case Collective::kBroadcast:
      return bytes > kTinyBroadcastBytes;
    case Collective::kAllToAll:
      return bytes <= kParcelBlockBytes;
    case Collective::kAllGather:  // a ring between nodes
      return shape.nodes() <= kFewNodes || bytes * shape.ranks > kLatencyBytes;
    default:
      return true;
  }
}

Choice by_rule(const exec::PlanKey& key, const schedule::Shape& shape) noexcept {
  const schedule::Entry* entry = schedule::find(key.collective, Algorithm::kHierarchical);
  if (entry != nullptr && !key.deterministic && schedule::supports(*entry, shape) &&
      pays_to_meet_node(key, shape)) {
    return {Algorithm::kHierarchical,
            "several ranks a node: direct in the node, then between nodes"};
  }
  const Choice choice = over_messages(key, shape);
  SHOAL_ASSERT(schedule::find(key.collective, choice.algorithm) != nullptr);
  return choice;
}

}  // namespace

Choice choose(const exec::PlanKey& key, schedule::Shape shape, bool one_node,
              const tune::Table& table, bool has_put) noexcept {
  shape.collective = key.collective;
  shape.root = key.root;
  shape.count = key.count;
  if (one_node) return {Algorithm::kDirect, "one node: straight out of the ranks' buffers"};
  if (key.deterministic) return by_rule(key, shape);
  const std::int64_t bytes = schedule::largest_blocks(shape) * key.count * size_of(key.dtype);
  const tune::Row* row = table.find(shape, bytes);
  const bool answers = row != nullptr && (has_put || !schedule::is_one_sided(row->algorithm));
  return answers ? Choice{row->algorithm, "", row} : by_rule(key, shape);
}

std::string reason(const Choice& choice, const schedule::Shape& shape, const tune::Table& table) {
  if (choice.measured == nullptr) return std::string(choice.rule);
  return tune::describe(table, *choice.measured, shape);
}

}  // namespace shoal::comm
