/// Words that processors share, for nvcc and for g++ alike: flags, and packets, which carry a flag
/// of their own.
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define SHOAL_BOTH __host__ __device__ __forceinline__
#define SHOAL_UNROLL _Pragma("unroll")
#else
#include <sched.h>
#define SHOAL_BOTH inline
#define SHOAL_UNROLL
#endif

namespace shoal::cuda::kernels {

// ---- memory that others write while this kernel runs, or that they read

SHOAL_BOTH uint32_t load_flag(const uint32_t* from) {
#ifdef __CUDA_ARCH__
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
#else
  return __atomic_load_n(from,
                         __ATOMIC_ACQUIRE);  // pairs with store_flag() and the stream's writes
#endif
}

SHOAL_BOTH void store_flag(uint32_t* to, uint32_t value) {
#ifdef __CUDA_ARCH__
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
#else
  __atomic_store_n(to, value, __ATOMIC_RELEASE);  // pairs with load_flag() and the stream's waits
#endif
}

SHOAL_BOTH uint64_t load_base(const uint64_t* from) {
#ifdef __CUDA_ARCH__
  return *const_cast<const volatile uint64_t*>(from);
#else
  return __atomic_load_n(from, __ATOMIC_RELAXED);  // ordered by the owner's flag
#endif
}

SHOAL_BOTH void store_complaint(uint64_t* to, uint64_t value) {
#ifdef __CUDA_ARCH__
  *const_cast<volatile uint64_t*>(to) = value;
#else
  __atomic_store_n(to, value, __ATOMIC_RELEASE);
#endif
}

/// One more; returns what there was.
SHOAL_BOTH uint32_t add_one(uint32_t* to) {
#ifdef __CUDA_ARCH__
  return atomicAdd(to, 1u);
#else
  return __atomic_fetch_add(to, 1u, __ATOMIC_ACQ_REL);
#endif
}

/// Of a flag that orders nothing: whoever reads it wants to know how far this rank is.
SHOAL_BOTH void show_flag(uint32_t* to, uint32_t value) {
#ifdef __CUDA_ARCH__
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
#else
  __atomic_store_n(to, value, __ATOMIC_RELEASE);  // pairs with the host's looks
#endif
}

// ---- packets

/// 8 bytes of data and, in each half, the flag that says whose they are: whoever sees the flag sees
/// the 4 bytes beside it, for they are one access. So no fence orders data and flag, and nobody
/// waits for the one after the other.
struct alignas(16) Packet {
  uint64_t halves[2];
};
static_assert(sizeof(Packet) == 16);

SHOAL_BOTH void store_packet(Packet* to, uint64_t data, uint32_t flag) {
  const uint64_t high = static_cast<uint64_t>(flag) << 32;
  const uint64_t first = (data & 0xffffffff) | high, second = data >> 32 | high;
#ifdef __CUDA_ARCH__
  asm volatile("st.volatile.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(first), "l"(second)
               : "memory");
#else
  __atomic_store_n(&to->halves[0], first, __ATOMIC_RELEASE);  // pairs with load_packet()
  __atomic_store_n(&to->halves[1], second, __ATOMIC_RELEASE);
#endif
}

SHOAL_BOTH Packet load_packet(const Packet* from) {
  Packet packet;
#ifdef __CUDA_ARCH__
  asm volatile("ld.volatile.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(packet.halves[0]), "=l"(packet.halves[1])
               : "l"(from)
               : "memory");
#else
  packet.halves[0] = __atomic_load_n(&from->halves[0], __ATOMIC_ACQUIRE);
  packet.halves[1] = __atomic_load_n(&from->halves[1], __ATOMIC_ACQUIRE);
#endif
  return packet;
}

SHOAL_BOTH bool has_come(const Packet& packet, uint32_t flag) {
  return packet.halves[0] >> 32 == flag && packet.halves[1] >> 32 == flag;
}

SHOAL_BOTH uint64_t data_of(const Packet& packet) {
  return (packet.halves[0] & 0xffffffff) | packet.halves[1] << 32;
}

// ---- waiting

/// Looks at the abort word, which lies in the host's memory, between so many looks at a flag.
inline constexpr int kPollsPerLook = 1024;

SHOAL_BOTH void let_others_run() {
#ifndef __CUDACC__
  sched_yield();
#endif
}

/// Until `flag` is `value`. False: the communicator has ended first.
SHOAL_BOTH bool await_flag(const uint32_t* flag, uint32_t value, const uint32_t* abort) {
  for (;;) {
    for (int i = 0; i < kPollsPerLook; ++i) {
      if (load_flag(flag) == value) return true;
    }
    if (load_flag(abort) != 0) return false;
    let_others_run();
  }
}

/// Until the packet with this flag has come; `packet`: what was seen there last. The same.
SHOAL_BOTH bool await_packet(const Packet* from, uint32_t flag, const uint32_t* abort,
                             Packet& packet) {
  while (!has_come(packet, flag)) {
    for (int i = 0; i < kPollsPerLook && !has_come(packet, flag); ++i) packet = load_packet(from);
    if (has_come(packet, flag)) return true;
    if (load_flag(abort) != 0) return false;
    let_others_run();
  }
  return true;
}

}  // namespace shoal::cuda::kernels
