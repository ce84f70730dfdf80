#include "transport/ucx/loader.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/environment.h"
#include "core/module.h"
#include "shoal/error.h"

namespace shoal::transport::ucx {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHowToInstall =
    "install one with `pip install libucx-cu13`, or as root `apt install libucx0` (1.13 or newer), "
    "or name the directory of libucp.so.0 in SHOAL_UCX_DIR";

/// Gives an environment variable a value for a while, unless it has one.
class Default {
 public:
  Default(const char* name, const char* value) : name_(name), ours_(std::getenv(name) == nullptr) {
    if (ours_) ::setenv(name, value, 0);
  }
  ~Default() {
    if (ours_) ::unsetenv(name_);
  }
  Default(const Default&) = delete;
  Default& operator=(const Default&) = delete;

 private:
  const char* name_;
  bool ours_;
};

fs::path our_directory() { return directory_of(reinterpret_cast<const void*>(&find_ucx)); }

struct Candidate {
  fs::path directory;  ///< empty: the dynamic linker's search
  std::string why;
};

/// Where the wheel may be: where the caller has found it, and beside our own library.
std::vector<fs::path> wheel_directories(const UcxSearch& search) {
  std::vector<fs::path> list;
  if (!search.wheel_directory.empty()) list.emplace_back(search.wheel_directory);
  for (const char* beside : {"../libucx/lib", "../../libucx/lib"}) {
    std::error_code ignored;
    list.push_back(fs::weakly_canonical(our_directory() / beside, ignored));
  }
  return list;
}

std::vector<Candidate> candidates(const UcxSearch& search) {
  if (const std::string named = environment("SHOAL_UCX_DIR"); !named.empty()) {
    return {{named, "named by SHOAL_UCX_DIR"}};
  }
  std::vector<Candidate> list;
  if (has_rdma_device()) list.push_back({{}, "the system's, for this node's RDMA devices"});
  for (const fs::path& directory : wheel_directories(search)) {
    std::error_code ignored;
    if (fs::exists(directory / "libucp.so.0", ignored)) {
      list.push_back({directory, "the wheel libucx-cu13"});
    }
  }
  list.push_back({{}, "the system's"});
  return list;
}

/// libucp of this directory, or nullptr and why in `trouble`. In this order, so that libucp finds
/// the others loaded and does not look for them itself.
void* load_libraries(const fs::path& directory, std::string& trouble) {
  std::vector<void*> loaded;
  for (const char* name : {"libucs.so.0", "libuct.so.0", "libucp.so.0"}) {
    const std::string path = directory.empty() ? name : (directory / name).string();
    void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      trouble += std::string(trouble.empty() ? "" : "; ") + ::dlerror();
      for (auto it = loaded.rbegin(); it != loaded.rend(); ++it) ::dlclose(*it);
      return nullptr;
    }
    loaded.push_back(library);
  }
  return loaded.back();
}

/// libuct itself holds these; each further one is a file libuct_<name>.so.0 in <directory>/ucx.
std::vector<std::string> transports_in(const fs::path& directory) {
  std::vector<std::string> names = {"tcp", "self", "sysv", "posix"};
  constexpr std::string_view kPrefix = "libuct_", kSuffix = ".so.0";
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory / "ucx", error)) {
    const std::string name = entry.path().filename().string();
    if (name.size() > kPrefix.size() + kSuffix.size() && name.starts_with(kPrefix) &&
        name.ends_with(kSuffix)) {
      names.push_back(name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size()));
    }
  }
  return names;
}

UcxFound describe(void* libucp, std::string why) {
  UcxFound found;
  found.reason = std::move(why);
  using GetVersion = void (*)(unsigned*, unsigned*, unsigned*);
  void* symbol = ::dlsym(libucp, "ucp_get_version");
  Dl_info info{};
  if (symbol == nullptr || ::dladdr(symbol, &info) == 0) {
    found.reason = "the loaded libucp.so.0 has no ucp_get_version: not a UCX library";
    return found;
  }
  unsigned major = 0, minor = 0, release = 0;
  reinterpret_cast<GetVersion>(symbol)(&major, &minor, &release);
  found.version =
      std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(release);
  if (major != 1 || minor < 13) {
    found.reason = std::string(info.dli_fname) + " is UCX " + found.version +
                   ", and shoal needs 1.13 or newer: " + kHowToInstall;
    return found;
  }
  found.path = info.dli_fname;
  found.transports = transports_in(directory_of(symbol));
  for (const std::string& name : found.transports) found.verbs |= name == "ib";
  return found;
}

UcxFound load(const UcxSearch& search) {
  if (void* loaded = ::dlopen("libucp.so.0", RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)) {
    return describe(loaded, "this process had loaded it already");
  }
  const Default no_hooks("UCX_MEM_MMAP_HOOK_MODE", "none");
  const Default no_signal_handlers("UCX_ERROR_SIGNALS", "");
  const Default quiet("UCX_LOG_LEVEL", "fatal");  // our errors name what failed
  std::string trouble;
  for (const Candidate& candidate : candidates(search)) {
    if (void* libucp = load_libraries(candidate.directory, trouble)) {
      return describe(libucp, candidate.why);
    }
  }
  return {.reason = "no UCX was found (" + trouble + "): " + kHowToInstall};
}

/// libshoal_ucx.so's create function. It names libucp.so.0 and libucs.so.0 as what it needs, and
/// the dynamic linker takes those that find_ucx() has loaded.
CreateFunction load_module(const UcxSearch& search) {
  const Module module({"ucx", "UCX", "UCX headers are found (SHOAL_UCX=ON)", kModuleAbi},
                      search.module);
  return module.function<CreateFunction>("shoal_ucx_create");
}

}  // namespace

bool has_rdma_device() noexcept {
  std::error_code error;
  const fs::directory_iterator devices("/sys/class/infiniband", error);
  return !error && devices != fs::directory_iterator{};
}

const UcxFound& find_ucx(const UcxSearch& search) {
  // Of the process, as loaded libraries are; the first search that succeeds decides.
  static std::mutex mutex;
  static UcxFound found;
  const std::lock_guard lock(mutex);
  if (found.path.empty()) found = load(search);
  return found;
}

std::unique_ptr<UcxTransport> make_ucx(const UcxOptions& options, const UcxSearch& search) {
  const UcxFound& found = find_ucx(search);
  if (found.path.empty()) {
    throw Error(ErrorCode::kMissingLibrary,
                "ucx: a rank on another node needs UCX; " + found.reason);
  }
  const CreateFunction create = load_module(search);
  UcxOptions informed = options;
  informed.verbs = found.verbs && has_rdma_device();
  char error[2048] = "";
  std::unique_ptr<UcxTransport> transport(create(informed, error, sizeof error));
  if (!transport) {
    throw Error(ErrorCode::kTransport,
                std::string(error) + " (UCX " + found.version + ", " + found.path + ")");
  }
  return transport;
}

}  // namespace shoal::transport::ucx
