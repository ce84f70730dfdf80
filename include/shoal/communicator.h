/// Collectives over a group of ranks. The one header a program needs.
///
///   auto comm = shoal::Communicator::init();            // rank and size come from the launcher
///   auto block = comm.allocate(shoal::Bytes{4096});     // pool memory: moved without a copy
///   comm.all_reduce({block.data(), {4096}}, {block.data(), {4096}}, shoal::Count{1024},
///                   shoal::DataType::kFloat32, shoal::ReduceOp::kSum).wait();
///
/// Threads  any thread; one communicator's collectives are issued in the same order on all ranks.
/// Errors   InvalidArgument and BufferInUse (the output is lent, see broadcast_view) are thrown by
///          the call, before anything is posted. Mismatch, PeerFailed, Timeout, Aborted,
///          OutOfMemory, TransportError are thrown by Work::wait(). After one of them (Mismatch in
///          one node excepted) the communicator has ended: later calls throw it again. After an
///          error has been thrown no buffer of the operation is written any more.
/// Buffers  stay valid and untouched (inputs: unchanged) until the Work is done. In place: see each
///          call; any other overlap of input and output is an error.
#ifndef SHOAL_COMMUNICATOR_H_
#define SHOAL_COMMUNICATOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "shoal/error.h"
#include "shoal/export.h"
#include "shoal/types.h"

namespace shoal {

struct CommunicatorImpl;  // opaque
namespace exec {
class Task;
}

/// Memory that a call reads, or writes. Never owns.
struct ConstBuffer {
  const void* data = nullptr;
  Bytes bytes{};
};
struct Buffer {
  void* data = nullptr;
  Bytes bytes{};
};

/// Memory of one block for each rank: a buffer with the blocks one behind the other, or a list of
/// buffers, one a block, in rank order, wherever they lie. The list is looked at within the call.
///
/// Lists are for memory of the host. In one node blocks of a list are read and written where they
/// lie, as those of a buffer are; small ones, and those of jobs on several nodes, are copied
/// together first (Statistics::staged counts the latter).
struct ConstBlocks {
  ConstBlocks() = default;
  ConstBlocks(ConstBuffer all) : whole(all) {}  // NOLINT(google-explicit-constructor)
  ConstBlocks(const void* data, Bytes bytes) : whole{data, bytes} {}
  explicit ConstBlocks(std::span<const ConstBuffer> one_each) : list(one_each) {}

  ConstBuffer whole{};
  std::span<const ConstBuffer> list;  ///< empty: it is `whole`
};
struct Blocks {
  Blocks() = default;
  Blocks(Buffer all) : whole(all) {}  // NOLINT(google-explicit-constructor)
  Blocks(void* data, Bytes bytes) : whole{data, bytes} {}
  explicit Blocks(std::span<const Buffer> one_each) : list(one_each) {}

  Buffer whole{};
  std::span<const Buffer> list;  ///< empty: it is `whole`
};

/// How a process joins its job. What is left as it is comes from the launcher's environment.
struct Options {
  Rank rank = -1;  ///< with `size` and `store`: no launcher
  Rank size = -1;
  std::string store;   ///< "host:port" of the rendezvous store; rank 0 serves it
  std::string secret;  ///< shared by the job's ranks; needed with `store`
  std::string job;     ///< with `store`: names the job, on all ranks alike; "": after the store
  /// With `store` "host:0", at rank 0: called with "host:port" once the store listens there, to
  /// tell the other ranks, which are given that. An exception it throws ends init().
  std::function<void(const std::string& store)> on_store;
  /// With `store`, at rank 0: a socket that listens there, on which the store is to be served;
  /// taken over. For who had to give the address away before the ranks were known. -1: one is
  /// opened.
  int store_socket = -1;
  std::int64_t timeout_ms = 30 * 60 * 1000;      ///< of each operation
  std::int64_t init_timeout_ms = 5 * 60 * 1000;  ///< until all ranks have come
  /// Limit of this rank's pool; 0: SHOAL_POOL_BYTES, else the size of the node's memory.
  std::int64_t pool_bytes = 0;
  bool progress_thread = false;  ///< drives asynchronous operations while nobody waits
  /// Between nodes: "tcp", "ucx", or "auto" (UCX where all nodes have RDMA devices and a UCX with
  /// verbs, else TCP); "": SHOAL_NETWORK, else "auto".
  std::string network;
  std::string ucx_directory;  ///< where the wheel libucx-cu13 has its libraries, if known
  /// What `shoal tune` has measured. Of rank 0 only, which tells the others; not read in one node.
  /// "": SHOAL_TUNING_FILE, else ~/.config/shoal/tuning if it exists; "none": no table.
  std::string tuning_file;
};

/// Of one call.
struct CallOptions {
  std::int64_t timeout_ms = 0;  ///< 0: the communicator's
  /// Same bits for any size split, algorithm and arrival order.
  bool deterministic = false;
  /// Buffers are CUDA memory, and the call is an operation of `stream`: what was enqueued there
  /// before is its input, what comes after sees its result. The call returns at once, and so does
  /// the destructor of its Work, which may be thrown away: the stream waits. wait() waits too. Time
  /// counts from when the stream has come to the operation. Errors of operations that nobody waits
  /// for are thrown by the next call. In one node: while the stream is captured the operation
  /// becomes part of the graph, and its Work is done. Between nodes, and for messages, the host
  /// does the work, by way of a block of the pool as large as the buffers (OutOfMemory), and a
  /// stream that is captured is refused.
  bool on_stream = false;
  void* stream = nullptr;  ///< a CUstream or cudaStream_t; null: the legacy default stream
};

/// Called now and then by a thread that waits, e.g. to look for signals. If it throws, the
/// communicator is aborted, and the exception goes to the caller.
using Interrupt = std::function<void()>;

/// An operation under way. Move-only; the destructor waits (its end is bounded by the deadline) and
/// swallows the error.
class SHOAL_API Work {
 public:
  Work() noexcept;
  Work(Work&&) noexcept;
  Work& operator=(Work&&) noexcept;
  ~Work();

  /// Blocks until the operation is done; throws Error. A second call returns or throws the same.
  void wait(const Interrupt& interrupt = {});
  /// Blocks until the operation is done, or for so long; then as test(). Never throws its error.
  [[nodiscard]] bool wait_for(std::int64_t timeout_ms);
  /// True when done, also by an error.
  [[nodiscard]] bool done() const noexcept;
  /// The same, and gives pending operations a turn.
  [[nodiscard]] bool test();
  /// After test() was true or wait() returned or threw: the error's code and text, kOk if none.
  [[nodiscard]] ErrorCode code() const noexcept;
  [[nodiscard]] const std::string& message() const noexcept;
  /// Then, too, of a receive: the rank of the communicator whose message it got, above all where
  /// that was kAnySource. kAnySource: it is not done, got no message, or is no receive.
  [[nodiscard]] Rank peer() const noexcept;

  Work(std::shared_ptr<CommunicatorImpl> impl, exec::Task& task) noexcept;  ///< shoal's own

 private:
  std::shared_ptr<CommunicatorImpl> impl_;  // shared_ptr: outlives the handles it came from
  exec::Task* task_ = nullptr;
};

/// A block of pool memory. Move-only; given back by the destructor, after every Work that uses it.
/// While another rank has a View of it, its memory is not handed out again.
class SHOAL_API PoolBlock {
 public:
  PoolBlock() noexcept;
  PoolBlock(PoolBlock&&) noexcept;
  PoolBlock& operator=(PoolBlock&&) noexcept;
  ~PoolBlock();

  [[nodiscard]] void* data() const noexcept;
  [[nodiscard]] Bytes bytes() const noexcept;

  struct State;
  explicit PoolBlock(std::unique_ptr<State> state) noexcept;

 private:
  std::unique_ptr<State> state_;
};

/// Memory of a rank of this node, for reading, without a copy. Move-only; the destructor gives the
/// lease back, from which moment the owner may write and free that memory again.
///
/// It lies in a mapping that cannot be written: whoever tries gets SIGSEGV. To a collective it is
/// private memory: an input like any other, never an output. It stays readable after its owner has
/// died; after this rank's finalize() too, but then the owner may change it. A forked child may
/// read it and gives nothing back.
class SHOAL_API View {
 public:
  View() noexcept;
  View(View&&) noexcept;
  View& operator=(View&&) noexcept;
  ~View();

  [[nodiscard]] const void* data() const noexcept;
  [[nodiscard]] Bytes bytes() const noexcept;

  struct State;
  explicit View(std::unique_ptr<State> state) noexcept;

 private:
  std::unique_ptr<State> state_;
};

/// A block of this rank's pool of CUDA memory, which every rank of the node that uses CUDA can
/// address. Move-only; the destructor gives it back when the streams that are known to use it have
/// got so far: those of record_stream() and of shoal's own operations, and after share() also the
/// legacy default stream with all that wait for it.
///
/// Streams are CUstream or cudaStream_t. Any thread, but one at a time. Errors: DeviceError;
/// Timeout, when what a copy comes after takes longer than the communicator's operations may.
class SHOAL_API CudaBlock {
 public:
  CudaBlock() noexcept;
  CudaBlock(CudaBlock&&) noexcept;
  CudaBlock& operator=(CudaBlock&&) noexcept;
  ~CudaBlock();

  [[nodiscard]] void* data() const noexcept;  ///< a device address
  [[nodiscard]] Bytes bytes() const noexcept;
  [[nodiscard]] int device() const noexcept;  ///< ordinal, in this process

  /// Work on this stream uses the block, up to what is enqueued now.
  void record_stream(void* stream);
  /// What is enqueued on this stream from now on comes after all that is known to use the block.
  void order_after_uses(void* stream);
  /// Others enqueue work on it that shoal does not know of.
  void share() noexcept;

  // Blocking, after all that is known to use the block.
  void copy_to_host(void* to) const;
  void copy_from_host(const void* from);

  struct State;
  explicit CudaBlock(std::unique_ptr<State> state) noexcept;

 private:
  std::unique_ptr<State> state_;
};

struct PoolStatistics {
  Bytes used, committed, peak, limit;
  std::int64_t blocks = 0;
};

/// Of this rank, over all its communicators, since init().
struct Statistics {
  std::int64_t operations = 0;  ///< collectives begun
  /// Those whose buffers lay outside the pool where ranks share memory, so that they were copied
  /// into it or out of it, and the bytes of those buffers. Small inputs, which travel in lines and
  /// slots (2 KiB), are not counted: they are copied wherever they lie.
  std::int64_t staged = 0;
  Bytes staged_bytes{};
};

/// Gathers a few bytes from each rank of a group that is being made, in rank order.
using Exchange = std::function<std::vector<std::string>(const std::string& mine)>;

/// One message of a batch: a send (`source`) or a receive (`target`).
struct Message {
  Rank peer = 0;         ///< of a receive also kAnySource: Work::peer() tells who it was
  std::int64_t tag = 0;  ///< 0 <= tag < 2^24
  ConstBuffer source{};
  Buffer target{};
  DataType dtype = DataType::kUint8;
  bool sends = true;
};

/// "0.1.0".
SHOAL_API const char* version() noexcept;

/// A handle; copies mean the same communicator. The last handle of a job's communicators leaves the
/// job in order (a shared_ptr inside: works, blocks and sub-communicators need the same context).
class SHOAL_API Communicator {
 public:
  /// Joins the job. Collective over all its ranks. Throws BootstrapError, Timeout naming who is
  /// missing, InvalidArgument.
  static Communicator init(const Options& options = {});

  [[nodiscard]] Rank rank() const noexcept;
  [[nodiscard]] Rank size() const noexcept;
  /// Number of nodes the ranks stand on, and this rank's.
  [[nodiscard]] int nodes() const noexcept;
  [[nodiscard]] std::uint32_t id() const noexcept;
  [[nodiscard]] const std::string& job() const noexcept;
  /// Which algorithm a call of this shape would use, and how the ranks are reached: shared memory,
  /// and between nodes which network over which devices; each with its reason.
  [[nodiscard]] std::string explain(Collective collective, Count count, DataType dtype,
                                    bool deterministic = false) const;
  /// Elements of one block (`count` of every call) where the largest buffer of any rank has so many
  /// bytes; rounded down, but not to none.
  [[nodiscard]] Count block_count(Collective collective, Bytes largest, DataType dtype) const;
  [[nodiscard]] std::string network() const;

  // For tuners (`shoal tune`). An algorithm goes by its name in `shoal plan --list`.

  /// Ranks of each node, if they are as many on every one and numbered node by node; else 1.
  [[nodiscard]] Rank node_ranks() const noexcept;
  /// Those that can run a collective on these ranks.
  [[nodiscard]] std::vector<std::string> algorithms(Collective collective) const;
  /// That of a call of this shape, as explain() says it.
  [[nodiscard]] std::string algorithm(Collective collective, Count count, DataType dtype) const;
  /// Makes all further calls of a collective that are not deterministic use this algorithm; "":
  /// choose again. Called by all ranks alike, between the same collectives, while no other thread
  /// uses the communicator. Throws InvalidArgument for one that is not in algorithms().
  void use_algorithm(Collective collective, const std::string& algorithm);

  Work barrier(const CallOptions& options = {});

  /// Shapes  input [count] at root, output [count] at every rank. In place: input == output at
  /// root.
  Work broadcast(ConstBuffer input, Buffer output, Count count, DataType dtype, Rank root,
                 const CallOptions& options = {});

  /// Shapes  input [count], output [count] at root. In place: input == output at root.
  Work reduce(ConstBuffer input, Buffer output, Count count, DataType dtype, ReduceOp op, Rank root,
              const CallOptions& options = {});

  /// Reduces element-wise over all ranks; every rank receives the whole result.
  ///
  /// Shapes  input [count], output [count]. In place: input == output.
  /// Units   `count` is elements of `dtype`, not bytes.
  /// Ops     those that supports(op, dtype) says; integers wrap around.
  /// Cost    up to 24 bytes in a node: one flag round; no allocation after the first call of a
  /// shape. Source  Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005.
  Work all_reduce(ConstBuffer input, Buffer output, Count count, DataType dtype, ReduceOp op,
                  const CallOptions& options = {});

  /// Shapes  input [count], output [size, count]. In place: input == output[rank].
  Work all_gather(ConstBuffer input, const Blocks& output, Count count, DataType dtype,
                  const CallOptions& options = {});

  /// Every rank looks at root's input where it lies; nothing is copied.
  ///
  /// Shapes  input [count] at root: memory of its pool; elsewhere it is not looked at.
  /// Result  at root the input itself, not a lease of it: it lives as long as the input does.
  /// Lease   while views live, what would write to the owner's memory throws BufferInUse naming a
  ///         holder, and freeing its block is put off. The leases of a rank that dies end. After an
  ///         error of this call leases may last until the other ranks leave.
  /// Waits   here, calling `interrupt` as Work::wait() does.
  /// Errors  as above, and those of Work::wait(). Other arguments elsewhere: Mismatch on all ranks.
  /// Cost    one flag round at any size. Over several nodes: an ordinary broadcast into the pool of
  ///         each rank, whose view is of its own copy; then the root's memory is not in use.
  [[nodiscard]] View broadcast_view(ConstBuffer input, Count count, DataType dtype, Rank root,
                                    const CallOptions& options = {},
                                    const Interrupt& interrupt = {});

  /// The same of every rank's input: a view for each rank, this one's being its input itself.
  [[nodiscard]] std::vector<View> all_gather_view(ConstBuffer input, Count count, DataType dtype,
                                                  const CallOptions& options = {},
                                                  const Interrupt& interrupt = {});

  /// Ranks of the job (not of this communicator) that hold views of any of [data, data + bytes),
  /// memory of this rank's pool; in order.
  [[nodiscard]] std::vector<Rank> holders(const void* data, Bytes bytes) const;

  /// Shapes  input [size, count], output [count]. In place: output == input[rank].
  Work reduce_scatter(const ConstBlocks& input, Buffer output, Count count, DataType dtype,
                      ReduceOp op, const CallOptions& options = {});

  /// Shapes  input [size, count], output [size, count]. Not in place.
  Work all_to_all(const ConstBlocks& input, const Blocks& output, Count count, DataType dtype,
                  const CallOptions& options = {});

  /// Shapes  input [count], output [size, count] at root. In place: input == output[root] at root.
  Work gather(ConstBuffer input, const Blocks& output, Count count, DataType dtype, Rank root,
              const CallOptions& options = {});

  /// Shapes  input [size, count] at root, output [count]. In place: output == input[root] at root.
  Work scatter(const ConstBlocks& input, Buffer output, Count count, DataType dtype, Rank root,
               const CallOptions& options = {});

  /// Starts all messages before it waits for any. Between one pair of ranks, messages of one tag
  /// arrive in order. A receive of another size or dtype than was sent ends with Mismatch.
  ///
  /// A message belongs to the receive of its tag that was started first, of those from its sender
  /// and from kAnySource. What other ranks send at the same time comes in no certain order, but
  /// none of them is passed over for ever. While a receive from kAnySource has no message, receives
  /// of its tag that were started later have none either.
  ///
  /// On a stream they are one operation of it, over when all of them are; a peer's memory may be
  /// the host's. Operations of messages come one after the other, whatever their streams. Mismatch
  /// ends the communicator there: what the stream has queued behind it was meant for the message.
  std::vector<Work> batch(std::span<const Message> messages, const CallOptions& options = {});

  /// Ranks of one colour form a communicator, ordered by (key, rank). A negative colour joins none:
  /// the handle returned is empty. Collective.
  [[nodiscard]] Communicator split(int color, int key);
  /// A communicator of these ranks of this one, in this order. Collective over them only, who give
  /// the same ranks; `exchange` may be any channel between them (a key-value store, say). Two
  /// groups made at the same time must not mix their exchanges.
  /// Cost    one exchange, and the group's control memory: some 10 KiB a node.
  [[nodiscard]] Communicator group(std::span<const Rank> ranks, const Exchange& exchange);
  explicit operator bool() const noexcept { return impl_ != nullptr; }

  /// What has ended this communicator; kOk while it works.
  [[nodiscard]] ErrorCode error() const noexcept;
  /// Ends this communicator on all ranks: whoever waits throws Aborted with this reason.
  void abort(const std::string& reason);
  /// Leaves the job in order. The last handle's destructor does the same. No collective follows.
  void finalize();

  /// For a thread of a framework that completes asynchronous operations: drives all operations of
  /// this rank until `until()` is true. That is asked between rounds, never under a lock, and
  /// after every wake(); while nothing moves, the thread sleeps. Others who wait go first.
  void drive(const std::function<bool()>& until);
  /// Makes a sleeping drive() ask again. Any thread.
  void wake() noexcept;
  [[nodiscard]] Statistics statistics() const noexcept;

  /// Throws OutOfMemory that says what was asked, the limit, and how to raise it.
  [[nodiscard]] PoolBlock allocate(Bytes bytes, std::int64_t alignment = 64);
  /// In a forked child, which cannot allocate either, all zero.
  [[nodiscard]] PoolStatistics pool() const noexcept;
  /// CUDA memory. The first call loads the CUDA module and driver, chooses the device (`device`; if
  /// that is -1: SHOAL_CUDA_DEVICE, the current context's, or local rank modulo devices), and waits
  /// for the ranks of the node that use CUDA already. Throws MissingLibrary (what is missing and
  /// what to install), InvalidArgument (another device than before), OutOfMemory (asked, free,
  /// limit), DeviceError, Timeout (a rank that does not map new memory).
  [[nodiscard]] CudaBlock allocate_cuda(Bytes bytes, int device = -1,
                                        const Interrupt& interrupt = {});
  /// True if [data, data + bytes) is pool memory that the ranks of the node share.
  [[nodiscard]] bool in_pool(const void* data, Bytes bytes) const noexcept;

 private:
  explicit Communicator(std::shared_ptr<CommunicatorImpl> impl) noexcept : impl_(std::move(impl)) {}
  Work collective(Collective collective, ConstBuffer input, Buffer output, Count count,
                  DataType dtype, ReduceOp op, Rank root, const CallOptions& options);
  Work collective_of_lists(Collective collective, const ConstBlocks& input, const Blocks& output,
                           Count count, DataType dtype, ReduceOp op, Rank root,
                           const CallOptions& options);
  Work collective_of_blocks(Collective collective, const ConstBlocks& input, const Blocks& output,
                            Count count, DataType dtype, ReduceOp op, Rank root,
                            const CallOptions& options);
  std::shared_ptr<CommunicatorImpl> impl_;
};

}  // namespace shoal

#endif  // SHOAL_COMMUNICATOR_H_
