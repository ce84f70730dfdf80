/// One rank's place in a job: everything that exists once, however many communicators there are.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bootstrap/session.h"
#include "comm/control.h"
#include "comm/device_calls.h"
#include "comm/host_calls.h"
#include "comm/leases.h"
#include "comm/networks.h"
#include "core/fork.h"
#include "cuda/device_memory.h"
#include "exec/engine.h"
#include "memory/arena.h"
#include "memory/pool.h"
#include "shoal/communicator.h"
#include "transport/network.h"
#include "transport/shm/node.h"
#include "transport/shm/shm_transport.h"
#include "tune/table.h"

namespace shoal::comm {

/// What control messages of one communicator are delivered to. Control thread.
class ControlReceiver {
 public:
  virtual ~ControlReceiver() = default;
  virtual void receive(Rank from_world, const ControlHead& head, const std::string& text) = 0;
  /// This rank's CUDA context is lost. CUDA's service thread.
  virtual void lose_device(const std::string& text) = 0;
};

/// Any thread. Not process-wide: several may live in one process (ranks as threads).
class Context {
 public:
  explicit Context(const Options& options);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  [[nodiscard]] const Options& options() const noexcept { return options_; }
  [[nodiscard]] Rank rank() const noexcept { return identity_.rank; }
  [[nodiscard]] Rank ranks() const noexcept { return identity_.ranks; }
  [[nodiscard]] const std::string& job() const noexcept { return identity_.job; }
  [[nodiscard]] const std::vector<bootstrap::Peer>& peers() const noexcept { return peers_; }

  [[nodiscard]] memory::Pool& pool() noexcept { return *pool_; }
  [[nodiscard]] memory::Arena& arena() noexcept { return arena_; }
  [[nodiscard]] Leases& leases() noexcept { return *leases_; }
  /// This rank looks at others' memory, or they at its: then what is written has to be checked.
  [[nodiscard]] bool has_views() const noexcept {
    return arena_.has_read_only_mapping() || leases_->lends();
  }
  /// This rank's CUDA memory, which is set up by the first call. `device`: -1, or the one it must
  /// be on. Throws MissingLibrary, InvalidArgument, DeviceError, Timeout.
  [[nodiscard]] cuda::DeviceMemory& cuda(int device = -1, const cuda::Interrupt& interrupt = {});
  [[nodiscard]] transport::shm::Node& node() noexcept { return *node_; }
  [[nodiscard]] exec::Engine& engine() noexcept { return *engine_; }
  [[nodiscard]] exec::Health& health() noexcept { return health_; }
  /// More ranks than cores on this machine.
  [[nodiscard]] bool crowded() const noexcept { return crowded_; }
  /// How this rank reaches a rank of the world.
  [[nodiscard]] exec::Route route(Rank world) noexcept;
  [[nodiscard]] std::string describe_network() const;
  /// The same with each device that carries it: for explain(), a line that nobody reads often.
  [[nodiscard]] std::string describe_network_and_devices() const;
  /// The network has one-sided operations, at every rank.
  [[nodiscard]] bool has_put() const noexcept { return has_put_; }
  /// What rank 0 has read, on every rank alike; empty in one node.
  [[nodiscard]] const tune::Table& tuning() const noexcept { return tuning_; }

  /// "rank 3 (host, pid 4711)"; `rank` is what the caller's communicator calls it.
  [[nodiscard]] std::string name(Rank rank, Rank world) const;
  /// Why a rank of the world is gone, e.g. "killed by signal 9".
  [[nodiscard]] std::string cause(Rank world) const;

  /// Offset of the control memory that the lowest local rank made for the world communicator.
  [[nodiscard]] memory::Offset world_control() const noexcept { return world_control_; }
  /// Control memory for a node group of so many ranks, zeroed, from this rank's pool.
  Result<memory::Offset> make_control(int ranks) noexcept;
  /// Pool memory that drivers of CUDA have been told of, of all ranks of a communicator. It never
  /// goes back to the pool but to the next communicator that needs as much: a driver that is to
  /// forget it may wait for kernels, and they for this rank.
  struct DeviceBlock {
    memory::Offset offset;
    std::int64_t bytes;
  };
  Result<DeviceBlock> take_device_block(std::int64_t bytes) noexcept;
  void give_back(DeviceBlock block) noexcept;
  /// What a rank has given to a communicator and the others may still look at.
  struct Shared {
    std::vector<memory::Offset> blocks;  ///< of the pool
    std::vector<DeviceBlock> device_blocks;
  };
  /// This rank has done with a communicator. What it shares is given back once all of them have
  /// done with it too: when another communicator is made or ends.
  void depart(const exec::Binding& binding, Shared shared);
  [[nodiscard]] std::uint32_t next_communicator() const noexcept { return next_communicator_; }
  void set_next_communicator(std::uint32_t id) noexcept { next_communicator_ = id; }

  void attach(std::uint32_t communicator, ControlReceiver& receiver);
  void detach(std::uint32_t communicator);
  void publish(const std::vector<Rank>& world_ranks, const ControlHead& head,
               const std::string& text = {});

  /// Says goodbye and gives back all leases; deaths are not watched any more. Memory stays.
  /// Idempotent.
  void leave() noexcept;
  /// Looks at what collectives on CUDA memory are doing; begun by the first call.
  [[nodiscard]] DeviceWatch& device_watch();
  /// Carries out what is the host's of them, where nobody waits; begun likewise.
  [[nodiscard]] HostDriver& host_driver();
  /// True in the process that made it; a forked child may only read pool memory.
  [[nodiscard]] bool in_its_process() const noexcept { return fork_generation() == generation_; }

 private:
  void free_departed() noexcept;
  void listen();
  void on_failed(Rank world, const std::string& cause);
  void on_left(Rank world);
  void on_message(Rank from, const std::string& message);
  void write_page();
  void connect(Deadline deadline);
  [[nodiscard]] NetworkOptions network_options();
  void use_network(Networks& networks, const std::vector<std::string>& all);
  void agree_on_tuning(Deadline deadline);
  [[nodiscard]] cuda::MemoryOptions cuda_options(int device);

  Options options_;
  bootstrap::Identity identity_;
  std::uint32_t generation_;
  exec::Health health_;
  std::unique_ptr<bootstrap::Session> session_;
  std::vector<bootstrap::Peer> peers_;
  int nodes_ = 1;
  bool crowded_ = false;
  memory::Arena arena_;
  std::unique_ptr<memory::Pool> pool_;
  std::unique_ptr<Leases> leases_;
  std::unique_ptr<transport::shm::Node> node_;
  std::unique_ptr<transport::shm::ShmTransport> shm_;
  std::unique_ptr<transport::Network> network_;
  std::string why_network_;
  bool has_put_ = false;
  std::vector<transport::RdmaPort> ports_;
  std::unique_ptr<exec::Engine> engine_;
  memory::Offset world_control_ = memory::kNoOffset;
  tune::Table tuning_;
  struct Departed {
    std::uint32_t communicator;
    std::vector<int> local_ranks;
    Shared shared;
  };
  std::once_flag device_watch_made_;
  std::unique_ptr<DeviceWatch> device_watch_;
  std::once_flag host_driver_made_;
  std::unique_ptr<HostDriver> host_driver_;
  std::mutex cuda_mutex_;
  std::unique_ptr<cuda::DeviceMemory> cuda_;
  std::mutex departed_mutex_;
  std::vector<Departed> departed_;
  std::mutex spare_mutex_;
  std::vector<DeviceBlock> spare_device_blocks_;
  std::uint32_t next_communicator_ = 1;

  // Two locks: a receiver takes the engine's lock, and under that lock causes are looked up.
  mutable std::mutex causes_mutex_;
  std::map<Rank, std::string> causes_;
  std::mutex receivers_mutex_;
  std::map<std::uint32_t, ControlReceiver*> receivers_;
  std::once_flag left_;
};

}  // namespace shoal::comm
