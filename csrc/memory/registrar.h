#pragma once

#include <cstdint>

#include "core/status.h"

namespace shoal::memory {

/// Makes memory known to a network device. transport/ucx implements it; memory/ calls it, slab by
/// slab, when a remote peer first needs the slab.
class Registrar {
 public:
  virtual ~Registrar() = default;
  /// Returns a handle that the transport finds again for addresses inside; nullptr: not registered.
  virtual Result<void*> register_memory(void* base, std::int64_t bytes) noexcept = 0;
  virtual void deregister_memory(void* handle) noexcept = 0;
};

}  // namespace shoal::memory
