#include "transport/ucx/ucx_transport.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <utility>

#include "core/assert.h"
#include "core/clock.h"
#include "core/log.h"
#include "transport/ucx/context.h"
#include "transport/ucx/wire_tag.h"

namespace shoal::transport::ucx {
namespace {

constexpr int kProgressBurst = 16;       // events handled in one progress(), so that it returns
constexpr int kCancelProgress = 64;      // rounds in which an asked-for cancel normally ends
constexpr std::int64_t kFlushMs = 1000;  // for what was sent just before the transport is closed
constexpr std::size_t kMostKeys = 16;    // of a peer, kept unpacked: one for each slab it puts from
constexpr std::int64_t kRegisterBytes = 8 << 10;  // below, UCX copies: a registration gains nothing

/// How operations end when there is no worker any more (kTransport).
constexpr ucs_status_t kRetired = UCS_ERR_NO_DEVICE;

class Module;

/// One operation in flight: UCX's callbacks get this. Pooled, at a stable address.
struct Slot {
  Module* owner = nullptr;
  Operation* operation = nullptr;  ///< nullptr: free
  int peer = -1;
  bool receives = false;
  /// Requests that have not ended: a put is two, the data and the message that says so.
  int parts = 1;
  ucs_status_t status = UCS_OK;  ///< of the first part that failed
  Slot* next_free = nullptr;
};

/// A peer's key as UCX wants it, and the bytes that it was made of.
struct OpenKey {
  Key packed;
  ucp_rkey_h handle = nullptr;
  [[nodiscard]] bool is_of(const Key& key) const noexcept {
    return packed.bytes == key.bytes && std::memcmp(packed.data, key.data, key.bytes) == 0;
  }
};

/// Of memory of this rank that peers may put to.
struct PackedKey {
  void* registration = nullptr;
  Key key;
};

struct Peer {
  Module* owner = nullptr;
  std::vector<std::byte> address;
  ucp_ep_h endpoint = nullptr;
  bool failed = false;
  bool cut_off = false;  ///< the failure has been dealt with
  PutOrder order = PutOrder::kUnknown;
  std::vector<OpenKey> keys;  ///< they live as long as the worker
};

bool says_peer_failed(ucs_status_t status) noexcept {
  switch (status) {
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_ENDPOINT_TIMEOUT:
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_REJECTED:
    case UCS_ERR_UNREACHABLE:
    case UCS_ERR_IO_ERROR:
      return true;
    default:
      return false;
  }
}

class Module final : public UcxTransport {
 public:
  /// Empty: `error` says why.
  static std::unique_ptr<Module> open(const UcxOptions& options, std::string& error);
  Module(const UcxOptions& options, Context context);
  ~Module() override;

  [[nodiscard]] const std::vector<std::byte>& address() const noexcept override { return address_; }
  void set_peer_address(int peer, std::span<const std::byte> address) override;
  [[nodiscard]] bool peer_failed(int peer) const noexcept override {
    return peers_[static_cast<std::size_t>(peer)].failed;
  }

  bool send(int peer, Match match, const void* data, std::int64_t bytes,
            Operation& operation) noexcept override;
  bool receive(int peer, Match match, void* data, std::int64_t capacity,
               Operation& operation) noexcept override;
  [[nodiscard]] bool has_put() const noexcept override { return has_put_; }
  Key key_to(const void* data, std::int64_t bytes) noexcept override;
  bool put(int peer, Match match, const Key& key, std::int64_t offset, const void* data,
           std::int64_t bytes, Operation& operation) noexcept override;
  bool probe(int peer, Match match) noexcept override;
  bool progress() noexcept override;
  void cancel(Operation& operation) noexcept override;
  int arm() noexcept override;
  [[nodiscard]] std::string describe() const override;

  Result<void*> register_memory(void* base, std::int64_t bytes) noexcept override;
  void deregister_memory(void* handle) noexcept override;

 private:
  bool open_worker(std::string& error);
  Peer& peer_at(int peer) noexcept { return peers_[static_cast<std::size_t>(peer)]; }
  ucs_status_t connect(Peer& peer) noexcept;
  void note_trouble(const char* what, ucs_status_t status) noexcept;

  Slot& take_slot(int peer, bool receives, Operation& operation) noexcept;
  void finish(Slot& slot, ucs_status_t status) noexcept;
  Status status_for(const Slot& slot, ucs_status_t status) noexcept;
  bool may_put(Peer& peer) noexcept;
  ucp_rkey_h open_key(Peer& peer, const Key& key) noexcept;
  static void drop_keys(Peer& peer) noexcept;
  ucp_request_param_t parameters(Slot& slot, const void* data, std::int64_t bytes) noexcept;
  void started(Slot& slot, ucs_status_ptr_t request) noexcept;

  bool progress_until_done(const Operation& operation, int rounds) noexcept;
  bool progress_until_done(const Operation& operation, Deadline deadline) noexcept;
  void close(Peer& peer) noexcept;
  void cut_off(Peer& peer) noexcept;
  bool cut_off_failed() noexcept;
  void flush() noexcept;
  void retire() noexcept;

  static void on_sent(void* request, ucs_status_t status, void* slot) noexcept;
  static void on_received(void* request, ucs_status_t status, const ucp_tag_recv_info_t* info,
                          void* slot) noexcept;
  static void on_error(void* peer, ucp_ep_h endpoint, ucs_status_t status) noexcept;
  static void on_closed(void* request, ucs_status_t status, void* unused) noexcept;

  UcxOptions options_;
  Context context_;
  ucp_worker_h worker_ = nullptr;  ///< nullptr: retired
  int event_fd_ = -1;
  std::vector<std::byte> address_;
  std::vector<Peer> peers_;
  std::deque<Slot> slots_;  ///< grows to the most operations that were ever in flight
  Slot* free_slots_ = nullptr;
  bool failure_noticed_ = false;
  const Operation* cancelling_ = nullptr;
  bool has_put_ = false;
  std::vector<PackedKey> packed_keys_;
  std::string trouble_;     ///< the first
  bool abandoned_ = false;  ///< the worker could not be destroyed and lives on, as its context must
};

Module::Module(const UcxOptions& options, Context context)
    : options_(options),
      context_(std::move(context)),
      peers_(static_cast<std::size_t>(options.peers)) {
  for (Peer& peer : peers_) peer.owner = this;
}

std::unique_ptr<Module> Module::open(const UcxOptions& options, std::string& error) {
  if (options.peers < 1 || options.peers > kMaxPeers || options.self < 0 ||
      options.self >= options.peers) {
    error = "ucx: self " + std::to_string(options.self) + " of " + std::to_string(options.peers) +
            " peers; at most " + std::to_string(kMaxPeers) + " are possible";
    return nullptr;
  }
  Context context = open_context(options, error);
  if (!context) return nullptr;
  auto module = std::make_unique<Module>(options, std::move(context));
  if (!module->open_worker(error)) return nullptr;
  module->has_put_ = options.verbs && is_one_rc(module->context_.get());
  return module;
}

bool Module::open_worker(std::string& error) {
  const auto failed = [&](const char* what, ucs_status_t status) {
    if (status == UCS_OK) return false;
    error = std::string("ucx: ") + what + ": " + ucs_status_string(status);
    if (options_.verbs) error = with_limits(std::move(error));
    return true;
  };
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;  // any thread, one at a time
  if (failed("ucp_worker_create", ucp_worker_create(context_.get(), &params, &worker_)))
    return false;
  if (failed("ucp_worker_get_efd", ucp_worker_get_efd(worker_, &event_fd_))) return false;
  ucp_address_t* bytes = nullptr;
  std::size_t length = 0;
  if (failed("ucp_worker_get_address", ucp_worker_get_address(worker_, &bytes, &length)))
    return false;
  const auto* begin = reinterpret_cast<const std::byte*>(bytes);
  address_.assign(begin, begin + length);
  ucp_worker_release_address(worker_, bytes);
  return true;
}

Module::~Module() {
  if (worker_ != nullptr) {
    flush();
    retire();
  }
  if (abandoned_) static_cast<void>(context_.release());
}

void Module::set_peer_address(int peer, std::span<const std::byte> address) {
  SHOAL_ASSERT(peer >= 0 && peer < options_.peers);
  SHOAL_ASSERT(peer_at(peer).endpoint == nullptr);
  peer_at(peer).address.assign(address.begin(), address.end());
}

ucs_status_t Module::connect(Peer& peer) noexcept {
  if (peer.endpoint != nullptr) return UCS_OK;
  SHOAL_ASSERT(!peer.address.empty());  // set_peer_address() comes first
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(peer.address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {.cb = on_error, .arg = &peer};
  const ucs_status_t status = ucp_ep_create(worker_, &params, &peer.endpoint);
  if (status == UCS_OK) return status;
  peer.endpoint = nullptr;
  note_trouble("an endpoint could not be made", status);
  return status;
}

/// For describe(), which is what the error of the operation will say; once, and to the log.
void Module::note_trouble(const char* what, ucs_status_t status) noexcept {
  if (!trouble_.empty()) return;
  trouble_ = std::string(what) + ": " + ucs_status_string(status);
  if (options_.verbs) trouble_ = with_limits(std::move(trouble_));
  log(LogLevel::kWarn, "ucx: rank %d: %s", options_.self, trouble_.c_str());
}

// --- operations ----------------------------------------------------------------------------------

Slot& Module::take_slot(int peer, bool receives, Operation& operation) noexcept {
  if (free_slots_ == nullptr) free_slots_ = &slots_.emplace_back();
  Slot& slot = *std::exchange(free_slots_, free_slots_->next_free);
  slot = {this, &operation, peer, receives, 1, UCS_OK, nullptr};
  operation.state = Operation::State::kActive;
  operation.status = kOkStatus;
  operation.bytes = 0;
  operation.request = nullptr;
  operation.request_id = reinterpret_cast<std::uint64_t>(&slot);
  return slot;
}

Status Module::status_for(const Slot& slot, ucs_status_t status) noexcept {
  if (status == UCS_OK) return kOkStatus;
  if (status == UCS_ERR_MESSAGE_TRUNCATED) return {ErrorCode::kMismatch, slot.peer, status};
  if (status == UCS_ERR_NO_MEMORY) return {ErrorCode::kOutOfMemory, slot.peer, status};
  if (slot.operation == cancelling_) return {ErrorCode::kAborted, -1, 0};
  if (peer_at(slot.peer).failed || says_peer_failed(status)) {
    return {ErrorCode::kPeerFailed, slot.peer, status};
  }
  if (status == UCS_ERR_CANCELED) return {ErrorCode::kAborted, -1, 0};
  return {ErrorCode::kTransport, slot.peer, status};
}

/// A part of the operation has ended.
void Module::finish(Slot& slot, ucs_status_t status) noexcept {
  if (slot.status == UCS_OK) slot.status = status;
  if (--slot.parts > 0) return;
  status = slot.status;
  const Status outcome = status_for(slot, status);
  std::exchange(slot.operation, nullptr)->end(outcome);
  slot.next_free = std::exchange(free_slots_, &slot);
}

ucp_request_param_t Module::parameters(Slot& slot, const void* data, std::int64_t bytes) noexcept {
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.user_data = &slot;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  if (bytes < kRegisterBytes || !options_.registration) return param;
  if (void* handle = options_.registration(data, bytes)) {
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
    param.memh = static_cast<ucp_mem_h>(handle);
  }
  return param;
}

/// What UCX has answered: done (nullptr), an error, or a request whose callback will come or, for a
/// receive, has come and freed it.
void Module::started(Slot& slot, ucs_status_ptr_t request) noexcept {
  if (slot.operation == nullptr) return;
  if (!UCS_PTR_IS_PTR(request)) return finish(slot, UCS_PTR_STATUS(request));
  slot.operation->request = request;
}

bool Module::send(int peer, Match match, const void* data, std::int64_t bytes,
                  Operation& operation) noexcept {
  Slot& slot = take_slot(peer, false, operation);
  if (worker_ == nullptr) return finish(slot, kRetired), true;
  Peer& to = peer_at(peer);
  if (to.failed) return finish(slot, UCS_ERR_CONNECTION_RESET), true;
  const ucs_status_t connected = connect(to);
  if (connected != UCS_OK) return finish(slot, connected), true;
  ucp_request_param_t param = parameters(slot, data, bytes);
  param.cb.send = on_sent;
  started(slot, ucp_tag_send_nbx(to.endpoint, data, static_cast<std::size_t>(bytes),
                                 wire_tag(options_.self, match), &param));
  return true;
}

bool Module::receive(int peer, Match match, void* data, std::int64_t capacity,
                     Operation& operation) noexcept {
  Slot& slot = take_slot(peer, true, operation);
  if (worker_ == nullptr) return finish(slot, kRetired), true;
  ucp_request_param_t param = parameters(slot, data, capacity);
  // A message that is there already goes through the callback too: UCX 1.13 says who sent it, and
  // how much, in no other way.
  param.op_attr_mask |= UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  param.cb.recv = on_received;
  ucs_status_ptr_t request = ucp_tag_recv_nbx(worker_, data, static_cast<std::size_t>(capacity),
                                              wire_tag(peer, match), kMatchedBits, &param);
  started(slot, request);
  // What a failed peer had sent may still be received; more will not come.
  if (peer_at(peer).failed && !operation.done()) ucp_request_cancel(worker_, operation.request);
  return true;
}

// --- one-sided -----------------------------------------------------------------------------------

/// Empty where nobody could put to it, or the memory is not registered.
Key Module::key_to(const void* data, std::int64_t bytes) noexcept {
  Key key;
  void* const handle = has_put_ && worker_ != nullptr && options_.registration
                           ? options_.registration(data, bytes)
                           : nullptr;
  if (handle == nullptr) return key;
  for (const PackedKey& known : packed_keys_) {
    if (known.registration == handle) key = known.key;
  }
  if (key.empty()) {
    void* packed = nullptr;
    std::size_t length = 0;
    const ucs_status_t status =
        ucp_rkey_pack(context_.get(), static_cast<ucp_mem_h>(handle), &packed, &length);
    if (status != UCS_OK) return key;
    if (length <= Key::kMostBytes) {
      key.bytes = static_cast<std::uint16_t>(length);
      std::memcpy(key.data, packed, length);
    }
    ucp_rkey_buffer_release(packed);
    packed_keys_.push_back({handle, key});
  }
  key.address = reinterpret_cast<std::uintptr_t>(data);
  return key;
}

/// To a peer that is not connected yet, messages could overtake what is put.
bool Module::may_put(Peer& peer) noexcept {
  if (peer.order == PutOrder::kUnknown) peer.order = put_order(peer.endpoint);
  return peer.order == PutOrder::kKept;
}

/// nullptr: none now, as those that are kept may be in use.
ucp_rkey_h Module::open_key(Peer& peer, const Key& key) noexcept {
  for (const OpenKey& known : peer.keys) {
    if (known.is_of(key)) return known.handle;
  }
  if (peer.keys.size() == kMostKeys) {
    const auto is_in_use = [&](const Slot& slot) {
      return slot.operation != nullptr && !slot.receives && &peer_at(slot.peer) == &peer;
    };
    if (std::ranges::any_of(slots_, is_in_use)) return nullptr;
    drop_keys(peer);
  }
  ucp_rkey_h handle = nullptr;
  if (ucp_ep_rkey_unpack(peer.endpoint, key.data, &handle) != UCS_OK) return nullptr;
  peer.keys.push_back({key, handle});
  return handle;
}

void Module::drop_keys(Peer& peer) noexcept {
  for (const OpenKey& key : peer.keys) ucp_rkey_destroy(key.handle);
  peer.keys.clear();
}

bool Module::put(int peer, Match match, const Key& key, std::int64_t offset, const void* data,
                 std::int64_t bytes, Operation& operation) noexcept {
  Peer& to = peer_at(peer);
  const bool is_open = worker_ != nullptr && !to.failed && connect(to) == UCS_OK;
  const ucp_rkey_h open = is_open && !key.empty() && may_put(to) ? open_key(to, key) : nullptr;
  if (open == nullptr) return send(peer, match, data, bytes, operation);
  Slot& slot = take_slot(peer, false, operation);
  slot.parts = 2;
  ucp_request_param_t param = parameters(slot, data, bytes);
  param.cb.send = on_sent;
  const ucs_status_ptr_t written =
      ucp_put_nbx(to.endpoint, data, static_cast<std::size_t>(bytes),
                  key.address + static_cast<std::uint64_t>(offset), open, &param);
  started(slot, written);
  if (UCS_PTR_IS_ERR(written)) return finish(slot, UCS_PTR_STATUS(written)), true;
  // One queue pair carries both, so the message comes when the data are there: may_put().
  ucp_request_param_t flag = parameters(slot, nullptr, 0);
  flag.cb.send = on_sent;
  const ucs_status_ptr_t raised =
      ucp_tag_send_nbx(to.endpoint, nullptr, 0, wire_tag(options_.self, match), &flag);
  if (!UCS_PTR_IS_PTR(raised)) finish(slot, UCS_PTR_STATUS(raised));
  return true;
}

bool Module::probe(int peer, Match match) noexcept {
  if (worker_ == nullptr) return true;  // a receive ends at once and says so
  constexpr int kLeaveIt = 0;
  ucp_tag_recv_info_t info{};
  return ucp_tag_probe_nb(worker_, wire_tag(peer, match), kMatchedBits, kLeaveIt, &info) != nullptr;
}

void Module::on_sent(void* request, ucs_status_t status, void* user_data) noexcept {
  Slot& slot = *static_cast<Slot*>(user_data);
  if (slot.operation->request == request) slot.operation->request = nullptr;
  slot.owner->finish(slot, status);
  ucp_request_free(request);
}

void Module::on_received(void* request, ucs_status_t status, const ucp_tag_recv_info_t* info,
                         void* user_data) noexcept {
  Slot& slot = *static_cast<Slot*>(user_data);
  if (status == UCS_OK) {
    slot.operation->bytes = static_cast<std::int64_t>(info->length);
    slot.operation->fingerprint = fingerprint_of(info->sender_tag);
  }
  slot.owner->finish(slot, status);
  ucp_request_free(request);
}

bool Module::progress() noexcept {
  if (worker_ == nullptr) return false;
  int moved = 0;
  while (moved < kProgressBurst && ucp_worker_progress(worker_) != 0) ++moved;
  return cut_off_failed() || moved > 0;
}

int Module::arm() noexcept {
  if (worker_ == nullptr) return -2;
  if (ucp_worker_arm(worker_) != UCS_OK) return -1;
  // Some transports report an event that came before arming only to whoever progresses once more.
  return progress() ? -1 : event_fd_;
}

// --- failures ------------------------------------------------------------------------------------

/// Called from within ucp_worker_progress: only notes it, cut_off_failed() acts.
void Module::on_error(void* arg, ucp_ep_h, ucs_status_t status) noexcept {
  Peer& peer = *static_cast<Peer*>(arg);
  Module& self = *peer.owner;
  peer.failed = true;
  self.failure_noticed_ = true;
  log(LogLevel::kInfo, "ucx: endpoint to rank %d failed: %s",
      static_cast<int>(&peer - self.peers_.data()), ucs_status_string(status));
}

void Module::on_closed(void* request, ucs_status_t, void*) noexcept { ucp_request_free(request); }

/// The peer's sends end with an error; messages from it are not accepted any more.
void Module::close(Peer& peer) noexcept {
  if (peer.endpoint == nullptr || !may_be_closed(peer.endpoint)) return;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  param.cb.send = on_closed;
  static_cast<void>(ucp_ep_close_nbx(std::exchange(peer.endpoint, nullptr), &param));
}

void Module::cut_off(Peer& peer) noexcept {
  peer.failed = peer.cut_off = true;
  const int number = static_cast<int>(&peer - peers_.data());
  for (Slot& slot : slots_) {  // receives belong to no endpoint: closing it does not end them
    if (slot.operation == nullptr || !slot.receives || slot.peer != number) continue;
    ucp_request_cancel(worker_, slot.operation->request);
  }
  close(peer);
}

bool Module::cut_off_failed() noexcept {
  if (!std::exchange(failure_noticed_, false)) return false;
  for (Peer& peer : peers_) {
    if (peer.failed && !peer.cut_off) cut_off(peer);
  }
  return true;
}

bool Module::progress_until_done(const Operation& operation, int rounds) noexcept {
  for (int i = 0; i < rounds && !operation.done(); ++i) progress();
  return operation.done();
}

bool Module::progress_until_done(const Operation& operation, Deadline deadline) noexcept {
  while (!operation.done() && !deadline.passed()) progress();
  return operation.done();
}

void Module::cancel(Operation& operation) noexcept {
  if (operation.state != Operation::State::kActive) return;
  Slot& slot = *reinterpret_cast<Slot*>(operation.request_id);
  Peer& peer = peer_at(slot.peer);
  cancelling_ = &operation;
  if (operation.request != nullptr) ucp_request_cancel(worker_, operation.request);
  if (!progress_until_done(operation, kCancelProgress)) {
    // A send, or a receive of which data is coming. The endpoint may be UCX's own, made when the
    // peer connected to us: connect() then hands it out.
    if (!peer.failed) static_cast<void>(connect(peer));
    cut_off(peer);
    if (!progress_until_done(operation, Deadline::after_ms(kCancelMs))) retire();
  }
  cancelling_ = nullptr;
}

/// Lets what has been sent leave. Bounded: a peer that does not read does not hold us.
void Module::flush() noexcept {
  const Deadline deadline = Deadline::after_ms(kFlushMs);
  ucp_request_param_t param{};
  void* request = ucp_worker_flush_nbx(worker_, &param);
  if (!UCS_PTR_IS_PTR(request)) return;
  while (ucp_request_check_status(request) == UCS_INPROGRESS && !deadline.passed()) progress();
  ucp_request_free(request);
}

/// Ends everything: without the worker nothing of ours is written or read any more. With an
/// endpoint that may not be closed neither may the worker be destroyed. It is left behind: nothing
/// has been posted to a peer that never answered, and no more will be where nobody makes progress.
void Module::retire() noexcept {
  for (Peer& peer : peers_) close(peer);
  const Deadline deadline = Deadline::after_ms(kFlushMs);
  for (int quiet = 0; quiet < kCancelProgress && !deadline.passed(); ++quiet) {
    if (ucp_worker_progress(worker_) != 0) quiet = 0;
  }
  for (const Peer& peer : peers_) abandoned_ = abandoned_ || peer.endpoint != nullptr;
  ucp_worker_h worker = std::exchange(worker_, nullptr);
  if (!abandoned_) {
    for (Peer& peer : peers_) drop_keys(peer);
    ucp_worker_destroy(worker);
  }
  for (Slot& slot : slots_) {
    slot.parts = 1;
    if (slot.operation != nullptr) finish(slot, kRetired);
  }
}

// --- memory --------------------------------------------------------------------------------------

Result<void*> Module::register_memory(void* base, std::int64_t bytes) noexcept {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                      UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
  params.address = base;
  params.length = static_cast<std::size_t>(bytes);
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  ucp_mem_h handle = nullptr;
  const ucs_status_t status = ucp_mem_map(context_.get(), &params, &handle);
  if (status != UCS_OK) {
    note_trouble("memory could not be registered, and will be copied", status);
    return Status{ErrorCode::kTransport, -1, status};
  }
  return static_cast<void*>(handle);
}

void Module::deregister_memory(void* handle) noexcept {
  std::erase_if(packed_keys_, [&](const PackedKey& key) { return key.registration == handle; });
  static_cast<void>(ucp_mem_unmap(context_.get(), static_cast<ucp_mem_h>(handle)));
}

std::string Module::describe() const {
  return std::string("ucx ") + ucp_get_version_string() + " over " + resources(context_.get()) +
         (trouble_.empty() ? "" : "; " + trouble_) +
         (worker_ == nullptr ? ", retired after an operation that UCX could not end" : "");
}

}  // namespace
}  // namespace shoal::transport::ucx

extern "C" {

__attribute__((visibility("default"))) int shoal_ucx_abi_version() {
  return shoal::transport::ucx::kModuleAbi;
}

__attribute__((visibility("default"))) shoal::transport::ucx::UcxTransport* shoal_ucx_create(
    const shoal::transport::ucx::UcxOptions& options, char* error, std::size_t error_bytes) {
  std::string why;
  try {
    if (auto module = shoal::transport::ucx::Module::open(options, why)) return module.release();
  } catch (const std::exception& exception) {  // out of memory; nothing passes a C entry
    why = std::string("ucx: ") + exception.what();
  }
  std::snprintf(error, error_bytes, "%s", why.c_str());
  return nullptr;
}
}
