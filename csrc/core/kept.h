/// What is never given back, because something that cannot be stopped may still use it.
#pragma once

#include <mutex>
#include <utility>
#include <vector>

namespace shoal {

/// Static and never destroyed, so that leak checkers find what is kept and see that it is meant.
/// Any thread.
template <class T>
void keep_for_ever(T what) {
  static std::mutex mutex;
  static auto* const kept = new std::vector<T>;
  const std::lock_guard lock(mutex);
  kept->push_back(std::move(what));
}

}  // namespace shoal
