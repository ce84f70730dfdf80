/// How the ranks of a node stop writing into one another's buffers after an error.
///
/// Whoever first knows of an error raises the flag. Every rank that sees it stops executing steps
/// of this communicator and acknowledges; when all possible writers have acknowledged (or are dead)
/// a rank's buffers are its own again. A rank that cannot acknowledge, because it is stopped, is
/// cut off (Arena::cut_off). The flag is never lowered: the communicator has ended.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/status.h"
#include "transport/shm/layout.h"

namespace shoal::exec {

/// A view of shared control memory, zeroed before use. Any thread.
class AbortBoard {
 public:
  AbortBoard() noexcept = default;
  AbortBoard(std::byte* control, int self) noexcept
      : text_(reinterpret_cast<char*>(control)),
        lines_(reinterpret_cast<Line*>(control + kTextBytes)),
        self_(self) {}

  static constexpr std::int64_t bytes(int ranks) noexcept {
    return kTextBytes + (1 + ranks) * static_cast<std::int64_t>(sizeof(Line));
  }

  /// The first error wins; `status.rank` is a rank of the communicator. `text` is cut where it does
  /// not fit.
  void raise(Status status, const std::string& text) noexcept {
    if (lines_ == nullptr) return;
    std::uint64_t none = 0;
    if (!lines_[0].word.compare_exchange_strong(none, kClaimed, std::memory_order_acq_rel)) return;
    const std::size_t length = std::min(text.size(), std::size_t{kTextBytes - 1});
    std::memcpy(text_, text.data(), length);
    text_[length] = '\0';
    // release: pairs with the acquire in raised(); the text is complete. Ordered with the entry
    // lines by fences: Group::fail(), and Binding::ring_node() after an entry
    lines_[0].word.store(
        kRaised | std::uint64_t(status.code) << 32 | static_cast<std::uint32_t>(status.rank),
        std::memory_order_release);
  }
  /// What raise() was given; valid once raised() is an error.
  [[nodiscard]] std::string text() const { return text_; }
  [[nodiscard]] bool is_raised() const noexcept {
    // acquire: pairs with the release in raise()
    return lines_ != nullptr && (lines_[0].word.load(std::memory_order_acquire) & kRaised) != 0;
  }
  [[nodiscard]] Status raised() const noexcept {
    if (lines_ == nullptr) return kOkStatus;
    // acquire: pairs with the release in raise()
    const std::uint64_t word = lines_[0].word.load(std::memory_order_acquire);
    if ((word & kRaised) == 0) return kOkStatus;
    return {static_cast<ErrorCode>(word >> 32 & 0xff),
            static_cast<std::int32_t>(static_cast<std::uint32_t>(word)), 0};
  }
  /// This rank executes no step of this communicator any more.
  void acknowledge() noexcept {
    // release: pairs with the acquire in acknowledged(); its earlier stores have happened
    if (lines_ != nullptr) lines_[1 + self_].word.store(1, std::memory_order_release);
  }
  [[nodiscard]] bool acknowledged(int node_index) const noexcept {
    // acquire: pairs with the release in acknowledge()
    return lines_ == nullptr || lines_[1 + node_index].word.load(std::memory_order_acquire) != 0;
  }

 private:
  static constexpr std::uint64_t kRaised = std::uint64_t{1} << 63;
  static constexpr std::uint64_t kClaimed = std::uint64_t{1} << 62;  ///< the text is being written
  static constexpr std::int64_t kTextBytes = 1024;
  struct alignas(transport::shm::kCacheLine) Line {
    std::atomic<std::uint64_t> word;
  };
  char* text_ = nullptr;
  Line* lines_ = nullptr;
  int self_ = 0;
};

}  // namespace shoal::exec
