#include "memory/placement.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "core/fd.h"
#include "memory/arena.h"

namespace shoal::memory {
namespace {

constexpr char kSetting[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
/// MADV_COLLAPSE: Linux 6.1; glibc 2.36 has no name for it.
constexpr int kMadviseCollapse = 25;

/// "always within_size advise [never] deny force"; empty where the kernel has no huge pages.
std::string setting() {
  std::ifstream file(kSetting);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// fallocate() itself makes huge pages under these; "advise" is for page faults only.
bool fallocate_makes_them(const std::string& choices) noexcept {
  for (const char* chosen : {"[always]", "[within_size]", "[force]"}) {
    if (choices.find(chosen) != std::string::npos) return true;
  }
  return false;
}

/// One slab of a file of its own, mapped for as long as this lives.
struct TrialSlab {
  TrialSlab() noexcept : file(::memfd_create("shoal-trial", MFD_CLOEXEC)) {
    if (file.valid() && ::ftruncate(file.get(), kSlabBytes) == 0) {
      begin = map_by_slab(file.get(), kSlabBytes);
    }
  }
  ~TrialSlab() {
    if (begin != nullptr) ::munmap(begin, kSlabBytes);
  }
  TrialSlab(const TrialSlab&) = delete;
  TrialSlab& operator=(const TrialSlab&) = delete;

  Fd file;
  std::byte* begin = nullptr;
};

}  // namespace

std::byte* map_by_slab(int fd, std::int64_t bytes, Access access) noexcept {
  const int protection = access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  const auto size = static_cast<std::size_t>(bytes);
  // One slab more than needed, so that there is a boundary in the first one.
  void* room = ::mmap(nullptr, size + kSlabBytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return nullptr;
  auto* const low = static_cast<std::byte*>(room);
  const std::size_t before = -reinterpret_cast<std::uintptr_t>(low) % kSlabBytes;
  // NORESERVE: address space for every slice to grow in; pages come by Arena::commit() only.
  void* base =
      ::mmap(low + before, size, protection, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
  if (base == MAP_FAILED) {
    const int error = errno;
    ::munmap(low, size + kSlabBytes);
    errno = error;
    return nullptr;
  }
  if (before > 0) ::munmap(low, before);
  ::munmap(low + before + size, kSlabBytes - before);
  ::madvise(base, size, MADV_HUGEPAGE);  // for khugepaged, where commit_huge() is refused
  return static_cast<std::byte*>(base);
}

bool prefer_local_node(std::byte* begin, std::int64_t bytes) noexcept {
  unsigned cpu = 0, node = 0;
  constexpr unsigned kMaxNodes = 1024;
  unsigned long mask[kMaxNodes / 64] = {};
  if (::syscall(SYS_getcpu, &cpu, &node, nullptr) != 0 || node >= kMaxNodes) return false;
  mask[node / 64] = 1ul << (node % 64);
  return ::syscall(SYS_mbind, begin, bytes, MPOL_PREFERRED, mask, kMaxNodes + 1, 0) == 0;
}

int node_of_page(const void* page) noexcept {
  int of_page = -1;
  if (page != nullptr &&
      ::syscall(SYS_get_mempolicy, &of_page, nullptr, 0, page, MPOL_F_NODE | MPOL_F_ADDR) == 0) {
    return of_page;
  }
  unsigned cpu = 0, node = 0;
  return ::syscall(SYS_getcpu, &cpu, &node, nullptr) == 0 ? static_cast<int>(node) : -1;
}

/// MADV_COLLAPSE makes a huge page of what a slab has, but not of nothing: each gets one page
/// first.
bool commit_huge(int fd, std::byte* begin, std::int64_t offset, std::int64_t bytes) noexcept {
  constexpr std::int64_t kSeedBytes = 1;  // rounded up to a page
  const std::int64_t first = (offset + kSlabBytes - 1) / kSlabBytes * kSlabBytes;
  const std::int64_t last = (offset + bytes) / kSlabBytes * kSlabBytes;
  if (first >= last) return true;
  for (std::int64_t slab = first; slab < last; slab += kSlabBytes) {
    if (::fallocate(fd, 0, slab, kSeedBytes) != 0) return false;
  }
  return ::madvise(begin + (first - offset), static_cast<std::size_t>(last - first),
                   kMadviseCollapse) == 0;
}

Grant huge_pages() noexcept {
  const TrialSlab trial;
  const std::string choices = setting();
  if (choices.empty()) return {false, "this kernel has none for shared memory"};
  if (fallocate_makes_them(choices) ||
      (trial.begin != nullptr && commit_huge(trial.file.get(), trial.begin, 0, kSlabBytes))) {
    return {true, "granted"};
  }
  return {false, std::string("refused; as root: echo within_size > ") + kSetting};
}

Grant local_pages() noexcept {
  const TrialSlab trial;
  if (trial.begin != nullptr && prefer_local_node(trial.begin, kSlabBytes)) {
    return {true, "a rank's pages come from the node it runs on"};
  }
  return {false,
          std::string("a rank's pages follow the policy of its process: mbind is refused (") +
              std::strerror(errno) + "); in a container, allow it (CAP_SYS_NICE)"};
}

}  // namespace shoal::memory
