/// A DeviceGroup over the pools of a DeviceArena.
#pragma once

#include <optional>

#include "cuda/device_arena.h"
#include "cuda/stream_group.h"

namespace shoal::cuda {

/// Buffers that lie in no pool of the node, but on the device, are staged: copied into a block of
/// this rank's pool and out of one, on the stream. Unless nobody else touches them: of one-shot
/// operations they are used as they are.
class ArenaGroup final : public DeviceGroup {
 public:
  /// The arena outlives the group. Throws Error.
  ArenaGroup(DeviceArena& arena, const GroupOptions& options);
  ~ArenaGroup() override;

  Way prepare(const GroupCall& call) override;
  void submit(std::uint64_t sequence, std::uint64_t fingerprint) override;
  [[nodiscard]] int absent() const noexcept override { return group_.absent(); }
  [[nodiscard]] std::uint32_t issued() const noexcept override { return group_.issued(); }
  [[nodiscard]] bool has_room() const noexcept override { return group_.has_room(); }
  [[nodiscard]] bool is_over(std::uint32_t number) const noexcept override {
    return group_.is_over(number);
  }
  [[nodiscard]] bool is_reached(int place, std::uint32_t number) const noexcept override {
    return group_.is_reached_by(place, number);
  }
  [[nodiscard]] int awaited(std::uint32_t number) const noexcept override {
    return group_.awaited(number);
  }
  [[nodiscard]] int complained_of() const noexcept override { return group_.complained_of(); }
  [[nodiscard]] bool has_captures() const noexcept override { return group_.has_captures(); }
  Stuck stuck_capture(std::int64_t now_ns) noexcept override {
    return group_.stuck_capture(now_ns);
  }
  void abort() noexcept override { group_.abort(); }
  [[nodiscard]] bool is_aborted() const noexcept override { return group_.is_aborted(); }
  [[nodiscard]] bool is_drained(int place) const noexcept override {
    return group_.is_drained(place);
  }

 private:
  /// A block that buffers are staged in; free again when an operation is over.
  struct Block {
    std::uint64_t address = 0;
    std::int64_t bytes = 0;
    std::uint32_t number = 0;
  };
  /// Where a buffer of the prepared call lies.
  struct Buffer {
    Location location;
    std::uint64_t user = 0;  ///< address, as the user gave it
    std::int64_t bytes = 0;
    bool is_own = false;          ///< in this rank's pool
    std::size_t staging = kNone;  ///< in blocks_
  };
  static constexpr std::size_t kNone = ~std::size_t{0};

  Buffer find(const GroupCall& call, const char* which, std::uint64_t address, std::int64_t bytes);
  [[nodiscard]] bool goes_one_shot(const GroupCall& call) const noexcept;
  std::size_t take_block(std::int64_t bytes);
  [[nodiscard]] std::uint64_t address_of(const Buffer& buffer) const noexcept;
  void copy(std::uint64_t to, std::uint64_t from, std::int64_t bytes);
  void check(const Outcome& outcome) const;

  DeviceArena* arena_;
  Members members_;
  int self_;  ///< local rank
  StreamGroup group_;
  std::vector<Block> blocks_;
  StreamCall call_;
  Buffer input_, output_;
  Way way_ = Way::kOrdered;
};

}  // namespace shoal::cuda
