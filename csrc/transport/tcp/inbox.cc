#include "transport/tcp/inbox.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace shoal::transport::tcp {

namespace {

constexpr std::int64_t kHeader = sizeof(Header);
constexpr std::int64_t kDropBytes = 64 << 10;

iovec space(void* begin, std::int64_t bytes) noexcept {
  return {begin, static_cast<std::size_t>(bytes)};
}

}  // namespace

void Inbox::receive(Match match, void* data, std::int64_t capacity, Operation& operation) noexcept {
  const Receive receive{&operation, key_of(header_of(match, 0)), static_cast<std::byte*>(data),
                        capacity};
  const Place kept = find_kept(receive.key);
  if (kept != unexpected_.end()) {
    const std::int64_t bytes = kept->header.bytes;
    operation.bytes = bytes;
    operation.fingerprint = fingerprint_of(kept->header);
    const bool fits = bytes <= capacity;
    if (fits && bytes > 0) {
      std::memcpy(data, kept->data.get(), static_cast<std::size_t>(bytes));
    }
    unexpected_.erase(kept);
    return operation.end(fits ? kOkStatus : Status{ErrorCode::kMismatch, -1, bytes});
  }
  if (sink_ == Sink::kNobody && key_of(beginning_.header) == receive.key) return assign(receive);
  posted_.push_back(receive);
}

Inbox::Place Inbox::find_kept(std::uint64_t key) noexcept {
  return std::find_if(unexpected_.begin(), unexpected_.end(),
                      [&](const Kept& message) { return key_of(message.header) == key; });
}

bool Inbox::seek(Match match) noexcept {
  const std::uint64_t key = key_of(header_of(match, 0));
  const bool is_coming = sink_ == Sink::kNobody && key_of(beginning_.header) == key;
  if (is_coming || find_kept(key) != unexpected_.end()) return true;
  seeks_ = true;
  return false;
}

bool Inbox::cancel(const Operation& operation) noexcept {
  if (is_receiving() && receiving_.operation == &operation) {
    sink_ = Sink::kDropped;
    receiving_.operation->end({ErrorCode::kAborted, -1, 0});
    return true;
  }
  const auto found = std::find_if(posted_.begin(), posted_.end(), [&](const Receive& receive) {
    return receive.operation == &operation;
  });
  if (found == posted_.end()) return false;
  found->operation->end({ErrorCode::kAborted, -1, 0});
  posted_.erase(found);
  return true;
}

void Inbox::fail(Status status) noexcept {
  if (is_receiving()) {
    sink_ = Sink::kDropped;
    receiving_.operation->end(status);
  }
  for (const Receive& receive : posted_) receive.operation->end(status);
  posted_.clear();
}

int Inbox::spaces(Spaces& spaces) noexcept {
  if (sink_ == Sink::kNone) {
    auto* const begin = reinterpret_cast<std::byte*>(&beginning_) + header_bytes_;
    const std::int64_t guessed = posted_.empty() ? 0 : posted_.front().capacity;
    const bool is_small = guessed <= kSmallBytes;
    spaces[0] = space(begin, kHeader - header_bytes_ + (is_small ? guessed : 0));
    if (is_small) return 1;
    spaces[1] = space(posted_.front().data, guessed);
    return 2;
  }
  std::int64_t left = beginning_.header.bytes - content_bytes_;
  if (sink_ == Sink::kNobody && !keep()) return 0;
  if (sink_ == Sink::kDropped) {
    left = std::min(left, kDropBytes);
    if (!dropped_) dropped_.reset(new (std::nothrow) std::byte[kDropBytes]);
    if (!dropped_) return 0;
  }
  spaces[0] = space(target(), left);
  return 1;
}

/// Where the rest of the message goes.
std::byte* Inbox::target() noexcept {
  switch (sink_) {
    case Sink::kReceive:
      return receiving_.data + content_bytes_;
    case Sink::kNobody:
      return kept_.get() + content_bytes_;
    default:
      return dropped_.get();
  }
}

bool Inbox::arrived(std::int64_t bytes) noexcept {
  if (sink_ != Sink::kNone) {
    content_bytes_ += bytes;
    if (content_bytes_ == beginning_.header.bytes) end_message();
    return true;
  }
  const std::int64_t of_header = std::min(bytes, kHeader - header_bytes_);
  header_bytes_ += of_header;
  bytes -= of_header;
  if (header_bytes_ < kHeader) return true;
  // The rest lies where spaces() has said.
  const bool is_small = posted_.empty() || posted_.front().capacity <= kSmallBytes;
  std::byte* const guessed = is_small ? beginning_.content.data() : posted_.front().data;
  if (!begin_message()) return false;
  if (bytes > 0 && is_receiving() && receiving_.data == guessed) {
    const std::int64_t mine = std::min(bytes, beginning_.header.bytes);
    content_bytes_ = mine;
    if (content_bytes_ == beginning_.header.bytes) end_message();
    return bytes == mine || feed(guessed + mine, bytes - mine);
  }
  return bytes == 0 || feed(guessed, bytes);
}

bool Inbox::feed(const std::byte* from, std::int64_t bytes) noexcept {
  while (bytes > 0) {
    std::int64_t taken = 0;
    if (sink_ == Sink::kNone) {
      taken = std::min(bytes, kHeader - header_bytes_);
      std::memcpy(reinterpret_cast<std::byte*>(&beginning_) + header_bytes_, from,
                  static_cast<std::size_t>(taken));
      header_bytes_ += taken;
      if (header_bytes_ == kHeader && !begin_message()) return false;
    } else {
      taken = std::min(bytes, beginning_.header.bytes - content_bytes_);
      if (sink_ == Sink::kNobody && !keep()) return false;
      // The bytes may lie in the very memory they belong to, further on.
      if (sink_ != Sink::kDropped) std::memmove(target(), from, static_cast<std::size_t>(taken));
      content_bytes_ += taken;
      if (content_bytes_ == beginning_.header.bytes) end_message();
    }
    from += taken;
    bytes -= taken;
  }
  return true;
}

bool Inbox::begin_message() noexcept {
  if (beginning_.header.bytes < 0 || beginning_.header.bytes > kMaxMessageBytes) return false;
  content_bytes_ = 0;
  sink_ = Sink::kNobody;
  const std::uint64_t key = key_of(beginning_.header);
  const auto found = std::find_if(posted_.begin(), posted_.end(),
                                  [&](const Receive& receive) { return receive.key == key; });
  if (found != posted_.end()) {
    const Receive receive = *found;
    posted_.erase(found);
    assign(receive);
    return true;
  }
  seeks_ = false;
  if (beginning_.header.bytes == 0) end_message();
  return true;
}

void Inbox::assign(const Receive& receive) noexcept {
  Operation& operation = *receive.operation;
  operation.bytes = beginning_.header.bytes;
  operation.fingerprint = fingerprint_of(beginning_.header);
  if (beginning_.header.bytes > receive.capacity) {
    sink_ = Sink::kDropped;
    kept_.reset();
    return operation.end({ErrorCode::kMismatch, -1, beginning_.header.bytes});
  }
  sink_ = Sink::kReceive;
  receiving_ = receive;
  if (kept_ != nullptr) {
    std::memcpy(receive.data, kept_.get(), static_cast<std::size_t>(content_bytes_));
    kept_.reset();
  }
  if (content_bytes_ == beginning_.header.bytes) end_message();
}

/// A place for a message that nobody has asked for. False: out of memory.
bool Inbox::keep() noexcept {
  if (kept_ == nullptr) {
    kept_.reset(new (std::nothrow) std::byte[static_cast<std::size_t>(beginning_.header.bytes)]);
  }
  return kept_ != nullptr;
}

void Inbox::end_message() noexcept {
  switch (std::exchange(sink_, Sink::kNone)) {
    case Sink::kReceive:
      receiving_.operation->end(kOkStatus);
      break;
    case Sink::kNobody:
      unexpected_.push_back({beginning_.header, std::move(kept_)});
      break;
    default:
      break;
  }
  header_bytes_ = 0;
}

}  // namespace shoal::transport::tcp
