#include "memory/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>

#include "core/assert.h"
#include "memory/host_room.h"
#include "memory/placement.h"
#include "shoal/abi/progress_page.h"

namespace shoal::memory {
namespace {

/// The size never changes, so no access inside can be SIGBUS; no more seals, so that nobody can
/// forbid writing. Holes may still be punched.
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr std::int64_t kMaxArenaBytes = std::int64_t{1} << 46;  // half of the address space
/// What a commit leaves to the rest of the machine.
constexpr std::int64_t kHeadroomBytes = 16 << 20;

Status system_error(int error) noexcept {
  const bool memory = error == ENOMEM || error == ENOSPC;
  return {memory ? ErrorCode::kOutOfMemory : ErrorCode::kSystem, -1, error};
}

bool valid(const ArenaShape& shape) noexcept {
  return shape.ranks >= 1 && shape.slice_bytes > kHeaderBytes &&
         shape.slice_bytes % kSlabBytes == 0 && shape.slice_bytes <= kMaxArenaBytes / shape.ranks;
}

std::int64_t page_bytes() noexcept {
  static const std::int64_t bytes = ::sysconf(_SC_PAGESIZE);
  return bytes;
}

void write_header(std::byte* base, const ArenaShape& shape, std::string_view job) noexcept {
  auto* header = new (base) abi::ArenaHeader{};
  header->magic = abi::kArenaMagic;
  header->version = abi::kAbiVersion;
  header->ranks = shape.ranks;
  header->slice_bytes = shape.slice_bytes;
  job.copy(header->job, sizeof header->job - 1);
}

bool header_matches(const std::byte* base, const ArenaShape& shape) noexcept {
  const auto* header = reinterpret_cast<const abi::ArenaHeader*>(base);
  return header->magic == abi::kArenaMagic && header->version == abi::kAbiVersion &&
         header->ranks == shape.ranks && header->slice_bytes == shape.slice_bytes;
}

/// An unsealed file could be shrunk under us by its owner: SIGBUS.
bool is_sealed(int fd, std::int64_t bytes) noexcept {
  struct stat file{};
  return ::fstat(fd, &file) == 0 && file.st_size == bytes &&
         (::fcntl(fd, F_GET_SEALS) & kSeals) == kSeals;
}

}  // namespace

struct Arena::CutOff {
  Offset begin;
  Offset end;
  CutOff* next;
};

Result<Arena> Arena::map(Fd fd, const ArenaShape& shape) noexcept {
  const std::int64_t bytes = shape.ranks * shape.slice_bytes;
  std::byte* base = map_by_slab(fd.get(), bytes);
  if (base == nullptr) return system_error(errno);
  Arena arena;
  arena.fd_ = std::move(fd);
  arena.shape_ = shape;
  arena.base_ = base;
  arena.size_ = static_cast<std::uint64_t>(bytes);
  return arena;
}

Result<Arena> Arena::create(const ArenaShape& shape, std::string_view job) noexcept {
  if (!valid(shape)) return Status{ErrorCode::kInvalidArgument};
  Fd fd(::memfd_create("shoal-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return system_error(errno);
  if (::ftruncate(fd.get(), shape.ranks * shape.slice_bytes) != 0) return system_error(errno);
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) return system_error(errno);
  Result<Arena> arena = map(std::move(fd), shape);
  if (!arena.ok()) return arena;
  const Status committed = arena.value().commit(0, page_bytes());
  if (!committed.ok()) return committed;
  write_header(arena.value().base_, shape, job);
  return arena;
}

Result<Arena> Arena::open(Fd fd, const ArenaShape& shape) noexcept {
  if (!valid(shape)) return Status{ErrorCode::kInvalidArgument};
  if (!is_sealed(fd.get(), shape.ranks * shape.slice_bytes)) return Status{ErrorCode::kBootstrap};
  Result<Arena> arena = map(std::move(fd), shape);
  if (arena.ok() && !header_matches(arena.value().base_, shape)) {
    return Status{ErrorCode::kBootstrap};
  }
  return arena;
}

Arena::Arena(Arena&& other) noexcept { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
  if (this == &other) return *this;
  unmap();
  fd_ = std::move(other.fd_);
  shape_ = other.shape_;
  base_ = std::exchange(other.base_, nullptr);
  size_ = std::exchange(other.size_, 0);
  // relaxed: whoever moves an arena is its only user
  cut_off_.store(other.cut_off_.exchange(nullptr, std::memory_order_relaxed),
                 std::memory_order_relaxed);
  read_only_.store(other.read_only_.exchange(nullptr, std::memory_order_relaxed),
                   std::memory_order_relaxed);
  return *this;
}

Arena::~Arena() { unmap(); }

void Arena::unmap() noexcept {
  if (base_ != nullptr) ::munmap(base_, size_);
  std::byte* read_only = read_only_.exchange(nullptr, std::memory_order_relaxed);
  if (read_only != nullptr) ::munmap(read_only, size_);
  base_ = nullptr;
  size_ = 0;
  for (CutOff* cut = cut_off_.exchange(nullptr, std::memory_order_relaxed); cut != nullptr;) {
    delete std::exchange(cut, cut->next);
  }
}

Status Arena::map_read_only() noexcept {
  if (read_only_.load(std::memory_order_relaxed) != nullptr) return kOkStatus;
  std::byte* made = map_by_slab(fd_.get(), static_cast<std::int64_t>(size_), Access::kRead);
  if (made == nullptr) return system_error(errno);
  std::byte* none = nullptr;
  // release: pairs with the acquire in read_only_at()
  const bool first = read_only_.compare_exchange_strong(none, made, std::memory_order_release,
                                                        std::memory_order_relaxed);
  if (!first) ::munmap(made, size_);  // another thread was faster
  return kOkStatus;
}

bool Arena::touches(const CutOff* cuts, Offset offset, std::int64_t bytes) noexcept {
  for (; cuts != nullptr; cuts = cuts->next) {
    if (offset < cuts->end && cuts->begin < offset + std::max<std::int64_t>(bytes, 1)) return true;
  }
  return false;
}

Status Arena::commit(Offset offset, std::int64_t bytes) noexcept {
  SHOAL_ASSERT(offset >= 0 && bytes >= 0 && static_cast<std::uint64_t>(offset + bytes) <= size_);
  if (bytes == 0) return kOkStatus;
  // fallocate would go on until the OOM killer ends somebody: ask before.
  if (host_room().bytes - kHeadroomBytes < bytes) return {ErrorCode::kOutOfMemory, -1, ENOMEM};
  prefer_local_node(base_ + offset, bytes);
  commit_huge(fd_.get(), base_ + offset, offset, bytes);
  constexpr int kMaxInterruptions = 1000;
  for (int attempt = 0; attempt < kMaxInterruptions; ++attempt) {
    if (::fallocate(fd_.get(), 0, offset, bytes) == 0) return kOkStatus;
    if (errno != EINTR) return system_error(errno);
  }
  return system_error(EINTR);
}

void Arena::decommit(Offset offset, std::int64_t bytes) noexcept {
  SHOAL_ASSERT(offset >= 0 && bytes >= 0 && static_cast<std::uint64_t>(offset + bytes) <= size_);
  if (bytes == 0) return;
  if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes) != 0) {
    // The pages stay: more memory in use than needed, and nothing else.
  }
}

/// The copy is made beside the range and then moved over it in one step, so that a reader of this
/// process sees the old bytes at every moment.
Status Arena::cut_off(Offset offset, std::int64_t bytes) noexcept {
  SHOAL_ASSERT(offset >= 0 && bytes > 0 && static_cast<std::uint64_t>(offset + bytes) <= size_);
  const std::int64_t page = page_bytes();
  const Offset begin = offset / page * page;
  const Offset end = (offset + bytes + page - 1) / page * page;
  const std::size_t length = static_cast<std::size_t>(end - begin);
  auto* cut = new (std::nothrow) CutOff{begin, end, cut_off_.load(std::memory_order_relaxed)};
  if (cut == nullptr) return system_error(ENOMEM);
  void* copy = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED) {
    const Status status = system_error(errno);
    delete cut;
    return status;
  }
  std::memcpy(copy, base_ + begin, length);
  if (::mremap(copy, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, base_ + begin) == MAP_FAILED) {
    const Status status = system_error(errno);
    ::munmap(copy, length);
    delete cut;
    return status;
  }
  // release: pairs with the acquire in offset_of()
  cut_off_.store(cut, std::memory_order_release);
  return kOkStatus;
}

}  // namespace shoal::memory
