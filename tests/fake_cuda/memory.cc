/// Device memory of the stand-in: each allocation a memfd, mapped where the driver maps it. An
/// address that is not mapped any more stays PROT_NONE for ever, so that a late access faults.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "fake_cuda.h"
#include "state.h"
#include "streams.h"

namespace fake {
namespace {

constexpr std::size_t kGranularity = 2 << 20;
constexpr std::size_t kPage = 4096;

/// Physical memory. Counts against its device unless it is another process's.
struct Allocation {
  int fd = -1;
  std::size_t bytes = 0;
  int device = 0;
  bool ours = true;
  ~Allocation();
};

struct Mapping {
  std::size_t bytes;
  std::shared_ptr<Allocation> allocation;
  bool accessible;
  bool vmm;       // made by cuMemMap
  bool imported;  // made by cuIpcOpenMemHandle
};

struct HostRange {
  std::size_t bytes;
};

/// What a CUipcMemHandle holds.
struct IpcHandle {
  int pid;
  int fd;
  std::uint64_t bytes;
};
static_assert(sizeof(IpcHandle) <= sizeof(CUipcMemHandle));

/// Never destroyed: streams' threads use the memory until the process has ended.
struct Memory {
  std::mutex mutex;
  std::map<CUdeviceptr, std::size_t> reserved;
  std::map<CUdeviceptr, Mapping> mapped;
  std::map<CUmemGenericAllocationHandle, std::shared_ptr<Allocation>> handles;
  std::map<CUdeviceptr, HostRange> registered;
  CUmemGenericAllocationHandle next_handle = 1;
  std::atomic<std::uint64_t> used[16];
};

Memory& memory() {
  static Memory* const memory = new Memory;
  return *memory;
}

Allocation::~Allocation() {
  if (ours) memory().used[device].fetch_sub(bytes);
  if (fd >= 0) ::close(fd);
}

std::shared_ptr<Allocation> allocate(int device, std::size_t bytes) {
  std::atomic<std::uint64_t>& used = memory().used[device];
  std::uint64_t before = used.load();
  do {
    if (bytes > settings().bytes - before) return nullptr;
  } while (!used.compare_exchange_weak(before, before + bytes));
  auto allocation = std::make_shared<Allocation>();
  allocation->bytes = bytes;
  allocation->device = device;
  allocation->fd = ::memfd_create("fake-cuda", MFD_CLOEXEC);
  if (allocation->fd < 0 || ::ftruncate(allocation->fd, static_cast<off_t>(bytes)) != 0) {
    return nullptr;
  }
  return allocation;
}

void* reserve(std::size_t bytes) {
  void* place =
      ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return place == MAP_FAILED ? nullptr : place;
}

/// Aligned to the granularity, as the device's addresses are.
CUdeviceptr reserve_aligned(std::size_t bytes) {
  void* place = reserve(bytes + kGranularity);
  const auto address = reinterpret_cast<CUdeviceptr>(place);
  return place == nullptr ? 0 : (address + kGranularity - 1) / kGranularity * kGranularity;
}

bool map_at(CUdeviceptr address, std::size_t bytes, int fd, std::size_t offset, int protection) {
  return ::mmap(reinterpret_cast<void*>(address), bytes, protection, MAP_SHARED | MAP_FIXED, fd,
                static_cast<off_t>(offset)) != MAP_FAILED;
}

void close_off(CUdeviceptr address, std::size_t bytes) {
  (void)::mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

/// The mapping that holds the address, or end().
std::map<CUdeviceptr, Mapping>::iterator mapping_of(CUdeviceptr address) {
  auto found = memory().mapped.upper_bound(address);
  if (found == memory().mapped.begin()) return memory().mapped.end();
  --found;
  return address - found->first < found->second.bytes ? found : memory().mapped.end();
}

bool lies_in_reservation(CUdeviceptr address, std::size_t bytes) {
  auto found = memory().reserved.upper_bound(address);
  if (found == memory().reserved.begin()) return false;
  --found;
  return address - found->first + bytes <= found->second;
}

bool overlaps_mapping(CUdeviceptr address, std::size_t bytes) {
  const auto next = memory().mapped.lower_bound(address);
  return mapping_of(address) != memory().mapped.end() ||
         (next != memory().mapped.end() && next->first < address + bytes);
}

/// Maps a whole allocation at a new address.
CUresult map_anywhere(CUdeviceptr* address, const std::shared_ptr<Allocation>& allocation,
                      bool imported) {
  const CUdeviceptr place = reserve_aligned(allocation->bytes);
  if (place == 0 || !map_at(place, allocation->bytes, allocation->fd, 0, PROT_READ | PROT_WRITE)) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  memory().mapped[place] = {allocation->bytes, allocation, true, false, imported};
  *address = place;
  return CUDA_SUCCESS;
}

CUresult unmap_whole(CUdeviceptr address, bool imported) {
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().mapped.find(address);
  if (found == memory().mapped.end() || found->second.vmm || found->second.imported != imported) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  close_off(address, found->second.bytes);
  memory().mapped.erase(found);
  return CUDA_SUCCESS;
}

CUmemGenericAllocationHandle add_handle(std::shared_ptr<Allocation> allocation) {
  const CUmemGenericAllocationHandle handle = memory().next_handle++;
  memory().handles.emplace(handle, std::move(allocation));
  return handle;
}

/// An allocation of another process, by its memfd; takes the fd.
std::shared_ptr<Allocation> adopt(int fd, int device) {
  struct stat file{};
  if (fd < 0 || ::fstat(fd, &file) != 0 || file.st_size == 0) {
    if (fd >= 0) ::close(fd);
    return nullptr;
  }
  auto allocation = std::make_shared<Allocation>();
  allocation->fd = fd;
  allocation->bytes = static_cast<std::size_t>(file.st_size);
  allocation->device = device;
  allocation->ours = false;
  return allocation;
}

CUresult copy(const char* call, CUstream stream, void* to, const void* from, std::size_t bytes) {
  return enqueue(call, stream, [to, from, bytes] { std::memmove(to, from, bytes); });
}

}  // namespace
}  // namespace fake

using fake::enter;
using fake::enter_context;
using fake::memory;

extern "C" {

uint64_t fake_cuda_used_bytes(void) {
  uint64_t sum = 0;
  for (const auto& used : memory().used) sum += used.load();
  return sum;
}

CUresult CUDAAPI cuMemGetInfo(size_t* free, size_t* total) {
  if (const CUresult r = enter_context("cuMemGetInfo"); r != CUDA_SUCCESS) return r;
  *total = fake::settings().bytes;
  *free = *total - memory().used[fake::current()->device].load();
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemGetAllocationGranularity(size_t* bytes, const CUmemAllocationProp*,
                                               CUmemAllocationGranularity_flags) {
  if (const CUresult r = enter("cuMemGetAllocationGranularity"); r != CUDA_SUCCESS) return r;
  *bytes = fake::kGranularity;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr,
                                     unsigned long long) {
  if (const CUresult r = enter("cuMemAddressReserve"); r != CUDA_SUCCESS) return r;
  if (bytes == 0 || bytes % fake::kGranularity != 0) return CUDA_ERROR_INVALID_VALUE;
  *address = fake::reserve_aligned(bytes);
  if (*address == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  const std::lock_guard lock(memory().mutex);
  memory().reserved[*address] = bytes;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAddressFree(CUdeviceptr address, size_t bytes) {
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().reserved.find(address);
  if (found == memory().reserved.end() || found->second != bytes ||
      fake::overlaps_mapping(address, bytes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  memory().reserved.erase(found);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes,
                             const CUmemAllocationProp* prop, unsigned long long) {
  if (const CUresult r = enter("cuMemCreate"); r != CUDA_SUCCESS) return r;
  if (bytes == 0 || bytes % fake::kGranularity != 0 || !fake::is_device(prop->location.id)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (prop->requestedHandleTypes != CU_MEM_HANDLE_TYPE_NONE && !fake::settings().exports) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  auto allocation = fake::allocate(prop->location.id, bytes);
  if (allocation == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  const std::lock_guard lock(memory().mutex);
  *handle = fake::add_handle(std::move(allocation));
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle) {
  const std::lock_guard lock(memory().mutex);
  return memory().handles.erase(handle) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemMap(CUdeviceptr address, size_t bytes, size_t offset,
                          CUmemGenericAllocationHandle handle, unsigned long long) {
  if (const CUresult r = enter("cuMemMap"); r != CUDA_SUCCESS) return r;
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().handles.find(handle);
  if (found == memory().handles.end() || offset != 0 || bytes != found->second->bytes ||
      !fake::lies_in_reservation(address, bytes) || fake::overlaps_mapping(address, bytes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!fake::map_at(address, bytes, found->second->fd, 0, PROT_NONE)) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  memory().mapped[address] = {bytes, found->second, false, true, false};
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemUnmap(CUdeviceptr address, size_t bytes) {
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().mapped.find(address);
  if (found == memory().mapped.end() || !found->second.vmm || found->second.bytes != bytes) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  fake::close_off(address, bytes);
  memory().mapped.erase(found);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc*, size_t) {
  if (const CUresult r = enter("cuMemSetAccess"); r != CUDA_SUCCESS) return r;
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().mapped.find(address);
  if (found == memory().mapped.end() || found->second.bytes != bytes) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  found->second.accessible = true;
  return ::mprotect(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE) == 0
             ? CUDA_SUCCESS
             : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemExportToShareableHandle(void* shareable, CUmemGenericAllocationHandle handle,
                                              CUmemAllocationHandleType, unsigned long long) {
  if (const CUresult r = enter("cuMemExportToShareableHandle"); r != CUDA_SUCCESS) return r;
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().handles.find(handle);
  if (found == memory().handles.end()) return CUDA_ERROR_INVALID_VALUE;
  const int fd = ::fcntl(found->second->fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  *static_cast<int*>(shareable) = fd;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* fd,
                                                CUmemAllocationHandleType) {
  if (const CUresult r = enter_context("cuMemImportFromShareableHandle"); r != CUDA_SUCCESS) {
    return r;
  }
  const int copy =
      ::fcntl(static_cast<int>(reinterpret_cast<std::intptr_t>(fd)), F_DUPFD_CLOEXEC, 0);
  auto allocation = fake::adopt(copy, fake::current()->device);
  if (allocation == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(memory().mutex);
  *handle = fake::add_handle(std::move(allocation));
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr* address, size_t bytes) {
  if (const CUresult r = enter_context("cuMemAlloc"); r != CUDA_SUCCESS) return r;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  fake::await_kernels();
  auto allocation = fake::allocate(fake::current()->device,
                                   (bytes + fake::kPage - 1) / fake::kPage * fake::kPage);
  if (allocation == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  const std::lock_guard lock(memory().mutex);
  return fake::map_anywhere(address, allocation, false);
}

CUresult CUDAAPI cuMemFree(CUdeviceptr address) {
  fake::await_kernels();
  return fake::unmap_whole(address, false);
}

CUresult CUDAAPI cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) {
  if (const CUresult r = enter("cuIpcGetMemHandle"); r != CUDA_SUCCESS) return r;
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().mapped.find(address);
  if (found == memory().mapped.end() || found->second.vmm) return CUDA_ERROR_INVALID_VALUE;
  const fake::IpcHandle content = {::getpid(), found->second.allocation->fd, found->second.bytes};
  std::memset(handle, 0, sizeof *handle);
  std::memcpy(handle, &content, sizeof content);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuIpcOpenMemHandle(CUdeviceptr* address, CUipcMemHandle handle, unsigned int) {
  if (const CUresult r = enter_context("cuIpcOpenMemHandle"); r != CUDA_SUCCESS) return r;
  fake::IpcHandle content{};
  std::memcpy(&content, &handle, sizeof content);
  if (content.pid == ::getpid()) return CUDA_ERROR_INVALID_CONTEXT;  // as the driver has it
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/fd/%d", content.pid, content.fd);
  const auto allocation = fake::adopt(::open(path, O_RDWR | O_CLOEXEC), fake::current()->device);
  if (allocation == nullptr || allocation->bytes != content.bytes) {
    return CUDA_ERROR_MAP_FAILED;
  }
  const std::lock_guard lock(memory().mutex);
  return fake::map_anywhere(address, allocation, true);
}

CUresult CUDAAPI cuIpcCloseMemHandle(CUdeviceptr address) {
  return fake::unmap_whole(address, true);
}

CUresult CUDAAPI cuMemHostRegister(void* data, size_t bytes, unsigned int) {
  if (const CUresult r = enter_context("cuMemHostRegister"); r != CUDA_SUCCESS) return r;
  fake::await_kernels();
  const std::lock_guard lock(memory().mutex);
  const bool added =
      memory()
          .registered.emplace(reinterpret_cast<CUdeviceptr>(data), fake::HostRange{bytes})
          .second;
  return added ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
}

CUresult CUDAAPI cuMemHostUnregister(void* data) {
  fake::await_kernels();
  const std::lock_guard lock(memory().mutex);
  return memory().registered.erase(reinterpret_cast<CUdeviceptr>(data)) == 1
             ? CUDA_SUCCESS
             : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr* address, void* data, unsigned int) {
  const auto wanted = reinterpret_cast<CUdeviceptr>(data);
  const std::lock_guard lock(memory().mutex);
  auto found = memory().registered.upper_bound(wanted);
  if (found == memory().registered.begin()) return CUDA_ERROR_INVALID_VALUE;
  --found;
  if (wanted - found->first >= found->second.bytes) return CUDA_ERROR_INVALID_VALUE;
  *address = wanted;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuPointerGetAttribute(void* value, CUpointer_attribute attribute,
                                       CUdeviceptr address) {
  const std::lock_guard lock(memory().mutex);
  const auto found = fake::mapping_of(address);
  if (found == memory().mapped.end()) return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *static_cast<unsigned*>(value) = CU_MEMORYTYPE_DEVICE;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      *static_cast<int*>(value) = found->second.allocation->device;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes,
                                   CUstream stream) {
  return fake::copy("cuMemcpyHtoDAsync", stream, reinterpret_cast<void*>(to), from, bytes);
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return fake::copy("cuMemcpyDtoHAsync", stream, to, reinterpret_cast<void*>(from), bytes);
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes,
                                   CUstream stream) {
  return fake::copy("cuMemcpyDtoDAsync", stream, reinterpret_cast<void*>(to),
                    reinterpret_cast<void*>(from), bytes);
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes,
                                 CUstream stream) {
  return fake::enqueue("cuMemsetD8Async", stream, [to, value, bytes] {
    std::memset(reinterpret_cast<void*>(to), value, bytes);
  });
}

CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
  return fake::enqueue("cuMemsetD32Async", stream, [to, value, count] {
    // As words that kernels look at, also through other addresses of theirs.
    auto* words = reinterpret_cast<unsigned*>(to);
    for (size_t i = 0; i < count; ++i) {
      std::atomic_ref(words[i]).store(value, std::memory_order_relaxed);
    }
  });
}

}  // extern "C"
