#include "core/probes.h"

#if SHOAL_HAVE_SDT
extern "C" {
__attribute__((section(".probes"))) unsigned short shoal_begin_semaphore = 0;
__attribute__((section(".probes"))) unsigned short shoal_end_semaphore = 0;
__attribute__((section(".probes"))) unsigned short shoal_stall_semaphore = 0;
__attribute__((section(".probes"))) unsigned short shoal_error_semaphore = 0;
}
#endif

namespace shoal {

bool probes_available() noexcept {
#if SHOAL_HAVE_SDT
  return true;
#else
  return false;
#endif
}

}  // namespace shoal
