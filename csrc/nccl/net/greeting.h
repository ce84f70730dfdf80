/// How a connection begins, on a socket of its own that stays open beside the data's (control.h):
///
///   sender                                        receiver
///   hello: versions, nonce                     ->
///                                             <-  hello, proof over both
///   proof over both, what networks it offers   ->
///                                             <-  what it offers
///
/// A proof is a keyed hash by the secret of the handle (bootstrap/auth.h), so a stranger who finds
/// the port learns nothing and gets nothing. Offers are signed by the same key. Nothing but the
/// fixed-size hello is looked at before the proof.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "bootstrap/auth.h"
#include "comm/networks.h"
#include "core/fd.h"
#include "nccl/net/devices.h"
#include "nccl/net/handle.h"

namespace shoal::nccl {

/// The network between two, and who is at its other end: what a greeting ends with.
struct Link {
  std::unique_ptr<transport::Network> network;
  memory::Registrar* registrar = nullptr;  ///< the network's, if it wants to know memory
  bool tcp = false;
  Fd control;
  std::string peer;  ///< "host node7, pid 4242"
};
/// Of both sides, in the network of the two.
inline constexpr int kSender = 0;
inline constexpr int kReceiver = 1;

/// The handle by which memory is registered that holds these bytes, or nullptr; called by the
/// network, within its calls.
using Registration = std::function<void*(const void* data, std::int64_t bytes)>;

/// One thread at a time. Nothing blocks, but for opening UCX (5 ms).
class Greeting {
 public:
  /// Throws Error.
  static Greeting to(const Handle& handle, const Device& device, Registration registration);
  static Greeting from(Fd socket, const Handle& handle, const Device& device,
                       Registration registration);

  /// Goes as far as it can; true when it is over. Throws Error, saying who, what, and what to try.
  /// Of a stranger at a receiver: is_stranger().
  bool progress();
  [[nodiscard]] bool is_stranger() const noexcept { return !sends_ && step_ < Step::kOffer; }
  [[nodiscard]] std::int64_t begin_ns() const noexcept { return begin_ns_; }
  /// Once, after progress() was true.
  [[nodiscard]] Link take();

 private:
  enum class Step : std::uint8_t { kHello, kProof, kOffer, kAnswered, kDone };

  Greeting(Fd socket, bool sends, const Handle& handle, const Device& device,
           Registration registration);
  void flush();
  [[nodiscard]] bool fill();
  [[nodiscard]] std::size_t awaited_bytes() const;
  void take_hello();
  void take_proof();
  void take_offer();
  void open_networks();
  void offer();
  void choose(const std::string& theirs);
  void check_proof(bootstrap::Prover prover, std::string_view proof) const;
  [[nodiscard]] std::string proof(bootstrap::Prover prover) const;
  [[nodiscard]] std::string who() const;
  [[noreturn]] void fail(ErrorCode code, const std::string& why) const;

  Fd socket_;
  bool sends_;
  Handle handle_;
  Device device_;
  Registration registration_;
  std::int64_t begin_ns_;
  Step step_ = Step::kHello;
  std::string out_, in_;
  std::string mine_, theirs_;  ///< hellos
  std::unique_ptr<comm::Networks> networks_;
  std::string offer_;
  Link link_;
};

}  // namespace shoal::nccl
