/// What NCCL has registered with one connection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

namespace shoal::nccl {

/// What NCCL holds as `mhandle`.
struct RegisteredMemory {
  std::uintptr_t begin = 0;
  std::size_t bytes = 0;
  void* handle = nullptr;  ///< the network's; nullptr: it needs or could get none
};

/// One thread at a time (the connection's lock).
class MemoryTable {
 public:
  RegisteredMemory* add(const RegisteredMemory& memory) {
    return &memory_.emplace(memory.begin, memory)->second;
  }
  /// False: it is none of this table's.
  bool remove(const RegisteredMemory* memory) noexcept {
    for (auto [entry, end] = memory_.equal_range(memory->begin); entry != end; ++entry) {
      if (&entry->second == memory) return memory_.erase(entry), true;
    }
    return false;
  }
  /// The network's handle for memory that holds all of these bytes; nullptr: the network sees to
  /// them itself.
  [[nodiscard]] void* find(const void* data, std::int64_t bytes) const noexcept {
    constexpr int kOverlapping =
        8;  // users' buffers may overlap; one that is missed costs time only
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    auto entry = memory_.upper_bound(begin);
    for (int i = 0; i < kOverlapping && entry != memory_.begin(); ++i) {
      const RegisteredMemory& memory = (--entry)->second;
      if (begin + static_cast<std::size_t>(bytes) <= memory.begin + memory.bytes) {
        return memory.handle;
      }
    }
    return nullptr;
  }
  template <class Visit>
  void clear(Visit&& visit) {
    for (auto& [begin, memory] : memory_) visit(memory);
    memory_.clear();
  }

 private:
  std::multimap<std::uintptr_t, RegisteredMemory> memory_;
};

}  // namespace shoal::nccl
