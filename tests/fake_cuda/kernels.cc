/// Kernels of the stand-in are host functions, found by name; a module's image is not looked at.
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "fake_cuda.h"
#include "state.h"
#include "streams.h"

struct CUmod_st {
  std::vector<std::unique_ptr<CUfunc_st>> functions;
};
struct CUfunc_st {
  const FakeKernel* kernel;
  std::atomic<bool> loaded{false};  // onto the device; the first launch does it otherwise
};

namespace fake {
namespace {

constexpr unsigned kBlocksPerMultiprocessor = 2;
constexpr unsigned kMultiprocessors = 4;
constexpr unsigned kMostThreads = 1024;

std::atomic<FakeKernelLookup> lookup{nullptr};

FakeKernelLookup lookup_of_environment() {
  const char* path = std::getenv("FAKE_CUDA_KERNELS");
  if (path == nullptr) return nullptr;
  void* library = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) std::fprintf(stderr, "fake_cuda: %s\n", ::dlerror());
  return library == nullptr
             ? nullptr
             : reinterpret_cast<FakeKernelLookup>(::dlsym(library, "shoal_fake_kernel"));
}

const FakeKernel* find_kernel(const char* name) {
  static const FakeKernelLookup otherwise = lookup_of_environment();
  const FakeKernelLookup given = lookup.load();
  const FakeKernelLookup chosen = given != nullptr ? given : otherwise;
  return chosen == nullptr ? nullptr : chosen(name);
}

void load(CUfunction function) {
  if (!function->loaded.exchange(true)) await_kernels();
}

CUresult launch(const char* call, CUfunction function, const FakeLaunch& shape, CUstream stream,
                void** parameters) {
  const FakeKernel* kernel = function->kernel;
  const unsigned threads = shape.block[0] * shape.block[1] * shape.block[2];
  if (threads == 0 || threads > kMostThreads || shape.grid[0] == 0) return CUDA_ERROR_INVALID_VALUE;
  load(function);
  std::vector<char> copy(kernel->parameter_bytes);
  if (!copy.empty()) std::memcpy(copy.data(), parameters[0], copy.size());
  return enqueue(call, stream, [kernel, shape, copy = std::move(copy), context = current()] {
    const Running running(context);
    kernel->run(copy.data(), &shape);
  });
}

bool is_cooperative(const CUlaunchConfig& config) {
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    if (config.attrs[i].id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) {
      return config.attrs[i].value.cooperative != 0;
    }
  }
  return false;
}

}  // namespace
}  // namespace fake

extern "C" {

void fake_cuda_set_kernels(FakeKernelLookup lookup) { fake::lookup.store(lookup); }

CUresult CUDAAPI cuModuleLoadData(CUmodule* module, const void* image) {
  if (const CUresult r = fake::enter_context("cuModuleLoadData"); r != CUDA_SUCCESS) return r;
  if (image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  fake::await_kernels();
  *module = new CUmod_st;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleUnload(CUmodule module) {
  delete module;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  if (const CUresult r = fake::enter_context("cuModuleGetFunction"); r != CUDA_SUCCESS) return r;
  const FakeKernel* kernel = fake::find_kernel(name);
  if (kernel == nullptr) return CUDA_ERROR_NOT_FOUND;
  module->functions.push_back(std::make_unique<CUfunc_st>(kernel));
  *function = module->functions.back().get();
  return CUDA_SUCCESS;
}

/// Of a function, not of its handle: it has to be there.
CUresult CUDAAPI cuFuncGetAttribute(int* value, CUfunction_attribute, CUfunction function) {
  if (const CUresult r = fake::enter_context("cuFuncGetAttribute"); r != CUDA_SUCCESS) return r;
  fake::load(function);
  *value = 0;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncLoad(CUfunction function) {
  if (const CUresult r = fake::enter_context("cuFuncLoad"); r != CUDA_SUCCESS) return r;
  fake::load(function);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int, size_t) {
  *blocks = fake::kBlocksPerMultiprocessor;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz,
                                unsigned bx, unsigned by, unsigned bz, unsigned, CUstream stream,
                                void** parameters, void**) {
  return fake::launch("cuLaunchKernel", function, {{gx, gy, gz}, {bx, by, bz}}, stream, parameters);
}

CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function,
                                  void** parameters, void**) {
  const FakeLaunch shape = {{config->gridDimX, config->gridDimY, config->gridDimZ},
                            {config->blockDimX, config->blockDimY, config->blockDimZ}};
  const unsigned blocks = shape.grid[0] * shape.grid[1] * shape.grid[2];
  if (fake::is_cooperative(*config) &&
      blocks > fake::kMultiprocessors * fake::kBlocksPerMultiprocessor) {
    return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
  }
  return fake::launch("cuLaunchKernelEx", function, shape, config->hStream, parameters);
}

}  // extern "C"
