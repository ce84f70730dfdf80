#include "privilege.h"

#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <filesystem>

namespace shoal::tracer {
namespace {

bool holds(unsigned capability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return false;
  return ((data[capability / 32].effective >> (capability % 32)) & 1) != 0;
}

const char* name_of(unsigned capability) {
  switch (capability) {
    case CAP_BPF:
      return "CAP_BPF";
    case CAP_PERFMON:
      return "CAP_PERFMON";
    case CAP_NET_ADMIN:
      return "CAP_NET_ADMIN";
    case CAP_SYS_PTRACE:
      return "CAP_SYS_PTRACE";
    default:
      return "CAP_SYS_ADMIN";
  }
}

// CAP_SYS_ADMIN has stood for these two since before they were split off.
bool is_held(unsigned capability) {
  const bool split_off = capability == CAP_BPF || capability == CAP_PERFMON;
  return holds(capability) || (split_off && holds(CAP_SYS_ADMIN));
}

std::string joined(const std::vector<unsigned>& capabilities, const char* separator) {
  std::string text;
  for (const unsigned capability : capabilities) {
    if (!text.empty()) text += separator;
    text += name_of(capability);
  }
  return text;
}

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

std::string own_path() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "shoal-tracer" : path.string();
}

Remedy remedy_for_refusal(const std::vector<unsigned>& capabilities) {
  std::vector<unsigned> lacking;
  std::ranges::remove_copy_if(capabilities, std::back_inserter(lacking), is_held);
  if (lacking.empty()) {
    return {"",
            "all capabilities for it are held: a container's seccomp rules or kernel.lockdown may "
            "forbid bpf; run it "
            "on the host"};
  }
  return {joined(lacking, " and ") + (lacking.size() == 1 ? " is not held" : " are not held"),
          "run as root, or setcap " + lower(joined(capabilities, ",")) + "+ep " + own_path()};
}

}  // namespace

Remedy remedy_for(int code, const std::vector<unsigned>& capabilities) {
  if (!in_first_pid_namespace()) {
    return {"process ids mean other processes here than in the kernel (a pid namespace)",
            "run it in the host's, e.g. docker run --pid=host"};
  }
  if (code == EPERM || code == EACCES) return remedy_for_refusal(capabilities);
  if (code == ENOENT) return {"", "name the file that the ranks have loaded: see /proc/PID/maps"};
  if (access("/sys/kernel/btf/vmlinux", R_OK) != 0) {
    return {"/sys/kernel/btf/vmlinux cannot be read: the kernel does not say what its types are",
            "use a kernel with CONFIG_DEBUG_INFO_BTF (5.8 or later)"};
  }
  return {"", "see bpf/README.md for the kernels it was tried on"};
}

bool in_first_pid_namespace() {
  constexpr ino_t kFirst = 0xEFFFFFFC;  // PROC_PID_INIT_INO, the same on every Linux
  struct stat status{};
  return stat("/proc/self/ns/pid", &status) != 0 || status.st_ino == kFirst;
}

}  // namespace shoal::tracer
