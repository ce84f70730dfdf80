#include "transport/rail/probe.h"

namespace shoal::transport::rail {

namespace {

bool is_active(const Operation& operation) noexcept {
  return operation.state == Operation::State::kActive;
}

}  // namespace

void Probe::ask(std::int64_t now_ns) noexcept {
  if (is_open_ || is_active(asking_.operation)) return;
  if (question_ == nullptr) question_ = std::make_unique<Frame>();
  question_->header = {.kind = Kind::kQuestion, .content_bytes = kEagerBytes, .message = ++number_};
  is_open_ = true;
  asked_ns_ = now_ns;
  asking_.waits = true;
}

void Probe::ask_again() noexcept {
  if (is_open_ && !is_active(asking_.operation)) asking_.waits = true;
}

void Probe::on_question(std::uint64_t number) noexcept {
  owed_ = number;
  answering_.waits = true;
}

bool Probe::on_answer(std::uint64_t number, std::int64_t now_ns) noexcept {
  if (!is_open_ || number != number_) return false;
  is_open_ = false;
  answered_ns_ = now_ns;
  return true;
}

void Probe::send(std::uint64_t received) noexcept {
  if (asking_.waits) {
    question_->header.received = received;
    give(asking_, question_->header, sizeof(Frame));
  }
  if (answering_.waits && !is_active(answering_.operation)) {
    answer_ = {.kind = Kind::kAnswer, .received = received, .message = owed_};
    give(answering_, answer_, sizeof(Header));
  }
}

/// That it fails is no matter: then no answer comes.
void Probe::give(Letter& letter, const Header& header, std::int64_t bytes) noexcept {
  letter.operation = {};
  if (network_->send(peer_, kPacketMatch, &header, bytes, letter.operation)) letter.waits = false;
}

}  // namespace shoal::transport::rail
