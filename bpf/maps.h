/// The maps that all objects of programs have in common, and reading of maps.
#pragma once

#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <vector>

#include "handles.h"
#include "tracer.h"

namespace shoal::tracer {

/// Made before any program is loaded, so that one that cannot be loaded takes nothing from the
/// others.
class SharedMaps {
 public:
  /// Throws Refused.
  explicit SharedMaps(uint32_t ring_bytes);

  /// Lets the maps of these names in `object` (opened, not loaded) be these.
  void give_to(bpf_object* object) const;

  [[nodiscard]] int watched() const noexcept { return watched_.get(); }
  [[nodiscard]] int threads() const noexcept { return threads_.get(); }
  [[nodiscard]] int events() const noexcept { return events_.get(); }
  [[nodiscard]] uint64_t drops() const;

 private:
  Fd watched_, threads_, events_, drops_;
};

/// Calls `each(key, value)` for all of a hash map. One system call for 256 of them.
template <class Key, class Value, class Each>
void read_hash(int map, Each&& each) {
  constexpr uint32_t kBatch = 256;
  std::vector<Key> keys(kBatch);
  std::vector<Value> values(kBatch);
  uint32_t position = 0;  // of the kernel: opaque, valid from the second call on
  // A map that is written meanwhile could go on for ever: no map of ours holds more than this.
  for (uint32_t batch = 0; batch < 1024; ++batch) {
    uint32_t count = kBatch;
    const int result = bpf_map_lookup_batch(map, batch == 0 ? nullptr : &position, &position,
                                            keys.data(), values.data(), &count, nullptr);
    if (result != 0 && errno != ENOENT) return;
    for (uint32_t i = 0; i < count; ++i) each(keys[i], values[i]);
    if (result != 0) return;
  }
}

/// The values of all processors for one key of a per-CPU map; empty if the key is not there.
template <class Value, class Key>
std::vector<Value> read_per_cpu(int map, const Key& key) {
  static_assert(sizeof(Value) % 8 == 0, "the kernel copies multiples of eight bytes");
  std::vector<Value> values(static_cast<size_t>(std::max(1, libbpf_num_possible_cpus())));
  if (bpf_map_lookup_elem(map, &key, values.data()) != 0) values.clear();
  return values;
}

}  // namespace shoal::tracer
