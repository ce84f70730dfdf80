#include "exec/transfer.h"

#include <string>

#include "core/clock.h"

namespace shoal::exec {

namespace {

/// What a message says of its elements: the dtype, so that a mismatch can be named.
std::uint16_t dtype_fingerprint(DataType dtype) noexcept {
  return static_cast<std::uint16_t>(static_cast<int>(dtype) + 1);
}

std::string describe_mismatch(const TransferCall& call, const transport::Operation& got) {
  const int sent = got.fingerprint - 1;
  std::string text = "recv: rank " + std::to_string(call.peer) + " sent ";
  text += got.status.ok() ? std::to_string(got.bytes) + " bytes" : "a longer message";
  if (sent >= 0 && sent < kDataTypes) {
    text += " of " + std::string(name_of(static_cast<DataType>(sent)));
  }
  text += " with tag " + std::to_string(call.tag) + ", this receive expects " +
          std::to_string(call.bytes) + " bytes of " + std::string(name_of(call.dtype)) +
          "; give both sides the same dtype and shape";
  return text;
}

std::string describe_timeout(const TransferCall& call) {
  const bool from_any = call.peer == kAnySource;
  const std::string whom = from_any ? "any source" : "rank " + std::to_string(call.peer);
  return std::string(call.sends ? "send to " : "recv from ") + whom + ", tag " +
         std::to_string(call.tag) + ": the deadline passed; " +
         (from_any ? "no rank" : "the other side") + " has " + (from_any ? "" : "not ") +
         (call.sends ? "received" : "sent") + " a matching message";
}

}  // namespace

void Transfer::start(Group& group, const TransferCall& call, TransferLines& lines) noexcept {
  restart();
  group_ = &group;
  lines_ = &lines;
  call_ = call;
  operation_ = {};
  posted_ = false;
  in_line_ = false;
  lost_ns_ = left_ns_ = 0;
  key = transport::p2p_key(group.binding().communicator, call.tag);
  peer = call.sends ? call.peer : kAnySource;
  if (lines.size() > 0 && lines.find(peer, key) != nullptr) enter_line();
}

void Transfer::set_begin(std::int64_t now_ns) noexcept {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  const Binding& binding = group_->binding();
  abi::ProgressPage& page = binding.shm->page(binding.shm->self());
  record_ = &page.transfers[number_ % abi::kPageTransfers];
  record_->communicator.store(binding.communicator, kRelaxed);
  record_->peer.store(call_.peer == kAnySource ? -1 : binding.routes[call_.peer].world, kRelaxed);
  record_->tag.store(call_.tag, kRelaxed);
  record_->bytes.store(call_.bytes, kRelaxed);
  record_->begin_ns.store(now_ns, kRelaxed);
  record_->state.store(call_.sends ? 1 : 2, kRelaxed);
}

void Transfer::clear_record() noexcept {
  if (record_ != nullptr) record_->state.store(0, std::memory_order_relaxed);
  record_ = nullptr;
}

bool Transfer::post() noexcept {
  if (in_line_ && lines_->find(peer, key) != this) return false;
  posted_ = offer();
  if (posted_ && in_line_) leave_line();
  if (!posted_ && !in_line_) enter_line();
  return posted_;
}

/// To the transport of its peer; a receive from any source, once some peer has a message for it.
bool Transfer::offer() noexcept {
  const transport::Match match{key, dtype_fingerprint(call_.dtype)};
  const bool from_any = call_.peer == kAnySource;
  const Rank other = from_any ? find_source(match) : call_.peer;
  if (other == kAnySource) return false;
  const Route& route = group_->binding().routes[other];
  const bool taken =
      call_.sends
          ? route.transport->send(route.peer, match, call_.source, call_.bytes, operation_)
          : route.transport->receive(route.peer, match, call_.target, call_.bytes, operation_);
  if (taken && from_any) call_.peer = group_->last_source(call_.tag) = other;
  return taken;
}

/// Begins behind the rank that was served last, so that none that sends is passed over for ever.
Rank Transfer::find_source(transport::Match match) const noexcept {
  const Binding& binding = group_->binding();
  const Rank last = group_->last_source(call_.tag);
  for (Rank i = 1; i <= binding.ranks; ++i) {
    const Rank rank = (last + i) % binding.ranks;
    const Route& route = binding.routes[rank];
    if (route.transport->probe(route.peer, match)) return rank;
  }
  return kAnySource;
}

Rank Transfer::source() const noexcept {
  const ErrorCode code = operation_.status.code;
  const bool came = operation_.done() && (code == ErrorCode::kOk || code == ErrorCode::kMismatch);
  return came && !call_.sends ? call_.peer : kAnySource;
}

void Transfer::enter_line() noexcept {
  in_line_ = true;
  lines_->push(this);
}

void Transfer::leave_line() noexcept {
  in_line_ = false;
  lines_->remove(this);
}

bool Transfer::poll(std::int64_t now_ns) noexcept {
  if (done()) return false;
  group_->check(nullptr);
  if (!group_->failure().ok()) {
    stop();
    return true;
  }
  const bool moved = !posted_ && post();
  if (posted_ && operation_.done() && !awaits_cause(now_ns)) {
    end();
    return true;
  }
  if (now_ns != 0 && call_.deadline_ns != 0 && now_ns >= call_.deadline_ns) {
    group_->fail({ErrorCode::kTimeout, call_.peer, 0}, nullptr, describe_timeout(call_), true);
    stop();
    return true;
  }
  if (is_abandoned(now_ns)) {
    group_->fail({ErrorCode::kPeerFailed, call_.peer, 0}, nullptr, {}, true);
    stop();
    return true;
  }
  return moved;
}

/// Its peer has left, and for a second nothing has come that was still under way.
bool Transfer::is_abandoned(std::int64_t now_ns) noexcept {
  if (now_ns == 0 || call_.peer == kAnySource) return false;
  const Binding& binding = group_->binding();
  if (!binding.health->left(binding.routes[call_.peer].world)) return false;
  if (left_ns_ == 0) left_ns_ = now_ns;
  return now_ns >= left_ns_ + kGraceNs;
}

/// The network notices a death before the control connection brings its cause, for which a second
/// is waited.
bool Transfer::awaits_cause(std::int64_t now_ns) noexcept {
  const ErrorCode code = operation_.status.code;
  if (code == ErrorCode::kOk || code == ErrorCode::kMismatch) return false;
  if (lost_ns_ == 0) lost_ns_ = now_ns;
  return now_ns == 0 || now_ns < lost_ns_ + kGraceNs;
}

void Transfer::end() noexcept {
  clear_record();
  const Status status = operation_.status;
  if (!status.ok() && status.code != ErrorCode::kMismatch) {
    group_->fail({ErrorCode::kTransport, call_.peer, status.detail}, nullptr, {}, true);
    set_text(group_->failure_text());
    finish(group_->failure());
    return;
  }
  const bool fits =
      status.ok() && (call_.sends || (operation_.bytes == call_.bytes &&
                                      operation_.fingerprint == dtype_fingerprint(call_.dtype)));
  if (!fits) set_text(describe_mismatch(call_, operation_));
  finish(fits ? kOkStatus : Status{ErrorCode::kMismatch, call_.peer, operation_.bytes});
}

/// The communicator has failed: end, leaving the buffer alone.
void Transfer::stop() noexcept {
  clear_record();
  if (in_line_) leave_line();
  if (posted_ && !operation_.done()) {
    group_->binding().routes[call_.peer].transport->cancel(operation_);
  }
  set_text(group_->failure_text());
  finish(group_->failure());
}

}  // namespace shoal::exec
