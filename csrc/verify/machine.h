/// The machine on which verify() runs all ranks' steps. Private to verify/.
#pragma once

#include <array>
#include <bitset>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "verify/memory.h"
#include "verify/verify.h"

namespace shoal::verify {

static_assert(kMaxProvedRanks == kMaxRanks);

/// Logical time: element q is the last moment of rank q known to have happened before.
using Clock = std::array<std::uint32_t, kMaxProvedRanks>;

/// One thread. run() once.
class Machine {
 public:
  Machine(std::span<const Program> programs, const schedule::Shape& shape, AliasMode alias,
          BlockMode blocks);
  Verdict run();

 private:
  enum class Outcome : std::uint8_t { kAdvanced, kBlocked, kFailed };
  enum class Touch : std::uint8_t { kRead, kWrite };

  /// A place in one of the buffers, after aliasing.
  struct Place {
    int buffer = -1;
    std::int64_t begin = 0, count = 0;
    [[nodiscard]] bool overlaps(const Place& other) const noexcept {
      return buffer == other.buffer && begin < other.begin + other.count &&
             other.begin < begin + count;
    }
    friend bool operator==(const Place&, const Place&) = default;
  };

  /// An operation from its start to the wait for it.
  struct InFlight {
    bool used = false, is_send = false, matched = false;
    schedule::StepKind kind = schedule::StepKind::kSend;
    Rank peer = 0;
    std::uint32_t number = 0;  ///< order of start at this rank
    Place place{};
    Place at_peer{};  ///< put: where it is written
    Clock known{};  ///< send: the sender's clock at the start; recv: that of the sender it has met
  };

  /// A put from its step on, until its rank has landed it: it may be written at any moment, and
  /// nothing but its flag orders it.
  struct Put {
    Rank from = 0;
    Place place{};
  };

  struct Access {
    std::int64_t begin, end;
    Rank rank;
    std::uint32_t moment;
  };
  /// Accesses of the ranks of a node to one buffer; of each rank's, only what is not superseded.
  struct History {
    std::vector<Access> reads, writes;
  };

  struct RankState {
    std::size_t position = 0;
    bool ended = false;
    std::uint32_t started = 0;
    Clock clock{};
    std::array<InFlight, schedule::kMaxSlots> slots{};
    std::vector<Clock> posts;
    std::bitset<kMaxProvedRanks> awaited;
    std::optional<Rank> accepted;  ///< whom this rank may put to
    Clock touched{};  ///< element q: last moment at which rank q touched this rank's buffers
  };

  // Set-up.
  [[nodiscard]] schedule::Shape shape_at(Rank rank) const noexcept;
  [[nodiscard]] bool is_in_place(Rank rank) const noexcept;
  void make_buffers();

  // One step of one rank.
  Outcome advance(Rank rank);
  Outcome execute(const schedule::Step& step);
  Outcome start(const schedule::Step& step);
  bool start_put(const schedule::Step& step, InFlight& op);
  Outcome wait(int slot);
  Outcome wait_all();
  Outcome copy(const schedule::Step& step);
  Outcome reduce(const schedule::Step& step);
  Outcome combine(const schedule::Step& step);
  Outcome fold(const schedule::Step& step);
  Outcome post();
  Outcome await(Rank peer);
  Outcome end();
  Outcome fail(const std::string& what);

  // Parts of steps.
  bool complete(InFlight& op);
  bool match(InFlight& op);
  bool deliver(const InFlight& send, const InFlight& recv);
  void land(const InFlight& op);
  InFlight* find_partner(Rank peer, bool want_send);
  std::optional<Place> place_of_message(const schedule::Step& step);
  std::optional<Place> locate(const schedule::Ref& ref, Rank owner);
  std::optional<Place> locate_anywhere(const schedule::Ref& ref, Rank owner);
  /// Of a reference that is right.
  [[nodiscard]] Place place_of(const schedule::Ref& ref, Rank owner) const noexcept;
  std::optional<Place> locate_own(const schedule::Ref& ref);
  bool locate_blocks(const schedule::Step& step);
  bool locate_targets(const schedule::Ref& ref);
  bool touch(const Place& place, Touch kind);
  bool is_free_of_in_flight(const Place& place, Touch kind);
  bool record(const Place& place, Touch kind);
  bool is_ordered(const Place& place, Touch kind);
  bool read(const Place& place, Pieces& out);
  bool combine(const Pieces& a, const Pieces& b, Pieces& out);
  bool finish(Pieces& pieces);
  bool has_expected_output(Rank rank);
  [[nodiscard]] Pieces expected_output(Rank rank) const;
  void tick() { ++self().clock[static_cast<std::size_t>(rank_)]; }
  void learn(const Clock& other);

  // Where it stands.
  RankState& self() { return ranks_[static_cast<std::size_t>(rank_)]; }
  RankState& state_of(Rank rank) { return ranks_[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] Rank node_begin() const noexcept {
    return rank_ / shape_.node_ranks * shape_.node_ranks;
  }
  [[nodiscard]] bool is_neighbour(Rank rank) const noexcept {
    return node_begin() <= rank && rank < node_begin() + shape_.node_ranks;
  }
  Verdict deadlock();
  Verdict check_posts();

  std::span<const Program> programs_;
  schedule::Shape shape_;
  AliasMode alias_;
  BlockMode blocks_mode_;
  RankSet everyone_;

  std::vector<Memory> memory_;      ///< 3 a rank: input, output, scratch
  std::vector<History> histories_;  ///< likewise; kept where several ranks may touch a buffer
  bool has_puts_;
  std::vector<std::vector<Put>> puts_;  ///< by the rank they are put to
  std::vector<RankState> ranks_;
  Rank rank_ = 0;  ///< whose step is being executed
  std::string failure_;

  // Working space, kept for speed.
  Pieces first_, second_, sum_;
  std::vector<Place> blocks_, targets_;
};

}  // namespace shoal::verify
