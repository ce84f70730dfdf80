#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "memory/pool.h"
#include "shoal/types.h"

namespace shoal::exec {

/// Something the engine drives until it is done. poll() and everything it touches are under the
/// engine's lock; done() may be asked by any thread.
class Task {
 public:
  virtual ~Task() = default;

  /// Goes as far as it can without waiting. `now_ns` is 0 in rounds that do not look at the clock.
  /// True if anything moved.
  virtual bool poll(std::int64_t now_ns) noexcept = 0;
  /// Ends its communicator if an error is there to be seen, which is then its error; does not go
  /// on.
  virtual void look() noexcept {}
  /// Back to its pool.
  virtual void recycle() noexcept = 0;

  [[nodiscard]] bool done() const noexcept {
    // acquire: pairs with the release in finish(); buffers and status are visible
    return done_.load(std::memory_order_acquire);
  }
  /// Valid when done.
  [[nodiscard]] Status status() const noexcept { return status_; }
  [[nodiscard]] const std::string& text() const noexcept { return text_; }
  /// The next event it needs may come from another node, so that the doorbell alone does not do.
  [[nodiscard]] virtual bool waits_for_network() const noexcept = 0;
  /// It goes on without anybody who waits: it may be released before it is done, and is polled only
  /// while somebody does wait (Engine::adopt).
  [[nodiscard]] virtual bool is_detached() const noexcept { return false; }
  /// What it waits for rings no bell: a thread that sleeps has to look again soon.
  [[nodiscard]] virtual bool is_silent() const noexcept { return false; }
  /// When done, of a receive: the rank whose message it got; kAnySource: it got none.
  [[nodiscard]] virtual Rank source() const noexcept { return kAnySource; }

 protected:
  void restart() noexcept {
    status_ = kOkStatus;
    text_.clear();
    done_.store(false, std::memory_order_relaxed);
  }
  void finish(Status status) noexcept {
    status_ = status;
    done_.store(true, std::memory_order_release);  // pairs with the acquire in done()
  }
  void set_text(const std::string& text) { text_ = text; }

 private:
  std::atomic<bool> done_{true};
  Status status_{};
  std::string text_;
};

/// Tasks are kept and used again: nothing is allocated after the first use. Each is made with its
/// number in the pool. Under the engine's lock.
template <class T>
class TaskPool {
 public:
  explicit TaskPool(memory::Pool& pool) noexcept : pool_(&pool) {}

  T& acquire() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<T>(*this, static_cast<int>(all_.size())));
      free_.reserve(all_.size());
      free_.push_back(all_.back().get());
    }
    T* task = free_.back();
    free_.pop_back();
    return *task;
  }
  void release(T& task) noexcept { free_.push_back(&task); }
  /// Where tasks take staging and scratch blocks from.
  [[nodiscard]] memory::Pool& pool() const noexcept { return *pool_; }

 private:
  memory::Pool* pool_;
  std::vector<std::unique_ptr<T>> all_;
  std::vector<T*> free_;
};

}  // namespace shoal::exec
