/// A HostGroup over streams.
///
///   stream   [wait for passed = n - 1, if that is another stream's] [copy the inputs to the host]
///            [host function: reached = n] [wait for released = n] [one kernel an output: copies it
///            to the device, if it is good] [passed = n]
///   host     does what there is to do between reached and released, in memory that is pinned
///
/// All calls to the driver are made when the operation is enqueued: what goes on later are stores
/// to words. A thread that waits for the device within the driver (cuMemFree does) may hold the
/// driver's locks, and nothing here needs them then.
///
/// An output is copied by a kernel, not by cuMemcpy: a kernel looks first whether it should. Every
/// output is closed until allow(): after an error the streams go on and leave the user's memory as
/// it is. The kernel is the broadcast of a group of one rank, out of mapped host memory.
///
/// Operations of a group run one after the other, in the order of their calls, whatever their
/// streams, so that all of them can be staged in the same memory.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/device_arena.h"
#include "cuda/handles.h"
#include "cuda/host_group.h"
#include "cuda/stream_batch.h"

namespace shoal::cuda {

class HostStreamGroup final : public HostGroup {
 public:
  /// The arena outlives the group. Throws Error.
  HostStreamGroup(DeviceArena& arena, const HostGroupOptions& options);
  HostStreamGroup(const HostStreamGroup&) = delete;
  HostStreamGroup& operator=(const HostStreamGroup&) = delete;

  void pin(std::byte* memory, std::int64_t bytes) override;
  void unpin(std::byte* memory) noexcept override;
  void check_stream(const std::string& call, void* stream) override;
  void check_memory(const std::string& call, const char* which, std::uint64_t address,
                    std::int64_t bytes) override;
  [[nodiscard]] bool has_room(int outputs) const noexcept override;
  void submit(void* stream, std::span<const HostCopy> inputs,
              std::span<const HostCopy> outputs) override;
  void give_up() noexcept override;

  [[nodiscard]] std::uint32_t issued() const noexcept override {
    return issued_.load(std::memory_order_acquire);  // pairs with the release in submit()
  }
  [[nodiscard]] bool is_reached(std::uint32_t number) const noexcept override;
  [[nodiscard]] bool is_over(std::uint32_t number) const noexcept override;
  void allow(std::uint32_t number, int output) noexcept override;
  void release(std::uint32_t number) noexcept override;
  void abort() noexcept override;
  void detach() noexcept override;

 private:
  /// What the kernel of one output reads.
  struct alignas(64) Output {
    Record record;
    std::uint32_t closed;  ///< not 0: nothing is copied
  };
  /// Host memory that the device sees.
  struct Words {
    alignas(64) std::uint32_t released;
    alignas(64) std::uint32_t passed;
    alignas(64) std::uint64_t base;  ///< 0: the offsets in records are addresses
    alignas(64) std::uint64_t complaint;
    Output outputs[kMaxOutputs];
  };
  static constexpr std::size_t kPage = 4096;
  static constexpr std::size_t kWordsBytes = (sizeof(Words) + kPage - 1) / kPage * kPage;
  struct FreeWords {
    void operator()(Words* words) const noexcept;
  };
  using OwnedWords = std::unique_ptr<Words, FreeWords>;

  static OwnedWords make_words();
  static void CUDA_CB note_reached(void* self) noexcept;
  template <class T>
  [[nodiscard]] CUdeviceptr on_device(const T& word) const noexcept;
  [[nodiscard]] std::uint64_t device_address(const std::byte* memory) const noexcept;
  void flush(CUstream stream);
  void fill(Output& output, const HostCopy& copy, std::uint32_t number) noexcept;
  void copy_out(const Output& output, std::int64_t bytes, CUstream stream);
  void enqueue(std::uint32_t number, std::span<const HostCopy> inputs,
               std::span<const HostCopy> outputs, CUstream stream);
  void note_use(const HostCopy& copy, CUstream stream);
  void check(const Outcome& outcome) const;

  DeviceArena* arena_;
  const HostGroupOptions options_;
  OwnedWords words_;
  MappedMemory mapped_;  ///< the words
  std::vector<MappedMemory> pinned_;
  std::atomic<std::uint32_t> issued_{0};
  std::atomic<std::uint32_t> reached_{0};
  CUstream last_stream_ = nullptr;
  /// By number: how many outputs there had been before it, and after it. A ring.
  struct Range {
    std::uint32_t begin = 0, end = 0;
  };
  std::array<Range, kMaxOperations> outputs_of_{};
  StreamBatch batch_{2};
  std::mutex detach_mutex_;
  bool detached_ = false;
};

}  // namespace shoal::cuda
