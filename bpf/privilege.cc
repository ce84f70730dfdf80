#include "privilege.h"

#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <vector>

namespace shoal::tracer {
namespace {

bool holds(unsigned capability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return false;
  return (data[capability / 32].effective >> (capability % 32)) & 1;
}

std::string own_path() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "shoal-tracer" : path.string();
}

// "CAP_BPF and CAP_PERFMON"; CAP_SYS_ADMIN stands for both.
std::string lacking() {
  std::string text;
  if (holds(CAP_SYS_ADMIN)) return text;
  if (!holds(CAP_BPF)) text = "CAP_BPF";
  if (!holds(CAP_PERFMON)) text += text.empty() ? "CAP_PERFMON" : " and CAP_PERFMON";
  return text;
}

}  // namespace

Remedy remedy_for(int code) {
  if (code == EPERM || code == EACCES) {
    if (const std::string text = lacking(); !text.empty()) {
      return {text + (text.find(' ') == text.npos ? " is not held" : " are not held"),
              "run as root, or setcap cap_bpf,cap_perfmon+ep " + own_path()};
    }
    return {"",
            "run as root in the host's user namespace; a container needs --privileged or its own "
            "seccomp rule for bpf"};
  }
  if (code == ENOSYS)
    return {"this kernel has no bpf system call", "use a kernel with CONFIG_BPF_SYSCALL"};
  return {"", "shoal trace goes on without; see bpf/README.md for the kernels it was tried on"};
}

bool kernel_has_btf() { return access("/sys/kernel/btf/vmlinux", R_OK) == 0; }

bool in_first_pid_namespace() {
  constexpr ino_t kFirst = 0xEFFFFFFC;  // PROC_PID_INIT_INO, part of the ABI
  struct stat status{};
  return stat("/proc/self/ns/pid", &status) != 0 || status.st_ino == kFirst;
}

}  // namespace shoal::tracer
