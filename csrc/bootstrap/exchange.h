/// All-gather over TCP between the ranks, before there is anything faster.
///
/// Bruck's algorithm. Rank r begins with its own block. In round k it sends all blocks it has
/// (those of ranks r .. r + 2^k - 1; in the last round only those still missing there) to rank r -
/// 2^k and receives as many from r + 2^k, mod n. After ceil(log2 n) rounds everyone has every
/// block. Source: Bruck, Ho, Kipnis, Upfal, Weathersby, IEEE TPDS 8(11), 1997.
///
/// The connection to r - 2^k is made when round k first needs it and kept. Whoever fails tells its
/// neighbours why before it closes, so that the first cause reaches everyone, by name.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bootstrap/control.h"
#include "bootstrap/link.h"
#include "bootstrap/socket.h"
#include "shoal/error.h"

namespace shoal::bootstrap {

/// one thread.
class Exchange {
 public:
  /// `targets[k]` is the listener of rank - 2^k. `control` and `credentials` outlive this.
  Exchange(Rank rank, Rank ranks, Fd listener, std::vector<Address> targets,
           const Credentials& credentials, const Control& control);

  std::vector<std::string> all_gather(const std::string& mine, Deadline deadline);

  /// Of the connections that carry the exchange.
  [[nodiscard]] Traffic traffic() const noexcept;

  /// Ends this and, with the same message, every other rank's all_gather().
  void abort(ErrorCode code, const std::string& message) noexcept;

 private:
  [[nodiscard]] int rounds() const noexcept { return static_cast<int>(targets_.size()); }
  [[nodiscard]] Rank source(int round) const noexcept;
  [[nodiscard]] Rank target(int round) const noexcept;
  void send_round(int round, const std::vector<std::string>& blocks, Deadline deadline);
  void receive_round(int round, std::vector<std::string>& blocks, Deadline deadline);
  void dial(int round, Deadline deadline);
  void turn(Deadline deadline, const std::string& awaited);
  void accept_some();
  void admit(Link& link);
  void check_losses();
  void check_links();
  void check_abort(const Frame& frame);
  [[nodiscard]] bool flushed() const;
  [[noreturn]] void fail(ErrorCode code, const std::string& message);

  Rank rank_, ranks_;
  Fd listener_;
  std::vector<Address> targets_;
  const Credentials* credentials_;
  const Control* control_;
  std::vector<std::optional<Link>> outgoing_, incoming_;  // by round
  std::vector<std::string> undelivered_;                  // by round: what outgoing_ is to carry
  std::vector<std::optional<Frame>> received_;            // by round
  std::vector<Link> strangers_;                           // accepted, not authenticated yet
  std::uint64_t call_ = 0;
  std::optional<Error> broken_;
};

}  // namespace shoal::bootstrap
