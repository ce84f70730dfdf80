#include "core/module.h"

#include <dlfcn.h>

#include <algorithm>
#include <cctype>
#include <system_error>

#include "core/environment.h"
#include "shoal/error.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

std::string variable_of(const Module::Kind& kind) {
  return "SHOAL_" + upper(kind.name) + "_MODULE";
}

fs::path path_of(const Module::Kind& kind, const std::string& given) {
  if (!given.empty()) return given;
  if (std::string named = environment(variable_of(kind).c_str()); !named.empty()) return named;
  const std::string file = std::string("libshoal_") + kind.name + ".so";
  const fs::path beside = directory_of(reinterpret_cast<const void*>(&directory_of));
  std::error_code ignored;
  const fs::path inside = beside / "shoal" / file;
  return fs::exists(inside, ignored) ? inside : beside / file;
}

}  // namespace

fs::path directory_of(const void* address) {
  Dl_info info{};
  if (::dladdr(address, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code ignored;
  return fs::weakly_canonical(info.dli_fname, ignored).parent_path();
}

Module::Module(const Kind& kind, const std::string& path)
    : kind_(kind),
      path_(path_of(kind, path).string()),
      library_(::dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  const std::string name = kind.name;
  if (library_ == nullptr) {
    throw Error(ErrorCode::kMissingLibrary, name + ": cannot load shoal's " + kind.title +
                                                " module: " + ::dlerror() + "; it is built where " +
                                                kind.built_if + "; a path can be named in " +
                                                variable_of(kind));
  }
  if (function<int (*)()>(("shoal_" + name + "_abi_version").c_str())() != kind.abi) refuse();
}

void* Module::symbol(const std::string& name) const {
  void* found = ::dlsym(library_, name.c_str());
  if (found == nullptr) refuse();
  return found;
}

void Module::refuse() const {
  throw Error(ErrorCode::kMissingLibrary,
              std::string(kind_.name) + ": " + path_ +
                  " is of another build of shoal; install both together");
}

}  // namespace shoal
