/// What every entry point of the stand-in begins with: injected failures, sticky errors, contexts.
#pragma once

#include <cuda.h>

#include <cstdint>

/// The primary context of a device.
struct CUctx_st {
  int device = 0;
};

namespace fake {

struct Settings {
  int devices = 2;
  std::uint64_t bytes = std::uint64_t{256} << 20;
  std::int64_t delay_us = 0;
  bool exports = true;
};
const Settings& settings();

/// To be returned by the entry point unless it is CUDA_SUCCESS: cuInit was not called, a sticky
/// error, one that was injected.
CUresult enter(const char* call);
/// The same for a call that needs a current context.
CUresult enter_context(const char* call);
/// The failure that was asked for of this call, which is none of an entry point.
CUresult fail_if_asked(const char* call);
/// From now on every call fails with `code`.
void set_sticky(CUresult code);
CUresult sticky();

/// A kernel of a context, while it runs.
class Running {
 public:
  explicit Running(CUcontext context);
  ~Running();
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  CUcontext context_;
  std::uint64_t number_;
};
/// As a GPU's driver does in calls that change what a context's kernels may see: waits for those of
/// the current context that run now.
void await_kernels();

/// Of this thread; nullptr: none.
CUcontext current();
bool is_device(CUdevice device);

}  // namespace fake
