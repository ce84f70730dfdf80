#include "comm/context.h"

#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "bootstrap/auth.h"
#include "bootstrap/identity.h"
#include "comm/report.h"
#include "core/log.h"
#include "memory/host_room.h"
#include "memory/placement.h"
#include "tune/load.h"
#include "tune/text.h"

namespace shoal::comm {

namespace {

/// All local slices together: 2^46 leaves half of a 47-bit address space to the program.
constexpr std::int64_t kArenaBytes = std::int64_t{1} << 45;

std::int64_t node_memory_bytes() noexcept {
  struct sysinfo info{};
  ::sysinfo(&info);
  return static_cast<std::int64_t>(info.totalram) * info.mem_unit;
}

std::int64_t pool_limit(const Options& options) {
  if (options.pool_bytes > 0) return options.pool_bytes;
  const char* text = std::getenv("SHOAL_POOL_BYTES");
  if (text == nullptr || *text == '\0') return node_memory_bytes();
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  if (value <= 0 || *end != '\0') {
    throw Error(ErrorCode::kInvalidArgument,
                std::string("SHOAL_POOL_BYTES=") + text + ": expected a positive number of bytes");
  }
  return value;
}

/// What connect() exchanges before the network's address: control memory, has_heavy_fence().
constexpr std::size_t kAgreedBytes = sizeof(memory::Offset) + 1;

memory::ArenaShape arena_shape(int local_ranks, std::int64_t limit_bytes) noexcept {
  const std::int64_t slab = memory::kSlabBytes;
  const std::int64_t pool = (limit_bytes + slab - 1) / slab * slab;
  const std::int64_t most = kArenaBytes / local_ranks / slab * slab;
  return {local_ranks, std::min(memory::kHeaderBytes + pool, most)};
}

bootstrap::Identity identify(const Options& options) {
  if (options.rank < 0 && options.size < 0 && options.store.empty()) {
    return bootstrap::identity_from_environment();
  }
  const std::size_t colon = options.store.rfind(':');
  const bool needs_store = options.size > 1;
  if (options.rank < 0 || options.size < 1 || options.rank >= options.size ||
      (needs_store && (colon == std::string::npos || options.secret.empty()))) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "init: explicit arguments need 0 <= rank < size, store=\"host:port\" and secret; got "
        "rank " +
            std::to_string(options.rank) + ", size " + std::to_string(options.size) + ", store \"" +
            options.store + "\"; or start the program with `shoal run`");
  }
  bootstrap::Identity identity;
  identity.rank = options.rank;
  identity.ranks = options.size;
  identity.secret = options.secret;
  identity.source = "arguments";
  if (needs_store) {
    identity.store_host = options.store.substr(0, colon);
    identity.store_port =
        static_cast<std::uint16_t>(std::strtoul(options.store.c_str() + colon + 1, nullptr, 10));
    identity.serves_store = options.rank == 0;
    identity.store_socket = options.store_socket;
  }
  identity.job = !options.job.empty()
                     ? options.job
                     : "job-" + (needs_store ? options.store : std::to_string(::getpid()));
  return identity;
}

int usable_cores() noexcept {
  // The node's, not this process's: a launcher may have bound each rank to one.
  const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? static_cast<int>(online) : 1;
}

}  // namespace

Context::Context(const Options& options)
    : options_(options),
      identity_(identify(options)),
      generation_(fork_generation()),
      health_(identity_.ranks) {
  const Deadline deadline = Deadline::after_ms(options_.init_timeout_ms);
  session_ = std::make_unique<bootstrap::Session>(identity_, deadline, options_.on_store);
  const std::int64_t limit = pool_limit(options_);
  Fd fd = session_->join_node(
      [&](int local_ranks) {
        auto arena = memory::Arena::create(arena_shape(local_ranks, limit), identity_.job);
        if (!arena.ok()) {
          throw Error(ErrorCode::kOutOfMemory,
                      "init: cannot create the node's arena: " +
                          std::string(std::strerror(static_cast<int>(arena.status().detail))));
        }
        return Fd(::dup(arena.value().fd()));
      },
      deadline);
  peers_ = session_->peers();
  for (const bootstrap::Peer& peer : peers_) nodes_ = std::max(nodes_, peer.node + 1);
  const bootstrap::Peer& self = peers_[identity_.rank];
  const int local_ranks = static_cast<int>(std::count_if(
      peers_.begin(), peers_.end(), [&](const auto& peer) { return peer.node == self.node; }));
  const memory::ArenaShape shape = arena_shape(local_ranks, limit);
  auto arena = memory::Arena::open(std::move(fd), shape);
  if (!arena.ok()) {
    throw Error(ErrorCode::kBootstrap,
                "init: the node's arena does not fit; give all ranks the same pool_bytes / "
                "SHOAL_POOL_BYTES (this rank: " +
                    describe_bytes(limit) + ")");
  }
  arena_ = std::move(arena.value());
  pool_ = std::make_unique<memory::Pool>(arena_, self.local_rank,
                                         std::min(limit, shape.slice_bytes - memory::kHeaderBytes));
  std::vector<Rank> worlds(static_cast<std::size_t>(local_ranks));
  for (Rank r = 0; r < identity_.ranks; ++r) {
    if (peers_[r].node == self.node) worlds[peers_[r].local_rank] = r;
  }
  leases_ = std::make_unique<Leases>(arena_, *pool_, health_, self.local_rank, std::move(worlds));
  node_ = std::make_unique<transport::shm::Node>(arena_, self.local_rank);
  if (!node_->commit_header().ok()) {
    throw Error(ErrorCode::kOutOfMemory, "init: no memory for the node's control pages: " +
                                             memory::host_room().limit + " is met");
  }
  shm_ = std::make_unique<transport::shm::ShmTransport>(*node_, *pool_);
  const auto neighbours = std::count_if(
      peers_.begin(), peers_.end(), [&](const auto& peer) { return peer.machine == self.machine; });
  crowded_ = neighbours > usable_cores();
  engine_ = std::make_unique<exec::Engine>(*node_, *pool_, crowded_);
  engine_->add_transport(*shm_, false);
  write_page();
  connect(deadline);
  if (nodes_ > 1) agree_on_tuning(deadline);
  listen();
  if (options_.progress_thread) engine_->start_progress_thread();
  const bootstrap::Traffic traffic = session_->traffic();
  log(LogLevel::kDebug, "rank %d of %d has joined: %d messages sent, %d received", identity_.rank,
      identity_.ranks, traffic.sent, traffic.received);
}

Context::~Context() {
  if (!in_its_process()) {
    // A forked child: everything belongs to the parent; only memory is left to the kernel.
    (void)device_watch_.release();
    (void)host_driver_.release();
    (void)cuda_.release();
    (void)session_.release();
    (void)engine_.release();
    (void)network_.release();
    (void)shm_.release();
    (void)pool_.release();
    return;
  }
  leave();
  device_watch_.reset();
  host_driver_.reset();
  cuda_.reset();
  engine_.reset();
  if (network_ != nullptr) pool_->set_registrar(nullptr);
  network_.reset();
}

void Context::leave() noexcept {
  std::call_once(left_, [this] {
    if (!in_its_process()) return;
    leases_->release_all();
    session_.reset();
  });
}

void Context::write_page() {
  abi::ProgressPage& page = node_->page(node_->self());
  page.version = abi::kAbiVersion;
  page.pid = static_cast<std::int32_t>(::getpid());
  page.rank = identity_.rank;
  page.ranks = identity_.ranks;
  page.local_rank = node_->self();
  std::strncpy(page.host, peers_[identity_.rank].host.c_str(), sizeof page.host - 1);
  page.heartbeat_ns.store(now_ns(), std::memory_order_relaxed);
}

void Context::depart(const exec::Binding& binding, Shared shared) {
  node_->depart(binding.communicator);
  {
    const std::lock_guard lock(departed_mutex_);
    departed_.push_back({binding.communicator, binding.local_ranks, std::move(shared)});
  }
  free_departed();
}

void Context::free_departed() noexcept {
  const std::lock_guard lock(departed_mutex_);
  std::erase_if(departed_, [this](const Departed& departed) {
    const bool all = std::ranges::all_of(departed.local_ranks, [&](int local_rank) {
      return node_->has_departed(local_rank, departed.communicator);
    });
    if (!all) return false;
    for (const memory::Offset block : departed.shared.blocks) pool_->free(block);
    for (const DeviceBlock& block : departed.shared.device_blocks) give_back(block);
    return true;
  });
}

Result<Context::DeviceBlock> Context::take_device_block(std::int64_t bytes) noexcept {
  free_departed();
  {
    const std::lock_guard lock(spare_mutex_);
    const auto spare = std::ranges::find(spare_device_blocks_, bytes, &DeviceBlock::bytes);
    if (spare != spare_device_blocks_.end()) {
      const DeviceBlock block = *spare;
      spare_device_blocks_.erase(spare);
      return block;
    }
  }
  const auto made = pool_->allocate(bytes, 4096);
  if (!made.ok()) return made.status();
  return DeviceBlock{made.value(), bytes};
}

void Context::give_back(DeviceBlock block) noexcept {
  const std::lock_guard lock(spare_mutex_);
  spare_device_blocks_.push_back(block);
}

Result<memory::Offset> Context::make_control(int ranks) noexcept {
  free_departed();
  const std::int64_t bytes = exec::control_bytes(ranks);
  const auto block = pool_->allocate(bytes, 4096);
  if (block.ok()) std::memset(arena_.at(block.value()), 0, static_cast<std::size_t>(bytes));
  return block;
}

/// Agrees on the control memory of the world communicator, on fences and, where there are other
/// nodes, on the network's addresses: one exchange.
void Context::connect(Deadline deadline) {
  const bootstrap::Peer& self = peers_[identity_.rank];
  memory::Offset control = memory::kNoOffset;
  if (self.local_rank == 0) {
    const auto made = make_control(node_->ranks());
    if (!made.ok()) {
      throw Error(ErrorCode::kOutOfMemory,
                  pool_->explain_out_of_memory(exec::control_bytes(node_->ranks())));
    }
    control = made.value();
  }
  std::string mine(kAgreedBytes, '\0');
  std::memcpy(mine.data(), &control, sizeof control);
  mine[sizeof control] = node_->has_heavy_fence() ? 1 : 0;
  std::optional<Networks> networks;
  if (nodes_ > 1) mine += networks.emplace(network_options()).offer();
  const std::vector<std::string> all = session_->all_gather(mine, deadline);
  bool heavy_fences = true;
  for (Rank r = 0; r < identity_.ranks; ++r) {
    if (peers_[r].node != self.node) continue;
    if (peers_[r].local_rank == 0) {
      std::memcpy(&world_control_, all[r].data(), sizeof world_control_);
    }
    heavy_fences = heavy_fences && all[r][sizeof control] != 0;
  }
  if (heavy_fences) node_->let_heavy_fences();
  if (networks) use_network(*networks, all);
}

/// All ranks choose algorithms by the table that rank 0 has read, or all refuse to start: files of
/// their own might differ, and messages of different algorithms do not match.
void Context::agree_on_tuning(Deadline deadline) {
  constexpr char kTable = '+', kError = '-';
  std::string mine;
  if (identity_.rank == 0) {
    try {
      mine = kTable + tune::to_text(tune::load(options_.tuning_file));
    } catch (const Error& error) {
      mine = kError + std::string(error.what());
    }
  }
  const std::string theirs = session_->all_gather(mine, deadline)[0];
  const std::string text = theirs.substr(1);
  if (theirs[0] == kError) throw Error(ErrorCode::kInvalidArgument, "init: " + text);
  if (!text.empty()) tuning_ = tune::parse(text, "of rank 0");
}

/// The first remote peer has appeared: no job of one node comes here.
NetworkOptions Context::network_options() {
  NetworkOptions options;
  options.self = identity_.rank;
  options.peers = identity_.ranks;
  options.network = options_.network;
  options.host = session_->host();
  options.ucx_directory = options_.ucx_directory;
  options.authenticate = [secret = identity_.secret, job = identity_.job](std::string_view text) {
    return bootstrap::hmac_sha256(secret, job + '\0' + std::string(text));
  };
  options.registration = [this](const void* data, std::int64_t bytes) {
    return pool_->registration(data, bytes);
  };
  return options;
}

void Context::use_network(Networks& networks, const std::vector<std::string>& all) {
  std::vector<std::string> offers(all.size());
  for (Rank r = 0; r < identity_.ranks; ++r) offers[r] = all[r].substr(kAgreedBytes);
  network_ = networks.choose(offers);
  why_network_ = networks.reason();
  has_put_ = networks.has_put();
  ports_ = networks.ports();
  if (networks.registrar() != nullptr) pool_->set_registrar(networks.registrar());
  engine_->add_transport(*network_, true);
}

DeviceWatch& Context::device_watch() {
  std::call_once(device_watch_made_,
                 [this] { device_watch_ = std::make_unique<DeviceWatch>(*this); });
  return *device_watch_;
}

HostDriver& Context::host_driver() {
  std::call_once(host_driver_made_, [this] { host_driver_ = std::make_unique<HostDriver>(*this); });
  return *host_driver_;
}

exec::Route Context::route(Rank world) noexcept {
  const bootstrap::Peer& peer = peers_[world];
  if (peer.node == peers_[identity_.rank].node) return {shm_.get(), peer.local_rank, -1, world};
  return {network_.get(), world, -1, world};
}

std::string Context::describe_network() const {
  if (network_ == nullptr) return "none needed: all ranks in one node";
  return network_->describe() + " (" + why_network_ + ")";
}

std::string Context::describe_network_and_devices() const {
  std::string text = describe_network();
  // A page that is there for certain; the pool's are committed by the same thread, alike.
  const int node = memory::node_of_page(&node_->page(node_->self()));
  for (const transport::RdmaPort& port : ports_) {
    text += "; " + transport::describe(port, node);
  }
  return text;
}

std::string Context::name(Rank rank, Rank world) const {
  std::string text = "rank " + std::to_string(rank);
  if (rank != world) text += " (rank " + std::to_string(world) + " of the job)";
  return text + " (" + peers_[world].host + ", pid " + std::to_string(peers_[world].pid) + ")";
}

std::string Context::cause(Rank world) const {
  const std::lock_guard lock(causes_mutex_);
  const auto found = causes_.find(world);
  return found == causes_.end() ? "died" : found->second;
}

// --- the control thread ------------------------------------------------------------------------

void Context::listen() {
  bootstrap::Listener listener;
  listener.tick = [this] {
    node_->page(node_->self()).heartbeat_ns.store(now_ns(), std::memory_order_relaxed);
    engine_->tick();
  };
  listener.failed = [this](Rank world, const std::string& cause) { on_failed(world, cause); };
  listener.left = [this](Rank world) { on_left(world); };
  listener.message = [this](Rank from, const std::string& message) { on_message(from, message); };
  session_->listen(std::move(listener));
}

void Context::on_failed(Rank world, const std::string& cause) {
  if (world < 0 || world >= identity_.ranks || world == identity_.rank) return;
  {
    const std::lock_guard lock(causes_mutex_);
    causes_.emplace(world, cause);
  }
  health_.set_failed(world);
  engine_->wake();
}

void Context::on_left(Rank world) {
  if (world < 0 || world >= identity_.ranks || world == identity_.rank) return;
  {
    const std::lock_guard lock(causes_mutex_);
    causes_.emplace(world, "has left the job");
  }
  health_.set_left(world);
  engine_->wake();
}

void Context::on_message(Rank from, const std::string& message) {
  ControlHead head;
  std::string text;
  if (!unpack(message, head, text)) return;
  const std::lock_guard lock(receivers_mutex_);
  const auto receiver = receivers_.find(head.communicator);
  if (receiver != receivers_.end()) receiver->second->receive(from, head, text);
}

void Context::attach(std::uint32_t communicator, ControlReceiver& receiver) {
  const std::lock_guard lock(receivers_mutex_);
  receivers_[communicator] = &receiver;
}

void Context::detach(std::uint32_t communicator) {
  const std::lock_guard lock(receivers_mutex_);
  receivers_.erase(communicator);
}

void Context::publish(const std::vector<Rank>& world_ranks, const ControlHead& head,
                      const std::string& text) {
  if (session_ != nullptr) session_->publish(world_ranks, pack(head, text));
}

}  // namespace shoal::comm
