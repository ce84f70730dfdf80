#include "transport/tcp/outbox.h"

#include <algorithm>
#include <cstring>

namespace shoal::transport::tcp {

namespace {

/// Adds [skip, bytes) of a piece of memory, if that is not empty.
void add(Outbox::Spaces& spaces, int& count, const void* data, std::int64_t bytes,
         std::int64_t skip) noexcept {
  if (skip >= bytes) return;
  auto* const begin = static_cast<std::byte*>(const_cast<void*>(data)) + skip;  // only read
  spaces[count++] = {begin, static_cast<std::size_t>(bytes - skip)};
}

}  // namespace

int Outbox::spaces(Spaces& spaces) noexcept {
  constexpr std::int64_t kHeader = sizeof(Header);
  const Message& first = messages_.front();
  if (messages_.size() == 1 && left_ == 0 && first.header.bytes <= kSmallBytes) {
    const auto bytes = static_cast<std::size_t>(first.header.bytes);
    packed_.header = first.header;
    if (bytes > 0) std::memcpy(packed_.content.data(), first.data, bytes);
    spaces[0] = {&packed_, sizeof(Header) + bytes};
    return 1;
  }
  int count = 0;
  std::int64_t skip = left_;
  for (const Message& message : messages_) {
    if (count + 2 > kSpaces) break;
    add(spaces, count, &message.header, kHeader, skip);
    add(spaces, count, message.data, message.header.bytes,
        std::max<std::int64_t>(0, skip - kHeader));
    skip = 0;
  }
  return count;
}

void Outbox::left(std::int64_t bytes) noexcept {
  left_ += bytes;
  while (!messages_.empty() && left_ >= messages_.front().bytes()) {
    left_ -= messages_.front().bytes();
    messages_.front().operation->end(kOkStatus);
    messages_.erase(messages_.begin());
  }
}

Outbox::Cancelled Outbox::cancel(const Operation& operation) noexcept {
  const auto found = std::find_if(messages_.begin(), messages_.end(), [&](const Message& message) {
    return message.operation == &operation;
  });
  if (found == messages_.end()) return Cancelled::kNotMine;
  if (found == messages_.begin() && left_ > 0) return Cancelled::kInTheMiddle;
  found->operation->end({ErrorCode::kAborted, -1, 0});
  messages_.erase(found);
  return Cancelled::kWhole;
}

void Outbox::fail(Status status) noexcept {
  for (const Message& message : messages_) message.operation->end(status);
  messages_.clear();
  left_ = 0;
}

}  // namespace shoal::transport::tcp
