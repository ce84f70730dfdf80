#include "bootstrap/exchange.h"

#include <algorithm>
#include <utility>

namespace shoal::bootstrap {
namespace {

constexpr std::size_t kMaxStrangers = 128;
constexpr std::int64_t kTurnMs = 50;      // strangers are looked at this often
constexpr std::int64_t kNamingMs = 1500;  // for the store to say why a neighbour is gone
constexpr std::int64_t kRedialPauseMs = 20;

}  // namespace

Exchange::Exchange(Rank rank, Rank ranks, Fd listener, std::vector<Address> targets,
                   const Credentials& credentials, const Control& control)
    : rank_(rank),
      ranks_(ranks),
      listener_(std::move(listener)),
      targets_(std::move(targets)),
      credentials_(&credentials),
      control_(&control),
      outgoing_(targets_.size()),
      incoming_(targets_.size()),
      undelivered_(targets_.size()),
      received_(targets_.size()) {}

Rank Exchange::source(int round) const noexcept {
  return static_cast<Rank>((rank_ + (std::int64_t{1} << round)) % ranks_);
}

Rank Exchange::target(int round) const noexcept {
  return static_cast<Rank>((rank_ - (std::int64_t{1} << round) + ranks_) % ranks_);
}

std::vector<std::string> Exchange::all_gather(const std::string& mine, Deadline deadline) {
  if (broken_) throw *broken_;
  ++call_;
  std::vector<std::string> blocks{mine};  // blocks[i] is that of rank (rank_ + i) mod ranks_
  for (int round = 0; round < rounds(); ++round) {
    send_round(round, blocks, deadline);
    receive_round(round, blocks, deadline);
  }
  while (!flushed()) turn(deadline, "the ranks before it to take its blocks");
  std::rotate(blocks.begin(), blocks.end() - rank_, blocks.end());
  return blocks;
}

void Exchange::send_round(int round, const std::vector<std::string>& blocks, Deadline deadline) {
  const std::size_t count =
      std::min(blocks.size(), static_cast<std::size_t>(ranks_) - blocks.size());
  Writer writer;
  writer.number(call_).number(static_cast<std::uint32_t>(count));
  for (std::size_t i = 0; i < count; ++i) writer.text(blocks[i]);
  if (writer.bytes().size() > kMaxExchangeFrameBytes) {
    fail(ErrorCode::kInvalidArgument,
         "all_gather: round " + std::to_string(round) + " of rank " + std::to_string(rank_) +
             " holds " + std::to_string(writer.bytes().size()) + " bytes; the limit is " +
             std::to_string(kMaxExchangeFrameBytes));
  }
  if (outgoing_[round] && outgoing_[round]->closed()) {
    fail(ErrorCode::kPeerFailed,
         "rank " + std::to_string(target(round)) + " closed its connection (it left or died)");
  }
  undelivered_[round] = writer.bytes();
  if (!outgoing_[round]) dial(round, deadline);
  if (outgoing_[round]->open()) {
    outgoing_[round]->send(FrameType::kBlocks, std::exchange(undelivered_[round], {}));
    outgoing_[round]->flush();
  }
}

void Exchange::dial(int round, Deadline deadline) {
  Dialled dialled;
  for (;;) {  // bounded by the deadline
    dialled = dial_tcp(targets_[round], deadline);
    if (dialled.socket.valid()) break;
    check_losses();
    if (deadline.passed() || dialled.hopeless) {
      fail(ErrorCode::kTimeout, "rank " + std::to_string(rank_) + " cannot reach rank " +
                                    std::to_string(target(round)) + " at " +
                                    to_text(targets_[round]) + ": " + dialled.error +
                                    "; is a firewall between the hosts?");
    }
    pollfd none{-1, 0, 0};
    poll_until({&none, 1}, Deadline::after_ms(kRedialPauseMs));
  }
  outgoing_[round].emplace(std::move(dialled.socket), Prover::kDialler,
                           Greeting{Role::kDiallingPeer, rank_, ranks_, Role::kAcceptingPeer},
                           *credentials_, kMaxExchangeFrameBytes);
}

void Exchange::receive_round(int round, std::vector<std::string>& blocks, Deadline deadline) {
  const std::string awaited = "the blocks of rank " + std::to_string(source(round)) + " (round " +
                              std::to_string(round + 1) + " of " + std::to_string(rounds()) + ")";
  while (!received_[round]) {
    turn(deadline, awaited);
    // Only now is it wrong: a neighbour whose blocks have come may have left since.
    if (!received_[round] && incoming_[round] && incoming_[round]->closed()) {
      fail(ErrorCode::kPeerFailed,
           "rank " + std::to_string(source(round)) + " closed its connection (it left or died)");
    }
  }
  const Frame frame = std::move(*std::exchange(received_[round], std::nullopt));
  Reader reader(frame.payload);
  const auto call = reader.number<std::uint64_t>();
  const auto count = reader.number<std::uint32_t>();
  const std::size_t room = static_cast<std::size_t>(ranks_) - blocks.size();
  const std::size_t expected = std::min(blocks.size(), room);
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) blocks.push_back(reader.text());
  if (call != call_ || count != expected || !reader.done()) {
    fail(ErrorCode::kMismatch, "all_gather: rank " + std::to_string(source(round)) +
                                   " is in call " + std::to_string(call) + ", rank " +
                                   std::to_string(rank_) + " in call " + std::to_string(call_) +
                                   "; all ranks must make the same calls");
  }
}

// One look at every socket, with a wait of at most kTurnMs.
void Exchange::turn(Deadline deadline, const std::string& awaited) {
  std::vector<pollfd> entries{{listener_.get(), POLLIN, 0}, {control_->lost_event(), POLLIN, 0}};
  const auto add = [&entries](const Link& link) {
    if (!link.closed()) entries.push_back({link.fd(), link.events(), 0});
  };
  for (const auto& link : outgoing_) {
    if (link) add(*link);
  }
  for (int round = 0; round < rounds(); ++round) {
    // What a fast neighbour has sent for the next call already is left where it is.
    if (incoming_[round] && !received_[round]) add(*incoming_[round]);
  }
  for (const Link& link : strangers_) add(link);
  const std::int64_t turn_end = now_ns() + kTurnMs * kNsPerMs;
  poll_until(entries, Deadline::at_ns(std::min(turn_end, deadline.at_ns())));
  accept_some();
  check_links();
  check_losses();
  if (deadline.passed()) {
    fail(ErrorCode::kTimeout, "all_gather: rank " + std::to_string(rank_) + " awaited in vain " +
                                  awaited +
                                  "; is that rank stopped, or does it make another call?");
  }
  for (int round = 0; round < rounds(); ++round) {
    const bool waiting = !undelivered_[round].empty();
    if (waiting && outgoing_[round] && outgoing_[round]->closed()) dial(round, deadline);
  }
}

void Exchange::accept_some() {
  for (std::size_t i = 0; i < kMaxStrangers; ++i) {
    Fd socket = accept_tcp(listener_.get());
    if (!socket.valid()) break;
    strangers_.emplace_back(std::move(socket), Prover::kAcceptor,
                            Greeting{Role::kAcceptingPeer, rank_, ranks_, Role::kDiallingPeer},
                            *credentials_, kMaxExchangeFrameBytes);
    if (strangers_.size() > kMaxStrangers) strangers_.erase(strangers_.begin());
  }
  for (Link& link : strangers_) {
    link.pump();
    if (link.open()) admit(link);
    if (now_ns() - link.made_ns() > kHandshakeLimitMs * kNsPerMs) {
      link.close(LinkEnd::kForeign, "silent for 2 s");
    }
  }
  std::erase_if(strangers_, [](const Link& link) { return link.closed(); });
}

// The claimed rank is proved now. It has one place, and may take it anew while it is empty.
void Exchange::admit(Link& link) {
  for (int round = 0; round < rounds(); ++round) {
    if (source(round) != link.theirs().rank) continue;
    if (incoming_[round] && !incoming_[round]->closed()) break;
    incoming_[round].emplace(std::move(link));
    return;
  }
  link.close(LinkEnd::kForeign, "unwanted");
}

void Exchange::check_links() {
  for (int round = 0; round < rounds(); ++round) {
    if (auto& link = incoming_[round]; link && !received_[round]) {
      link->pump();
      if (auto frame = link->next()) {
        check_abort(*frame);
        received_[round] = std::move(frame);
      }
    }
    auto& link = outgoing_[round];
    if (!link || link->closed()) continue;
    link->pump();
    if (const auto frame = link->next()) check_abort(*frame);
    if (link->open() && !undelivered_[round].empty()) {
      link->send(FrameType::kBlocks, std::exchange(undelivered_[round], {}));
      link->flush();
    }
    const bool delivered = undelivered_[round].empty() && link->flushed();
    // Dropped before it became open (a busy or crowded peer): turn() dials again.
    const bool dropped = link->end() == LinkEnd::kLost && !undelivered_[round].empty();
    if (!link->closed() || delivered || dropped) continue;
    fail(link->end() == LinkEnd::kLost ? ErrorCode::kPeerFailed : ErrorCode::kBootstrap,
         "rank " + std::to_string(target(round)) + " at " + to_text(targets_[round]) + ": " +
             link->why());
  }
}

void Exchange::check_abort(const Frame& frame) {
  if (frame.type != FrameType::kAbort) return;
  Reader reader(frame.payload);
  const auto code = static_cast<ErrorCode>(reader.number<std::uint8_t>());
  const std::string message = reader.text();
  abort(code, message);
  throw Error(code, message);
}

void Exchange::check_losses() {
  const auto loss = control_->first_loss();
  if (!loss) return;
  const std::string message =
      "rank " + std::to_string(loss->rank) + " " + loss->cause + " while addresses were exchanged";
  abort(ErrorCode::kPeerFailed, message);
  throw Error(ErrorCode::kPeerFailed, message);
}

bool Exchange::flushed() const {
  for (int round = 0; round < rounds(); ++round) {
    if (!undelivered_[round].empty() || !outgoing_[round]->flushed()) return false;
  }
  return true;
}

Traffic Exchange::traffic() const noexcept {
  Traffic sum;
  for (const auto* links : {&outgoing_, &incoming_}) {
    for (const auto& link : *links) {
      if (link) sum += link->traffic();
    }
  }
  return sum;
}

void Exchange::fail(ErrorCode code, const std::string& message) {
  if (code == ErrorCode::kPeerFailed) {  // the store may know whose death this is, and of what
    pollfd entry{control_->lost_event(), POLLIN, 0};
    poll_until({&entry, 1}, Deadline::after_ms(kNamingMs));
    check_losses();
  }
  abort(code, message);
  throw Error(code, message);
}

void Exchange::abort(ErrorCode code, const std::string& message) noexcept {
  if (broken_) return;
  broken_.emplace(code, message);
  const std::string payload =
      Writer().number(static_cast<std::uint8_t>(code)).text(message).bytes();
  for (auto* links : {&outgoing_, &incoming_}) {
    for (auto& link : *links) {
      if (link) link->finish(FrameType::kAbort, payload);
      link.reset();
    }
  }
  strangers_.clear();
  listener_.reset();
}

}  // namespace shoal::bootstrap
