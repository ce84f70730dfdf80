#pragma once

#include <sched.h>

#include <atomic>

namespace shoal::exec {

inline void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Whose turn it is to drive an engine: a lock of this process that is held for a bounded piece of
/// work and is free as good as always. Taking it is one atomic exchange, giving it back a store;
/// who finds it taken gives way to the thread that has it. BasicLockable.
class Turn {
 public:
  void lock() noexcept {
    for (int tries = 0; !try_lock(); ++tries) {
      if (tries < 100) {
        relax();
      } else {
        ::sched_yield();
      }
    }
  }
  [[nodiscard]] bool try_lock() noexcept {
    // acquire: pairs with the release in unlock()
    return !taken_.load(std::memory_order_relaxed) &&
           !taken_.exchange(true, std::memory_order_acquire);
  }
  void unlock() noexcept {
    taken_.store(false, std::memory_order_release);  // pairs with the acquire in try_lock()
  }

 private:
  std::atomic<bool> taken_{false};
};

}  // namespace shoal::exec
