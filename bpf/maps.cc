#include "maps.h"

#include <cstring>
#include <numeric>

namespace shoal::tracer {
namespace {

Fd make(bpf_map_type type, const char* name, uint32_t key_bytes, uint32_t value_bytes,
        uint32_t entries) {
  const int fd = bpf_map_create(type, name, key_bytes, value_bytes, entries, nullptr);
  if (fd < 0)
    throw Refused(std::string("making the map ") + name + ": " + std::strerror(errno), errno);
  return Fd(fd);
}

}  // namespace

SharedMaps::SharedMaps(uint32_t ring_bytes)
    : watched_(make(BPF_MAP_TYPE_HASH, "watched", sizeof(uint32_t), sizeof(uint32_t), kMaxThreads)),
      threads_(
          make(BPF_MAP_TYPE_HASH, "threads", sizeof(uint32_t), sizeof(thread_record), kMaxThreads)),
      events_(make(BPF_MAP_TYPE_RINGBUF, "events", 0, 0, ring_bytes)),
      drops_(make(BPF_MAP_TYPE_PERCPU_ARRAY, "drops", sizeof(uint32_t), sizeof(uint64_t), 1)) {}

void SharedMaps::give_to(bpf_object* object) const {
  const std::pair<const char*, const Fd&> maps[] = {
      {"watched", watched_}, {"threads", threads_}, {"events", events_}, {"drops", drops_}};
  for (const auto& [name, fd] : maps) {
    bpf_map* map = bpf_object__find_map_by_name(object, name);
    if (map != nullptr) bpf_map__reuse_fd(map, fd.get());
  }
}

uint64_t SharedMaps::drops() const {
  const auto counts = read_per_cpu<uint64_t>(drops_.get(), uint32_t{0});
  return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

}  // namespace shoal::tracer
