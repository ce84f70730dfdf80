#include "cuda/slice.h"

#include "core/assert.h"

namespace shoal::cuda {
namespace {

constexpr auto kFdHandle = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
/// Legacy allocations of whole multiples of it share no page with others: an IPC handle names a
/// whole page of the device.
constexpr std::int64_t kIpcGranularity = 2 << 20;

CUmemAllocationProp allocation_of(CUdevice device) noexcept {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  prop.location.id = device;
  prop.requestedHandleTypes = kFdHandle;
  return prop;
}

void* as_handle(int fd) noexcept { return reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)); }

bool has(const PrimaryContext& context, CUdevice_attribute attribute) noexcept {
  int value = 0;
  return ok(context.driver().device_get_attribute(&value, attribute, context.device())) &&
         value != 0;
}

/// What the attributes promise may still be refused, by a container or a virtual GPU.
bool can_export(const PrimaryContext& context, std::size_t granularity) noexcept {
  const Driver& d = context.driver();
  const CUmemAllocationProp prop = allocation_of(context.device());
  CUmemGenericAllocationHandle handle = 0;
  if (!ok(d.mem_create(&handle, granularity, &prop, 0))) return false;
  int fd = -1;
  const bool exported = ok(d.mem_export_to_shareable_handle(&fd, handle, kFdHandle, 0));
  const Fd close_it(fd);
  (void)d.mem_release(handle);
  return exported;
}

}  // namespace

ExportAbility probe_export(const PrimaryContext& context) {
  const CUmemAllocationProp prop = allocation_of(context.device());
  std::size_t granularity = 0;
  const bool promised =
      has(context, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) &&
      has(context, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED) &&
      ok(context.driver().mem_get_allocation_granularity(&granularity, &prop,
                                                         CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
  if (promised && can_export(context, granularity)) {
    return {ExportKind::kFileDescriptor, static_cast<std::int64_t>(granularity)};
  }
  return {ExportKind::kIpcHandle, kIpcGranularity};
}

Slice::~Slice() {
  while (!chunks_.empty()) drop_last();
  if (reserved_ > 0) (void)driver().mem_address_free(base_, static_cast<std::size_t>(reserved_));
}

Outcome Slice::reserve(ExportKind kind, std::int64_t bytes) {
  kind_ = kind;
  return kind == ExportKind::kFileDescriptor ? reserve_addresses(bytes) : Outcome{};
}

Outcome Slice::reserve_addresses(std::int64_t bytes) {
  const Outcome outcome = {
      "cuMemAddressReserve",
      driver().mem_address_reserve(&base_, static_cast<std::size_t>(bytes), 0, 0, 0)};
  if (outcome.ok()) reserved_ = bytes;
  return outcome;
}

Outcome Slice::grow(std::int64_t bytes, ChunkTicket& ticket, Fd& fd) {
  ticket.offset = top_;
  ticket.bytes = bytes;
  ticket.kind = kind_;
  const Outcome outcome =
      kind_ == ExportKind::kFileDescriptor ? grow_mapped(bytes, fd) : grow_allocated(bytes, ticket);
  ticket.slice_bytes = kind_ == ExportKind::kFileDescriptor ? reserved_ : bytes;
  ticket.base = base_;
  ticket.context = reinterpret_cast<std::uint64_t>(context_->get());
  return outcome;
}

Outcome Slice::grow_mapped(std::int64_t bytes, Fd& fd) {
  const CUmemAllocationProp prop = allocation_of(context_->device());
  CUmemGenericAllocationHandle handle = 0;
  const CUresult made = driver().mem_create(&handle, static_cast<std::size_t>(bytes), &prop, 0);
  if (!ok(made)) return {"cuMemCreate", made};
  int exported = -1;
  const CUresult shared = driver().mem_export_to_shareable_handle(&exported, handle, kFdHandle, 0);
  if (!ok(shared)) {
    (void)driver().mem_release(handle);
    return {"cuMemExportToShareableHandle", shared};
  }
  fd.reset(exported);
  return map(handle, bytes);
}

Outcome Slice::grow_allocated(std::int64_t bytes, ChunkTicket& ticket) {
  SHOAL_ASSERT(chunks_.empty() && "a pool of the legacy kind does not grow");
  CUdeviceptr address = 0;
  const CUresult made = driver().mem_alloc(&address, static_cast<std::size_t>(bytes));
  if (!ok(made)) return {"cuMemAlloc", made};
  const CUresult shared = driver().ipc_get_mem_handle(&ticket.ipc, address);
  if (!ok(shared)) {
    (void)driver().mem_free(address);
    return {"cuIpcGetMemHandle", shared};
  }
  base_ = address;
  append({address, bytes, 0, Chunk::Kind::kAllocated});
  return {};
}

Outcome Slice::import(const ChunkTicket& ticket, const Fd& fd) {
  SHOAL_ASSERT(ticket.offset == top_);
  kind_ = ticket.kind;
  if (kind_ == ExportKind::kIpcHandle) {
    const CUresult opened =
        driver().ipc_open_mem_handle(&base_, ticket.ipc, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
    if (!ok(opened)) return {"cuIpcOpenMemHandle", opened};
    append({base_, ticket.bytes, 0, Chunk::Kind::kOpened});
    return {};
  }
  if (reserved_ == 0) {
    const Outcome reserved = reserve_addresses(ticket.slice_bytes);
    if (!reserved.ok()) return reserved;
  }
  CUmemGenericAllocationHandle handle = 0;
  const CUresult imported =
      driver().mem_import_from_shareable_handle(&handle, as_handle(fd.get()), kFdHandle);
  if (!ok(imported)) return {"cuMemImportFromShareableHandle", imported};
  return map(handle, ticket.bytes);
}

/// Takes the handle.
Outcome Slice::map(CUmemGenericAllocationHandle handle, std::int64_t bytes) {
  const std::uint64_t address = base_ + static_cast<std::uint64_t>(top_);
  const CUresult mapped = driver().mem_map(address, static_cast<std::size_t>(bytes), 0, handle, 0);
  if (!ok(mapped)) {
    (void)driver().mem_release(handle);
    return {"cuMemMap", mapped};
  }
  const Chunk chunk = {address, bytes, handle, Chunk::Kind::kMapped};
  const Outcome accessible = let_this_device(address, bytes);
  if (accessible.ok()) {
    append(chunk);
  } else {
    release(chunk);
  }
  return accessible;
}

Outcome Slice::let_this_device(std::uint64_t address, std::int64_t bytes) {
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = context_->device();
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  return {"cuMemSetAccess",
          driver().mem_set_access(address, static_cast<std::size_t>(bytes), &access, 1)};
}

Outcome Slice::borrow(const ChunkTicket& ticket) {
  SHOAL_ASSERT(ticket.offset == top_);
  base_ = ticket.base;
  const std::uint64_t address = base_ + static_cast<std::uint64_t>(ticket.offset);
  const auto owner = reinterpret_cast<CUcontext>(ticket.context);
  if (owner != context_->get()) {  // another device
    const Outcome accessible = ticket.kind == ExportKind::kFileDescriptor
                                   ? let_this_device(address, ticket.bytes)
                                   : let_this_context(owner);
    if (!accessible.ok()) return accessible;
  }
  append({address, ticket.bytes, 0, Chunk::Kind::kBorrowed});
  return {};
}

Outcome Slice::let_this_context(CUcontext owner) {
  const CUresult enabled = driver().ctx_enable_peer_access(owner, 0);
  return {"cuCtxEnablePeerAccess",
          enabled == CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED ? CUDA_SUCCESS : enabled};
}

void Slice::append(Chunk chunk) {
  chunks_.push_back(chunk);
  top_ += chunk.bytes;
}

void Slice::drop_last() noexcept {
  const Chunk chunk = chunks_.back();
  chunks_.pop_back();
  top_ -= chunk.bytes;
  release(chunk);
}

void Slice::release(const Chunk& chunk) noexcept {
  switch (chunk.kind) {
    case Chunk::Kind::kMapped:
      (void)driver().mem_unmap(chunk.address, static_cast<std::size_t>(chunk.bytes));
      (void)driver().mem_release(chunk.handle);
      break;
    case Chunk::Kind::kAllocated:
      (void)driver().mem_free(chunk.address);
      break;
    case Chunk::Kind::kOpened:
      (void)driver().ipc_close_mem_handle(chunk.address);
      break;
    case Chunk::Kind::kBorrowed:
      break;
  }
}

}  // namespace shoal::cuda
