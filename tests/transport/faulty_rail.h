/// A network between members of one process that can die at any of its calls, in every unkind way
/// that a real one has: what was under way arrives, in part or not at all; sends go on succeeding;
/// one end notices soon, late, or never. Or it stalls for a while without a word, and then brings
/// everything at once. One seed gives one run.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "transport/network.h"

namespace shoal::transport {

class FaultyRail {
 public:
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
  /// From one tick to another nothing arrives.
  struct Stall {
    std::int64_t begin, end;
    bool of_sender[2] = {true, true};  ///< what members 0 and 1 send
  };
  struct Options {
    std::uint64_t seed = 1;
    int max_delay = 6;  ///< calls of progress() that a message takes
    /// Number of the send, receive or progress at which the rail dies.
    std::int64_t dies_at = kNever;
    /// Calls of progress() after which each end knows; kNever: it does not.
    std::int64_t notice[2] = {0, 0};
    /// So many of 8 sends find no room.
    int refused = 0;
    /// A sender learns up to so many ticks later that its message has arrived, or never.
    int late = 0;
    /// Ticks that each byte of a message takes: 0, it is as fast as a short one.
    double ticks_per_byte = 0;
    /// Nothing overtakes anything, whatever its match: as on a wire.
    bool in_line = false;
    std::vector<Stall> stalls;
    /// A message that is taken back while it is under way vanishes as a whole; else the rail dies.
    bool forgets = false;
    /// Where it notices its death, large receives end as if all had come.
    bool lies = false;
  };

  explicit FaultyRail(const Options& options) : options_(options), random_(options.seed) {
    for (int self : {0, 1}) members_[self] = new Member(*this, self);
  }
  /// To be called for each member once; it may live no longer than this.
  std::unique_ptr<Network> take(int self) { return std::unique_ptr<Network>(members_[self]); }

  [[nodiscard]] std::int64_t calls() const { return calls_; }
  [[nodiscard]] bool is_dead() const { return dead_; }
  [[nodiscard]] std::int64_t ticks() const { return now_; }
  [[nodiscard]] std::int64_t bytes() const { return bytes_; }  ///< that were sent
  void die() { options_.dies_at = calls_ + 1; }

 private:
  struct Flight {
    std::uint64_t key;
    std::uint16_t fingerprint;
    const std::byte* data;  ///< the sender's memory, looked at when it arrives; or `copy`
    std::vector<std::byte> copy;
    std::int64_t bytes;
    std::int64_t due;
    Operation* operation;  ///< nullptr: the sender believes that it is done
  };
  struct Posted {
    std::uint64_t key;
    std::byte* data;
    std::int64_t capacity;
    Operation* operation;
  };
  struct Kept {
    std::uint64_t key;
    std::uint16_t fingerprint;
    std::vector<std::byte> data;
  };

  struct Landed {
    std::int64_t due;
    Operation* operation;
  };

  class Member final : public Network {
   public:
    Member(FaultyRail& rail, int self) : rail_(rail), self_(self) {}
    ~Member() override {
      rail_.flights_[self_].clear();  // what has not arrived is in memory that ends
      rail_.members_[self_] = nullptr;
    }
    const std::vector<std::byte>& address() const noexcept override { return address_; }
    void set_peer_address(int, std::span<const std::byte>) override {}
    bool peer_failed(int) const noexcept override { return failed_; }

    bool send(int, Match match, const void* data, std::int64_t bytes,
              Operation& operation) noexcept override {
      rail_.count();
      if (rail_.chance(rail_.options_.refused)) return false;
      operation = {.state = Operation::State::kActive};
      if (failed_) return operation.end({ErrorCode::kPeerFailed, 1 - self_, 0}), true;
      rail_.launch(self_, match, static_cast<const std::byte*>(data), bytes, operation);
      return true;
    }

    bool receive(int, Match match, void* data, std::int64_t capacity,
                 Operation& operation) noexcept override {
      rail_.count();
      if (rail_.chance(rail_.options_.refused)) return false;
      operation = {.state = Operation::State::kActive};
      const Posted posted{match.key, static_cast<std::byte*>(data), capacity, &operation};
      const auto found = std::ranges::find(kept_, match.key, &Kept::key);
      if (found != kept_.end()) {
        fill(posted, found->data.data(), static_cast<std::int64_t>(found->data.size()),
             found->fingerprint);
        kept_.erase(found);
      } else if (failed_) {
        operation.end({ErrorCode::kPeerFailed, 1 - self_, 0});
      } else {
        posted_.push_back(posted);
      }
      return true;
    }

    bool probe(int, Match match) noexcept override {
      return std::ranges::find(kept_, match.key, &Kept::key) != kept_.end();
    }

    bool progress() noexcept override {
      rail_.count();
      ++rail_.now_;
      if (rail_.dead_) return rail_.notice(*this);
      const auto told = std::erase_if(landed_, [&](const Landed& landed) {
        if (landed.due > rail_.now_) return false;
        landed.operation->end(kOkStatus);
        return true;
      });
      return rail_.land(*this) || told > 0;
    }

    void cancel(Operation& operation) noexcept override {
      if (operation.state != Operation::State::kActive) return;
      const auto is_it = [&](const auto& item) { return item.operation == &operation; };
      std::erase_if(posted_, is_it);
      std::erase_if(landed_, is_it);
      for (auto& [key, flights] : rail_.flights_[self_]) {
        // The network has read a part of it: what follows would make no sense to the receiver.
        if (std::erase_if(flights, is_it) > 0 && !rail_.dead_ && !rail_.options_.forgets) {
          rail_.kill();
        }
      }
      operation.end({ErrorCode::kAborted, -1, 0});
    }
    std::string describe() const override { return "faulty"; }

   private:
    friend class FaultyRail;
    static void fill(const Posted& posted, const std::byte* data, std::int64_t bytes,
                     std::uint16_t fingerprint) {
      posted.operation->bytes = bytes;
      posted.operation->fingerprint = fingerprint;
      if (bytes > posted.capacity) return posted.operation->end({ErrorCode::kMismatch, 0, 0});
      if (bytes > 0) std::memcpy(posted.data, data, static_cast<std::size_t>(bytes));
      posted.operation->end(kOkStatus);
    }

    void arrive(Flight& flight) {
      const auto found = std::ranges::find(posted_, flight.key, &Posted::key);
      if (found != posted_.end()) {
        fill(*found, flight.data, flight.bytes, flight.fingerprint);
        posted_.erase(found);
      } else {
        kept_.push_back(
            {flight.key, flight.fingerprint, {flight.data, flight.data + flight.bytes}});
      }
      if (flight.operation == nullptr) return;
      const auto late = rail_.random_() % static_cast<unsigned>(rail_.options_.late + 1);
      if (late == 0 || rail_.members_[1 - self_] == nullptr)
        return flight.operation->end(kOkStatus);
      rail_.members_[1 - self_]->landed_.push_back(
          {rail_.now_ + static_cast<std::int64_t>(late), flight.operation});
    }

    FaultyRail& rail_;
    int self_;
    std::vector<std::byte> address_;
    std::deque<Posted> posted_;
    std::deque<Kept> kept_;
    std::vector<Landed> landed_;  ///< sends of this member that it has not been told of
    bool failed_ = false;
  };

  bool chance(int of_eight) { return of_eight > 0 && static_cast<int>(random_() % 8) < of_eight; }

  void count() {
    if (++calls_ >= options_.dies_at && !dead_) kill();
  }

  void launch(int from, Match match, const std::byte* data, std::int64_t bytes,
              Operation& operation) {
    for (const auto& [key, others] : flights_[from]) {
      EXPECT_EQ(std::ranges::count(others, &operation, &Flight::operation), 0) << "sent twice";
    }
    bytes_ += bytes;
    auto& flights = flights_[from][match.key];
    std::int64_t before = flights.empty() ? now_ : flights.back().due;
    if (options_.in_line) before = std::max(now_, last_due_[from]);
    const auto duration =
        static_cast<std::int64_t>(static_cast<double>(bytes) * options_.ticks_per_byte);
    const std::int64_t delay =
        duration +
        static_cast<std::int64_t>(random_() % static_cast<unsigned>(options_.max_delay + 1));
    const std::int64_t due = options_.in_line ? before + delay : std::max(before, now_ + delay);
    last_due_[from] = due;
    Flight flight{match.key, match.fingerprint, data, {}, bytes, due, &operation};
    constexpr std::int64_t kEager = 300;
    if (bytes <= kEager) {  // as a network that copies: done, and yet it may never arrive
      flight.copy.assign(data, data + bytes);
      flight.operation = nullptr;
      operation.end(kOkStatus);
    }
    flights.push_back(std::move(flight));
    if (flights.back().operation == nullptr) flights.back().data = flights.back().copy.data();
    if (dead_ && flights.back().operation == nullptr) flights.pop_back();  // into the void
  }

  [[nodiscard]] bool is_stalled(int sender) const {
    return std::ranges::any_of(options_.stalls, [&](const Stall& stall) {
      return stall.of_sender[sender] && now_ >= stall.begin && now_ < stall.end;
    });
  }

  bool land(Member& to) {
    if (is_stalled(1 - to.self_)) return false;
    bool moved = false;
    for (auto& [key, flights] : flights_[1 - to.self_]) {
      for (; !flights.empty() && flights.front().due <= now_; flights.pop_front()) {
        to.arrive(flights.front());
        moved = true;
      }
    }
    std::erase_if(flights_[1 - to.self_], [](const auto& entry) { return entry.second.empty(); });
    return moved;
  }

  /// Of each channel some more messages arrive, the next one in part, and the others never.
  void kill() {
    dead_ = true;
    died_at_ = now_;
    for (int from : {0, 1}) {
      if (members_[1 - from] == nullptr) continue;
      Member& to = *members_[1 - from];
      for (auto& [key, flights] : flights_[from]) {
        for (; !flights.empty() && random_() % 2 == 0; flights.pop_front()) {
          to.arrive(flights.front());
        }
        if (flights.empty()) continue;
        const Flight& cut = flights.front();
        const auto posted = std::ranges::find(to.posted_, key, &Posted::key);
        const bool fits = posted != to.posted_.end() && cut.bytes <= posted->capacity;
        if (fits) std::memset(posted->data, 0x99, static_cast<std::size_t>(cut.bytes / 2));
        std::erase_if(flights, [](const Flight& flight) { return flight.operation == nullptr; });
      }
    }
  }

  bool notice(Member& member) {
    const std::int64_t after = options_.notice[member.self_];
    if (member.failed_ || after == kNever || now_ < died_at_ + after) return false;
    member.failed_ = true;
    const Status failure{ErrorCode::kPeerFailed, 1 - member.self_, 0};
    constexpr std::int64_t kLarge = 64 << 10;
    for (const Posted& posted : std::exchange(member.posted_, {})) {
      posted.operation->bytes = posted.capacity;
      posted.operation->end(options_.lies && posted.capacity >= kLarge ? kOkStatus : failure);
    }
    for (auto& [key, flights] : flights_[member.self_]) {
      for (const Flight& flight : flights) flight.operation->end(failure);
    }
    flights_[member.self_].clear();
    for (const Landed& landed : std::exchange(member.landed_, {})) landed.operation->end(failure);
    return true;
  }

  Options options_;
  std::mt19937_64 random_;
  std::int64_t calls_ = 0, now_ = 0, died_at_ = 0, bytes_ = 0;
  std::int64_t last_due_[2] = {0, 0};
  bool dead_ = false;
  Member* members_[2] = {};
  std::map<std::uint64_t, std::deque<Flight>> flights_[2];  ///< by sender, by key
};

}  // namespace shoal::transport
