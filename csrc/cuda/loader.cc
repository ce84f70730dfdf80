#include "cuda/loader.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "shoal/error.h"

namespace shoal::cuda {
namespace {

namespace fs = std::filesystem;

struct Module {
  SurveyFunction survey = nullptr;
  CreateFunction create = nullptr;
};

/// SHOAL_CUDA_MODULE, else beside our own library.
fs::path module_path() {
  const char* named = std::getenv("SHOAL_CUDA_MODULE");
  if (named != nullptr && *named != '\0') return named;
  Dl_info info{};
  std::error_code ignored;
  fs::path directory;
  if (::dladdr(reinterpret_cast<const void*>(&survey), &info) != 0 && info.dli_fname != nullptr) {
    directory = fs::weakly_canonical(info.dli_fname, ignored).parent_path();
  }
  const fs::path inside = directory / "shoal" / "libshoal_cuda.so";
  return fs::exists(inside, ignored) ? inside : directory / "libshoal_cuda.so";
}

Module load_module() {
  const std::string path = module_path().string();
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw Error(ErrorCode::kMissingLibrary,
                std::string("cuda: cannot load shoal's CUDA module: ") + ::dlerror() +
                    "; it is built where cuda.h of CUDA 12.0 or newer is found (SHOAL_CUDA=ON); a "
                    "path can be named in SHOAL_CUDA_MODULE");
  }
  const auto abi = reinterpret_cast<AbiFunction>(::dlsym(library, "shoal_cuda_abi_version"));
  Module module;
  module.survey = reinterpret_cast<SurveyFunction>(::dlsym(library, "shoal_cuda_survey"));
  module.create = reinterpret_cast<CreateFunction>(::dlsym(library, "shoal_cuda_create"));
  if (abi == nullptr || module.survey == nullptr || module.create == nullptr ||
      abi() != kModuleAbi) {
    throw Error(ErrorCode::kMissingLibrary,
                "cuda: " + path + " is of another build of shoal; install both together");
  }
  return module;
}

}  // namespace

std::unique_ptr<DeviceMemory> make_device_memory(const MemoryOptions& options,
                                                 const Interrupt& interrupt) {
  return std::unique_ptr<DeviceMemory>(load_module().create(options, interrupt));
}

Survey survey() {
  Survey survey;
  try {
    load_module().survey(survey);
  } catch (const Error& error) {
    survey.reason = error.what();
  }
  return survey;
}

}  // namespace shoal::cuda
