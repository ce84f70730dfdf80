#include "torch/store_channel.h"

#include <cstdint>
#include <cstring>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace shoal::torch {

namespace {

constexpr int kAll = -1;  // in keys: what rank 0 tells everybody

std::string text_of(const std::vector<std::uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }
std::vector<std::uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

/// Each text behind its length.
std::string joined(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) {
    const auto length = static_cast<std::uint32_t>(text.size());
    all.append(reinterpret_cast<const char*>(&length), sizeof length);
    all += text;
  }
  return all;
}

std::vector<std::string> parted(const std::string& all) {
  std::vector<std::string> texts;
  std::size_t at = 0;
  std::uint32_t length = 0;
  while (at + sizeof length <= all.size()) {
    std::memcpy(&length, all.data() + at, sizeof length);
    texts.push_back(all.substr(at + sizeof length, length));
    at += sizeof length + length;
  }
  return texts;
}

}  // namespace

StoreChannel::StoreChannel(c10::intrusive_ptr<c10d::Store> store, std::string what, int rank,
                           int size, std::chrono::milliseconds timeout)
    : store_(std::move(store)),
      what_(std::move(what)),
      rank_(rank),
      size_(size),
      timeout_(timeout) {
  const std::string mine = "shoal/" + std::to_string(rank);
  prefix_ = "shoal/" + std::to_string(store_->add(mine, 1)) + "/";
}

std::string StoreChannel::key(const std::string& step, int rank) const {
  return prefix_ + step + "/" + (rank == kAll ? "all" : std::to_string(rank));
}

void StoreChannel::report_missing(const std::string& step, const std::vector<int>& ranks) {
  std::string missing;
  int count = 0;
  for (const int rank : ranks) {
    if (store_->check({key(step, rank)})) continue;
    if (++count <= 16) missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
  }
  if (count > 16) missing += " and " + std::to_string(count - 16) + " more";
  TORCH_CHECK_WITH(DistStoreError, false, "shoal: ", what_, ": rank ", rank_, " of ", size_,
                   " has waited ", timeout_.count(), " ms; these ranks have not come: ", missing,
                   ". Have all of them been started, and do all make the same groups?");
}

void StoreChannel::wait_for(const std::string& step, const std::vector<int>& ranks) {
  std::vector<std::string> keys;
  for (const int rank : ranks) keys.push_back(key(step, rank));
  try {
    store_->wait(keys, timeout_);
  } catch (const c10::DistStoreError&) {
    if (ranks.front() != kAll) report_missing(step, ranks);
    TORCH_CHECK_WITH(DistStoreError, false, "shoal: ", what_, ": rank 0 of ", size_,
                     " has not answered rank ", rank_, " within ", timeout_.count(),
                     " ms; its own output says which ranks it waits for");
  }
}

std::vector<std::string> StoreChannel::gather(const std::string& step, const std::string& mine) {
  if (rank_ != 0) {
    store_->set(key(step, rank_), bytes_of(mine));
    return {};
  }
  std::vector<int> others;
  for (int rank = 1; rank < size_; ++rank) others.push_back(rank);
  std::vector<std::string> all{mine};
  if (others.empty()) return all;
  wait_for(step, others);
  std::vector<std::string> keys;
  for (const int rank : others) keys.push_back(key(step, rank));
  if (store_->hasExtendedApi()) {
    for (const auto& bytes : store_->multiGet(keys)) all.push_back(text_of(bytes));
  } else {
    for (const std::string& name : keys) all.push_back(text_of(store_->get(name)));
  }
  return all;
}

std::string StoreChannel::spread(const std::string& step, const std::string& text) {
  if (rank_ == 0) {
    store_->set(key(step, kAll), bytes_of(text));
    return text;
  }
  wait_for(step, {kAll});
  return text_of(store_->get(key(step, kAll)));
}

std::vector<std::string> StoreChannel::exchange(const std::string& step, const std::string& mine) {
  return parted(spread(step, joined(gather(step, mine))));
}

std::string StoreChannel::host() const {
  c10d::Store* store = store_.get();
  if (auto* prefix = dynamic_cast<c10d::PrefixStore*>(store)) {
    store = prefix->getUnderlyingNonPrefixStore().get();
  }
  const auto* tcp = dynamic_cast<c10d::TCPStore*>(store);
  return tcp == nullptr ? std::string() : tcp->getHost();
}

}  // namespace shoal::torch
