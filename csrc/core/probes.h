/// USDT probes for what is rare: begin, end, stall, error of an operation. A probe that nobody has
/// attached to costs a test of its semaphore; its instruction is a 1-byte nop. Built only
/// where <sys/sdt.h> is found (Debian: systemtap-sdt-dev); `shoal info` says whether.
///
/// Arguments: communicator, sequence number, and begin: fingerprint; stall: awaited rank;
/// error: error code.
#pragma once

#include "shoal/export.h"

#if SHOAL_HAVE_SDT

#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>

// Hidden: the test then needs no address out of a table.
#define SHOAL_HIDDEN __attribute__((visibility("hidden")))
extern "C" {
extern SHOAL_HIDDEN unsigned short shoal_begin_semaphore;
extern SHOAL_HIDDEN unsigned short shoal_end_semaphore;
extern SHOAL_HIDDEN unsigned short shoal_stall_semaphore;
extern SHOAL_HIDDEN unsigned short shoal_error_semaphore;
}
#undef SHOAL_HIDDEN

#define SHOAL_PROBE(name, communicator, sequence, detail)       \
  do {                                                          \
    if (__builtin_expect(shoal_##name##_semaphore != 0, 0)) {   \
      STAP_PROBE3(shoal, name, communicator, sequence, detail); \
    }                                                           \
  } while (false)

#else

#define SHOAL_PROBE(name, communicator, sequence, detail) \
  (static_cast<void>(communicator), static_cast<void>(sequence), static_cast<void>(detail))

#endif

namespace shoal {
/// False in a build that measures what the operations' records on the progress page cost
/// (`make bench-tracer`): there they are left out, and the probes.
inline constexpr bool kObservable = SHOAL_OBSERVABLE != 0;

/// True if the probes were built in.
SHOAL_API bool probes_available() noexcept;

/// Somebody has attached to `begin` or `end`: one test for both, where they come together.
inline bool ends_are_probed() noexcept {
#if SHOAL_HAVE_SDT
  return (shoal_begin_semaphore | shoal_end_semaphore) != 0;
#else
  return false;
#endif
}
}  // namespace shoal
