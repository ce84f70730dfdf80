/// The packets between this rank and one peer: numbered, in order, none lost and none twice, while
/// one of their rails works.
///
/// They travel over one rail: the first, until it fails, then the first of those that work. A
/// packet is kept until the peer has said that it came: if the rail fails, all that are kept are
/// sent again over the next one, from the oldest. A rail that works again is used for packets when
/// the present one fails.
/// The receiver listens on every rail and takes the packet whose turn it is:
///
///   On each rail a part of the sequence comes without gaps (a Network is in order until it fails)
///   and it begins at or below the number that is awaited (the oldest packet that is kept is not
///   above it). So a packet is either the awaited one or a duplicate, whichever rail it comes by.
///   One beyond would have been lost by a rail that says it works: that rail is given up. What
///   comes late by a rail that was given up has come over another one before its peer hears that
///   both have given it up: it is a duplicate.
///
/// What is relied upon: a Network that has lost a packet says so at some time, by failing an
/// operation or by peer_failed(). That an operation succeeded is not taken for delivery.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "transport/network.h"
#include "transport/rail/spares.h"
#include "transport/rail/wire.h"

namespace shoal::transport::rail {

/// What on_rail_failed() says of a rail whose network has said it.
inline constexpr const char* kLostPeer = "its network has lost the peer";

/// A packet that is kept. Control packets fill a fraction of it; there are few.
struct Packet {
  Frame frame;
  Operation operation;
  int rail = -1;  ///< the operation's
};
using PacketPool = Spares<Packet>;

/// What a Stream tells. Called from within its calls.
class StreamOwner {
 public:
  virtual ~StreamOwner() = default;
  /// The next packet. False: no memory, it comes again.
  virtual bool on_packet(const Header& header, const std::byte* content) noexcept = 0;
  /// A question or an answer, which belong to the rail.
  virtual void on_probe(int rail, const Header& header) noexcept = 0;
  /// Has to call drop(), now or later.
  virtual void on_rail_failed(int rail, const std::string& why) noexcept = 0;
};

/// One thread.
class Stream {
 public:
  Stream(std::vector<Network*> rails, int peer, PacketPool& pool, StreamOwner& owner);

  /// `operation` ends when the content has been copied; until then `content` is looked at.
  void push(const Header& header, const void* content = nullptr, Operation* operation = nullptr);
  /// Takes back what has not been copied yet. False: it is not here.
  bool cancel(const Operation& operation) noexcept;
  /// The same of an announcement that has not been sent.
  bool take_back(std::uint64_t message) noexcept;

  bool receive() noexcept;
  bool send() noexcept;

  /// Nothing is sent over this rail any more; what it may have lost goes over another.
  void drop(int rail) noexcept;
  /// It is used again.
  void restore(int rail) noexcept;
  /// Of a rail that was dropped: what its network may still bring is looked at again.
  void listen_again(int rail) noexcept;
  [[nodiscard]] bool is_live(int rail) const noexcept { return !at(rail).dropped; }
  [[nodiscard]] std::uint32_t live() const noexcept;  ///< a bit each
  /// Header::received of what is sent now.
  [[nodiscard]] std::uint64_t awaited() const noexcept { return awaited_; }
  [[nodiscard]] std::uint64_t acknowledged() const noexcept { return acknowledged_; }
  [[nodiscard]] bool waits_for_acknowledgement() const noexcept { return !window_.empty(); }
  /// No rail will bring anything any more.
  [[nodiscard]] bool is_deaf() const noexcept;
  /// With no live rail: ends everything that waits to be sent.
  void fail(Status status) noexcept;

  /// All has been given to a rail, and the rail is done with it.
  [[nodiscard]] bool is_flushed() const noexcept;
  /// send() would find something to give to a rail.
  [[nodiscard]] bool has_to_send() const noexcept {
    return current_ >= 0 && given_ < window_.size();
  }
  /// Something has come that receive() would take.
  [[nodiscard]] bool has_arrivals() const noexcept;

 private:
  struct Rail {
    Network* network = nullptr;
    bool dropped = false;
    bool deaf = false;
    bool listens = false;     ///< `incoming` is active, or done and not looked at
    bool had_failed = false;  ///< the last receive; a second one may find what came before that
    Operation incoming;
    std::unique_ptr<Frame> frame;
  };
  struct Queued {
    Header header;
    const void* content;
    Operation* operation;
  };
  [[nodiscard]] const Rail& at(int rail) const noexcept {
    return rails_[static_cast<std::size_t>(rail)];
  }
  [[nodiscard]] Rail& at(int rail) noexcept { return rails_[static_cast<std::size_t>(rail)]; }
  [[nodiscard]] int first_live() const noexcept;
  bool listen(int rail) noexcept;
  bool receive_from(int rail) noexcept;
  bool take(int rail) noexcept;
  void take_acknowledgement(std::uint64_t received) noexcept;
  void fill_window() noexcept;
  bool give_to_rail() noexcept;
  void acknowledge() noexcept;
  void look_at_sends() noexcept;
  void stop_listening() noexcept;

  std::vector<Rail> rails_;
  int peer_;
  PacketPool* pool_;
  StreamOwner* owner_;

  std::vector<Queued> queue_;                     ///< beyond the window
  std::vector<std::unique_ptr<Packet>> window_;   ///< not acknowledged; window_[0] is acknowledged_
  int current_ = 0;                               ///< the rail that packets go by; -1: none is left
  std::size_t given_ = 0;                         ///< of the window, to the current rail
  std::vector<std::unique_ptr<Packet>> leaving_;  ///< acknowledged, but the rail still holds them
  std::uint64_t next_ = 0;                        ///< number of the next packet
  std::uint64_t acknowledged_ = 0;

  std::uint64_t awaited_ = 0;
  int unanswered_ = 0;  ///< taken since the peer was last told
  bool owes_acknowledgement_ = false;
  Header acknowledgement_;
  Operation acknowledging_;
  int acknowledging_rail_ = -1;
};

}  // namespace shoal::transport::rail
