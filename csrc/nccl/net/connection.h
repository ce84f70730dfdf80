/// One connection of NCCL's: from one sender to one receiver, over a network of the two alone, so
/// that what happens to another peer never reaches it.
///
/// A message is matched by its tag; those with the same tag arrive in order. NCCL drives: its
/// proxy calls test() for whatever is under way, again and again, and that makes progress. Only
/// what may be left to do when NCCL has stopped calling is done by the Watcher's thread.
///
/// Every request ends: with the data, or with an error, whose text goes to NCCL's log.
///   the other process has ended, or closed    after what it had sent: at once over TCP, 1 s later
///                                             over UCX, which itself may never notice
///   its host is lost                          30 s
///   it is stopped                             a warning after 10 s, an error at the deadline
///   it lives but neither sends nor receives   an error at the deadline
/// The deadline of a request is SHOAL_NCCL_TIMEOUT_MS, 30 minutes. After an error the connection
/// is broken: no memory of its requests is touched any more, and every later call fails alike.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "nccl/net/control.h"
#include "nccl/net/greeting.h"
#include "nccl/net/memory_table.h"
#include "nccl/net/net_abi.h"

namespace shoal::nccl {

class Connection;

/// A send, or a group of receives. Pooled; NCCL holds its address from isend() or irecv() until
/// test() says that it is done.
struct Request {
  struct Part {
    std::byte* data = nullptr;
    std::int64_t bytes = 0;
    int tag = 0;
    transport::Operation operation;
  };
  Connection* owner = nullptr;
  bool active = false;
  int count = 0;
  int posted = 0;  ///< parts that the network has taken
  std::int64_t begin_ns = 0;
  std::array<Part, abi::kMaxReceives> parts;
  Request* next_free = nullptr;
};

/// Of SHOAL_NCCL_TIMEOUT_MS. Throws Error(kInvalidArgument) for what is no number of milliseconds.
[[nodiscard]] std::int64_t timeout_ms_from_environment();

/// Any thread.
class Connection final : private Nudged {
 public:
  /// `memory` is what the link's network asks for registrations. Throws Error.
  Connection(bool sends, std::string device, std::shared_ptr<MemoryTable> memory, Link link);
  /// Whatever is under way ends first: its memory is not touched any more. At most a few seconds.
  ~Connection() override;

  /// *request is nullptr when there is no room now.
  abi::Result send(void* data, std::size_t bytes, int tag, void** request) noexcept;
  abi::Result receive(int count, void* const* data, const std::size_t* bytes, const int* tags,
                      void** request) noexcept;
  static abi::Result test(Request& request, int* done, int* bytes) noexcept;

  /// `type` as in regMr. Throws Error.
  [[nodiscard]] RegisteredMemory* register_memory(void* data, std::size_t bytes, int type);
  void deregister_memory(RegisteredMemory* memory);

 private:
  [[nodiscard]] Request* take_request(int count) noexcept;
  void give_back(Request& request) noexcept;
  void post(Request& request) noexcept;
  abi::Result test_locked(Request& request, int* done, int* bytes) noexcept;
  [[nodiscard]] static bool is_done(const Request& request) noexcept;
  [[nodiscard]] static const Request::Part* failed_part(const Request& request) noexcept;
  /// Of a request that still waits: is there anything to wait for?
  abi::Result look_after(const Request& request, bool moved) noexcept;
  void ask(std::int64_t waiting_ns, std::int64_t now) noexcept;
  abi::Result fail(const Request& request, int part, ErrorCode code, const std::string& why);
  abi::Result fail(const Request& request, const Request::Part& part) noexcept;
  void end_all() noexcept;
  bool nudge() noexcept override;
  void needs_nudges() noexcept;
  [[nodiscard]] std::string who() const;

  const bool sends_;
  const bool tcp_;
  const std::string device_, peer_;
  const std::int64_t timeout_ns_;
  std::mutex mutex_;  ///< of all that follows
  std::shared_ptr<MemoryTable> memory_;
  std::unique_ptr<transport::Network> network_;
  memory::Registrar* registrar_;
  std::shared_ptr<Control> control_;
  std::deque<Request> requests_;  ///< as many as were ever under way at once
  Request* free_ = nullptr;
  int under_way_ = 0;
  Request* unposted_ = nullptr;  ///< of which the network has not taken all parts yet
  abi::Result broken_ = abi::kSuccess;
  std::int64_t moved_ns_ = 0;  ///< when anything moved last, as far as anybody waited
  std::int64_t asked_ns_ = 0;
  bool said_silent_ = false;
  std::int64_t nudge_until_ns_ = 0;  ///< often; after it now and then
};

}  // namespace shoal::nccl
