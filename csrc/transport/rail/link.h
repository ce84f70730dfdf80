/// This rank and one peer, over all their rails: messages in order, large ones in parts.
///
/// The receiver of a large message decides which rail carries which part (split.h) and asks the
/// sender for each: it knows best what has not come. A rail that either side finds dead is dropped
/// by both, and named; the receiver cancels what was to come by it and asks for that again over
/// another one. So is one that brings nothing while the others do (look_at_rails()), and that one
/// is asked again and again until it answers. A large send is done when the receiver has said that
/// it has everything, so nothing rests on what a rail calls done, and the user's memory is there
/// for a second try.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "transport/network.h"
#include "transport/rail/mailbox.h"
#include "transport/rail/probe.h"
#include "transport/rail/spares.h"
#include "transport/rail/split.h"
#include "transport/rail/stream.h"
#include "transport/rail/timing.h"

namespace shoal::transport::rail {

/// One range of a large message, under way on one rail.
struct Part {
  int rail = 0;
  std::uint64_t key = 0;
  Range range;
  std::int64_t begin_ns = 0;
  bool started = false;  ///< the rail had room for it
  Operation operation;
};
using Parts = std::vector<std::unique_ptr<Part>>;

/// A large message to the peer.
struct Outgoing {
  Operation* operation = nullptr;
  const std::byte* data = nullptr;
  std::int64_t bytes = 0;
  std::uint64_t message = 0;
  bool is_received = false;
  Parts parts;
};

/// A large message from the peer that a receive has been found for.
struct Incoming {
  Operation* operation = nullptr;
  std::byte* data = nullptr;
  Header header;
  Parts parts;  ///< not here yet
};

/// Whether the same thing has been waited for at every look so far. One thread.
class Standstill {
 public:
  /// `what`: a number of the oldest thing that is waited for; none: nothing is.
  void see(std::optional<std::uint64_t> what, std::int64_t now_ns) noexcept {
    if (what != what_) since_ns_ = now_ns;
    what_ = what;
  }
  [[nodiscard]] bool lasts(std::int64_t ns, std::int64_t now_ns) const noexcept {
    return what_.has_value() && now_ns - since_ns_ >= ns;
  }

 private:
  std::optional<std::uint64_t> what_;
  std::int64_t since_ns_ = 0;
};

/// What the links of one transport share.
struct Shared {
  std::vector<Network*> rails;
  std::vector<double> nominal;  ///< see Split
  PacketPool packets;
  Spares<Part> parts;
  Spares<Outgoing> outgoing;
  Spares<Incoming> incoming;
  /// Both sides have dropped a rail and the peer still answers. With the reason that this side had.
  std::function<void(int peer, int rail, const std::string& why)> on_dropped;
  std::function<void(int peer, int rail)> on_restored;
  Timing timing;
};

/// One thread.
class Link final : public StreamOwner {
 public:
  Link(Shared& shared, int peer);

  void send(Match match, const void* data, std::int64_t bytes, Operation& operation);
  void receive(Match match, void* data, std::int64_t capacity, Operation& operation);
  [[nodiscard]] bool probe(std::uint64_t key) const noexcept { return mailbox_.has(key); }
  bool progress() noexcept;
  /// Every now and then: asks rails whether they still carry anything, drops one that does not
  /// while another does, and tries those that were dropped.
  void look_at_rails(std::int64_t now_ns) noexcept;
  void cancel(Operation& operation) noexcept;
  /// progress() would find something.
  [[nodiscard]] bool is_ready() const noexcept;

  [[nodiscard]] bool failed() const noexcept { return stream_.live() == 0; }
  [[nodiscard]] bool is_flushed() const noexcept { return stream_.is_flushed(); }
  [[nodiscard]] double rate(int rail) const noexcept { return split_.rate(rail); }

  bool on_packet(const Header& header, const std::byte* content) noexcept override;
  void on_probe(int rail, const Header& header) noexcept override;
  void on_rail_failed(int rail, const std::string& why) noexcept override { drop(rail, why); }

 private:
  [[nodiscard]] Network& network(int rail) noexcept {
    return *shared_->rails[static_cast<std::size_t>(rail)];
  }
  [[nodiscard]] Status failure() const noexcept { return {ErrorCode::kPeerFailed, peer_, 0}; }

  void deliver(const Header& header, const std::byte* content, const Wanted& wanted) noexcept;
  bool on_message(const Header& header, const std::byte* content) noexcept;
  void on_pull(const Header& header) noexcept;
  void on_done(std::uint64_t message) noexcept;
  void on_withdraw(std::uint64_t message) noexcept;
  void on_dropped(int rail) noexcept;
  void on_restored(int rail) noexcept;

  void begin(const Header& header, const Wanted& wanted) noexcept;
  void pull(Incoming& incoming, Part& part, int rail) noexcept;
  void start(Incoming& incoming, Part& part) noexcept;
  void start(Outgoing& outgoing, Part& part) noexcept;
  void end(Incoming& incoming, Status status) noexcept;
  void cancel_parts(Parts& parts) noexcept;

  bool move(Outgoing& outgoing) noexcept;
  bool move(Incoming& incoming) noexcept;
  void end_finished() noexcept;
  void drop(int rail, const std::string& why) noexcept;
  void move_parts_from(int rail) noexcept;
  void fail_what_cannot_go_on() noexcept;

  [[nodiscard]] Probe& probe_of(int rail) noexcept {
    return probes_[static_cast<std::size_t>(rail)];
  }
  [[nodiscard]] bool both_have_dropped(int rail) const noexcept {
    return (named_ >> rail & 1) != 0;
  }
  bool waits_long(std::int64_t now_ns) noexcept;
  [[nodiscard]] bool is_suspected(int rail, std::int64_t now_ns) const noexcept;
  [[nodiscard]] bool has_stalled(int rail, std::int64_t now_ns) const noexcept;
  [[nodiscard]] std::int64_t allowance_ns(int rail) const noexcept;
  void note_pace(const Part& part) noexcept;
  void try_again(int rail, std::int64_t now_ns) noexcept;
  void restore(int rail) noexcept;

  Shared* shared_;
  int peer_;
  Stream stream_;
  Mailbox mailbox_;
  Split split_;
  std::vector<std::unique_ptr<Outgoing>> outgoing_;
  std::vector<std::unique_ptr<Incoming>> incoming_;
  std::uint64_t next_message_ = 0;
  std::uint64_t next_part_ = 0;
  std::array<std::string, kMaxRails> why_dropped_;
  std::uint32_t named_ = 0;  ///< a bit for each rail

  std::vector<Probe> probes_;  ///< of each rail
  std::array<Standstill, 4> standstills_;
  std::int64_t looked_ns_ = 0;
  std::array<double, kMaxRails> pace_{};               ///< ns a byte of the last part, either way
  std::array<std::int64_t, kMaxRails> tried_ns_{};     ///< a dropped rail, the last time
  std::array<std::int64_t, kMaxRails> patience_ns_{};  ///< until the next time
};

}  // namespace shoal::transport::rail
