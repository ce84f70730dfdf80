/// Parts of shoal that are shared objects of their own, because of what they need: loaded when they
/// are first asked for, so that who does not use them neither has it nor pays for it.
#pragma once

#include <filesystem>
#include <string>

namespace shoal {

/// Directory of the shared object (or program) that holds `address`; empty: nobody knows.
std::filesystem::path directory_of(const void* address);

/// libshoal_<name>.so. Stays loaded.
class Module {
 public:
  struct Kind {
    const char* name;      ///< "ucx"
    const char* title;     ///< "UCX"
    const char* built_if;  ///< "UCX headers are found (SHOAL_UCX=ON)"
    int abi;               ///< what shoal_<name>_abi_version() has to return
  };

  /// The file that `path` names; if that is "", SHOAL_<NAME>_MODULE; else it lies beside our own
  /// library or in a folder "shoal" there. Throws Error(kMissingLibrary): it cannot be loaded, or
  /// is of another build.
  explicit Module(const Kind& kind, const std::string& path = {});

  /// Throws as above if there is none of this name.
  template <class Function>
  [[nodiscard]] Function function(const char* name) const {
    return reinterpret_cast<Function>(symbol(name));
  }

 private:
  [[nodiscard]] void* symbol(const std::string& name) const;
  [[noreturn]] void refuse() const;

  Kind kind_;
  std::string path_;
  void* library_;
};

}  // namespace shoal
