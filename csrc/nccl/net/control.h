/// Is the other side still there? The socket that a connection began on stays open for this: the
/// kernel closes it when the other process ends, however it ends; and who has waited for long asks,
/// which the other side's watching thread answers, so silence means a stopped process or a lost
/// host. (A host that is lost ends the socket within 30 s of a question: TCP_USER_TIMEOUT.)
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/fd.h"

namespace shoal::nccl {

/// Any thread.
class Control {
 public:
  explicit Control(Fd socket) noexcept;

  /// When the other side was seen to have closed it; 0: it has not.
  [[nodiscard]] std::int64_t ended_ns() const noexcept {
    return ended_ns_.load(std::memory_order_acquire);  // pairs with the release in end()
  }
  /// Of what has ended it; 0: the other side closed it in order, or its process ended.
  [[nodiscard]] int error() const noexcept { return error_.load(std::memory_order_relaxed); }
  void ask() noexcept;
  /// How long the oldest question has waited for its answer; 0: none does.
  [[nodiscard]] std::int64_t silent_ns(std::int64_t now_ns) const noexcept;

 private:
  friend class Watcher;
  /// By the watching thread. False: it has ended.
  bool read() noexcept;
  void say(char word) noexcept;
  void end(int error) noexcept;

  Fd socket_;
  std::atomic<std::int64_t> ended_ns_{0};
  std::atomic<int> error_{0};
  std::atomic<std::int64_t> asked_ns_{0};  ///< relaxed everywhere: a time for people
};

/// What goes on between NCCL's calls: a send that is done for NCCL may still need progress until
/// the other side has it (UCX over TCP, rails), and NCCL calls no more once all is done.
class Nudged {
 public:
  virtual ~Nudged() = default;
  /// Must not block. True: again in a millisecond; false: a tenth of a second will do.
  virtual bool nudge() noexcept = 0;
};

/// One thread for all connections of the process, there while there are connections and until the
/// process begins to exit: NCCL need not have closed anything then, and UCX is taken down under us.
/// Any thread.
class Watcher {
 public:
  static Watcher& instance();

  /// `nudged`: may be nullptr. Throws Error(kSystem) when there can be no thread.
  void add(const std::shared_ptr<Control>& control, Nudged* nudged);
  void remove(const std::shared_ptr<Control>& control) noexcept;
  /// When this returns it is not being nudged, and will not be.
  void stop_nudging(Nudged& nudged) noexcept;
  /// Somebody wants to be nudged soon.
  void wake() noexcept;

 private:
  struct Thread;
  Watcher();
  void stop() noexcept;
  std::unique_ptr<Thread> thread_;
};

}  // namespace shoal::nccl
