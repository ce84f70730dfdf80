#pragma once

#include <memory>
#include <vector>

namespace shoal::transport::rail {

/// Objects at stable addresses, used again: grows to the most that were ever in use. One thread.
template <class T>
class Spares {
 public:
  std::unique_ptr<T> take() {
    if (free_.empty()) return std::make_unique<T>();
    std::unique_ptr<T> object = std::move(free_.back());
    free_.pop_back();
    return object;
  }
  void give(std::unique_ptr<T> object) { free_.push_back(std::move(object)); }

 private:
  std::vector<std::unique_ptr<T>> free_;
};

}  // namespace shoal::transport::rail
