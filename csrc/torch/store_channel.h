/// What the ranks of a group that is being made tell one another, over torch's own store.
#pragma once

#include <chrono>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

namespace shoal::torch {

/// Rank 0 reads from all and answers all: 2 messages a rank, P at rank 0. One thread.
///
/// Keys carry how often this rank has used the prefix before, so that a group made again over the
/// same store (destroy_process_group, init_process_group) does not read what is left of the first.
/// Throws c10::DistStoreError naming the ranks that have not come.
class StoreChannel {
 public:
  StoreChannel(c10::intrusive_ptr<c10d::Store> store, std::string what, int rank, int size,
               std::chrono::milliseconds timeout);

  /// At rank 0 what each rank says, elsewhere nothing.
  std::vector<std::string> gather(const std::string& step, const std::string& mine);
  /// What rank 0 says.
  std::string spread(const std::string& step, const std::string& text);
  /// What each rank says, everywhere.
  std::vector<std::string> exchange(const std::string& step, const std::string& mine);

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int size() const noexcept { return size_; }
  [[nodiscard]] std::chrono::milliseconds timeout() const noexcept { return timeout_; }
  /// The host that a TCPStore runs on; "" for other stores.
  [[nodiscard]] std::string host() const;

 private:
  [[nodiscard]] std::string key(const std::string& step, int rank) const;
  [[noreturn]] void report_missing(const std::string& step, const std::vector<int>& ranks);
  void wait_for(const std::string& step, const std::vector<int>& ranks);

  c10::intrusive_ptr<c10d::Store> store_;
  std::string what_;
  int rank_, size_;
  std::chrono::milliseconds timeout_;
  std::string prefix_;
};

}  // namespace shoal::torch
