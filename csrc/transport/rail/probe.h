/// Whether one rail to one peer carries anything: a question over it, which the peer answers over
/// it. The question is as long as a packet can be, so that a rail that loses only the long ones
/// does not pass.
#pragma once

#include <cstdint>
#include <memory>

#include "transport/network.h"
#include "transport/rail/wire.h"

namespace shoal::transport::rail {

/// One thread.
class Probe {
 public:
  Probe(Network& network, int peer) noexcept : network_(&network), peer_(peer) {}

  /// Begins a question, unless one is open.
  void ask(std::int64_t now_ns) noexcept;
  /// The same question again, if its network is done with it: it may have been lost.
  void ask_again() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return is_open_; }
  [[nodiscard]] std::int64_t asked_ns() const noexcept { return asked_ns_; }
  [[nodiscard]] std::int64_t answered_ns() const noexcept { return answered_ns_; }  ///< the last
  /// Time counts from now on: this rank has not looked for a while, or the rail has brought
  /// something.
  void postpone(std::int64_t now_ns) noexcept { asked_ns_ = now_ns; }

  /// The peer has asked.
  void on_question(std::uint64_t number) noexcept;
  /// False: of an earlier question.
  bool on_answer(std::uint64_t number, std::int64_t now_ns) noexcept;

  /// Gives the network what it had no room for. `received`: Header::received.
  void send(std::uint64_t received) noexcept;

 private:
  /// A frame that is sent again and again, one at a time.
  struct Letter {
    Operation operation;
    bool waits = false;  ///< to be given to the network
  };
  void give(Letter& letter, const Header& header, std::int64_t bytes) noexcept;

  Network* network_;
  int peer_;
  bool is_open_ = false;
  std::int64_t asked_ns_ = 0;
  std::int64_t answered_ns_ = 0;
  std::uint64_t number_ = 0;         ///< of the last question
  std::uint64_t owed_ = 0;           ///< the number of the peer's last one
  std::unique_ptr<Frame> question_;  ///< from the first one on
  Header answer_;
  Letter asking_, answering_;
};

}  // namespace shoal::transport::rail
