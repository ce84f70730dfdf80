#include "transport/rail/mailbox.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace shoal::transport::rail {

namespace {

template <class Item, class Is>
std::optional<Item> take_first(std::vector<Item>& items, Is&& is) noexcept {
  const auto found = std::ranges::find_if(items, is);
  if (found == items.end()) return std::nullopt;
  std::optional<Item> item(std::move(*found));
  items.erase(found);
  return item;
}

}  // namespace

bool Mailbox::has(std::uint64_t key) const noexcept {
  return std::ranges::any_of(arrived_, [key](const Arrived& a) { return a.header.key == key; });
}

std::optional<std::uint64_t> Mailbox::oldest_wanted() const noexcept {
  if (wanted_.empty()) return std::nullopt;
  return wanted_.front().number;
}

std::optional<Arrived> Mailbox::take_arrived(std::uint64_t key) noexcept {
  return take_first(arrived_, [key](const Arrived& a) { return a.header.key == key; });
}

std::optional<Wanted> Mailbox::take_wanted(std::uint64_t key) noexcept {
  return take_first(wanted_, [key](const Wanted& w) { return w.key == key; });
}

bool Mailbox::keep(const Header& header, const std::byte* content) noexcept {
  Arrived arrived{header, nullptr};
  if (header.content_bytes > 0) {
    arrived.content.reset(new (std::nothrow) std::byte[header.content_bytes]);
    if (arrived.content == nullptr) return false;
    std::memcpy(arrived.content.get(), content, header.content_bytes);
  }
  arrived_.push_back(std::move(arrived));
  return true;
}

bool Mailbox::cancel(const Operation& operation) noexcept {
  const auto found =
      take_first(wanted_, [&](const Wanted& w) { return w.operation == &operation; });
  if (found) found->operation->end({ErrorCode::kAborted, -1, 0});
  return found.has_value();
}

bool Mailbox::withdraw(std::uint64_t message) noexcept {
  return take_first(arrived_,
                    [message](const Arrived& a) {
                      return a.header.kind == Kind::kAnnounce && a.header.message == message;
                    })
      .has_value();
}

void Mailbox::fail(Status status) noexcept {
  for (const Wanted& wanted : std::exchange(wanted_, {})) wanted.operation->end(status);
}

}  // namespace shoal::transport::rail
