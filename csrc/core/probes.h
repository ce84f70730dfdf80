/// USDT probes for what is rare: begin, end, stall, error of an operation. A probe that nobody has
/// attached to costs a test of its semaphore (0.7 ns); its instruction is a 1-byte nop. Built only
/// where <sys/sdt.h> is found (Debian: systemtap-sdt-dev); `shoal info` says whether.
///
/// Arguments: communicator, sequence number, and begin: fingerprint; stall: awaited rank;
/// error: error code.
#pragma once

#include "shoal/export.h"

#if SHOAL_HAVE_SDT

#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>

extern "C" {
extern unsigned short shoal_begin_semaphore;
extern unsigned short shoal_end_semaphore;
extern unsigned short shoal_stall_semaphore;
extern unsigned short shoal_error_semaphore;
}

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
}  // namespace shoal
