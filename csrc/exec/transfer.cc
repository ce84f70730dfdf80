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

}  // namespace

void Transfer::start(Group& group, const TransferCall& call) noexcept {
  restart();
  group_ = &group;
  call_ = call;
  operation_ = {};
  posted_ = false;
  lost_ns_ = 0;
}

bool Transfer::post() noexcept {
  const Binding& binding = group_->binding();
  const Route& route = binding.routes[call_.peer];
  const transport::Match match{transport::p2p_key(binding.communicator, call_.tag),
                               dtype_fingerprint(call_.dtype)};
  posted_ =
      call_.sends
          ? route.transport->send(route.peer, match, call_.source, call_.bytes, operation_)
          : route.transport->receive(route.peer, match, call_.target, call_.bytes, operation_);
  return posted_;
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
    const std::string text = std::string(call_.sends ? "send to" : "recv from") + " rank " +
                             std::to_string(call_.peer) + ", tag " + std::to_string(call_.tag) +
                             ": the deadline passed; the other side has not " +
                             (call_.sends ? "received" : "sent") + " a matching message";
    group_->fail({ErrorCode::kTimeout, call_.peer, 0}, nullptr, text, true);
    stop();
    return true;
  }
  return moved;
}

/// The network notices a death before the control connection brings its cause, for which a second
/// is waited.
bool Transfer::awaits_cause(std::int64_t now_ns) noexcept {
  const ErrorCode code = operation_.status.code;
  if (code == ErrorCode::kOk || code == ErrorCode::kMismatch) return false;
  if (lost_ns_ == 0) lost_ns_ = now_ns;
  return now_ns == 0 || now_ns < lost_ns_ + 1000 * kNsPerMs;
}

void Transfer::end() noexcept {
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
  if (posted_ && !operation_.done()) {
    group_->binding().routes[call_.peer].transport->cancel(operation_);
  }
  set_text(group_->failure_text());
  finish(group_->failure());
}

}  // namespace shoal::exec
