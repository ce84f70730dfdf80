/// Queues of what waits to be matched: first in, first out for each (peer, key).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>

namespace shoal::transport::shm {

/// What an element of a FifoMap and of an ElementPool derives from.
template <class T>
struct Element {
  T* next = nullptr;
  std::uint64_t key = 0;
  int peer = 0;
};

/// Elements at stable addresses, used again: allocates only beyond the largest number ever in use.
/// One thread.
template <class T>
class ElementPool {
 public:
  T* take() {
    if (free_ == nullptr) return &storage_.emplace_back();
    T* element = free_;
    free_ = element->next;
    *element = T{};
    return element;
  }
  void give(T* element) noexcept {
    element->next = free_;
    free_ = element;
  }

 private:
  std::deque<T> storage_;
  T* free_ = nullptr;
};

/// A hash table of chains, each in order of arrival; the elements belong to the caller. The first
/// element of a (peer, key) found in its chain is therefore the oldest. One thread.
template <class T>
class FifoMap {
 public:
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// Element::peer and Element::key say where.
  void push(T* element) noexcept {
    Chain& chain = chain_of(element->peer, element->key);
    element->next = nullptr;
    *(chain.last == nullptr ? &chain.first : &chain.last->next) = element;
    chain.last = element;
    ++size_;
  }

  [[nodiscard]] T* find(int peer, std::uint64_t key) noexcept {
    T* element = chain_of(peer, key).first;
    while (element != nullptr && !(element->peer == peer && element->key == key)) {
      element = element->next;
    }
    return element;
  }

  /// The oldest of (peer, key), taken out; nullptr: none.
  T* pop(int peer, std::uint64_t key) noexcept {
    T* element = find(peer, key);
    if (element != nullptr) remove(element);
    return element;
  }

  /// Takes out an element that is in the map.
  void remove(T* element) noexcept {
    Chain& chain = chain_of(element->peer, element->key);
    T* previous = nullptr;
    for (T* e = chain.first; e != element; e = e->next) previous = e;
    *(previous == nullptr ? &chain.first : &previous->next) = element->next;
    if (chain.last == element) chain.last = previous;
    --size_;
  }

 private:
  struct Chain {
    T* first = nullptr;
    T* last = nullptr;
  };
  static constexpr std::size_t kChains = 1024;  // 16 KiB; a job has tens of messages in flight

  [[nodiscard]] Chain& chain_of(int peer, std::uint64_t key) noexcept {
    const std::uint64_t mixed =
        (key ^ (static_cast<std::uint64_t>(peer) << 40)) * 0x9e3779b97f4a7c15;  // Fibonacci hashing
    return chains_[mixed >> 54];
  }

  std::array<Chain, kChains> chains_{};
  std::size_t size_ = 0;
};

}  // namespace shoal::transport::shm
