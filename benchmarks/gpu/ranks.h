/// Ranks that are threads of this process, and what they measure together.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cuda/handles.h"
#include "shoal/communicator.h"

namespace floor_of {

/// Where all ranks meet. It opens with an error when one of them has failed, or after kGateMs.
class Gate {
 public:
  static constexpr std::int64_t kGateMs = 20'000;
  explicit Gate(int ranks) : ranks_(ranks) {}
  void meet();
  void fail() { failed_.store(true); }

 private:
  const int ranks_;
  std::atomic<int> come_{0};
  std::atomic<bool> failed_{false};
};

/// One rank's.
struct Seat {
  int rank, ranks;
  const shoal::cuda::Driver& driver;
  shoal::Communicator& comm;
  CUstream stream;
  Gate& gate;
};

/// Runs `body` on so many ranks; throws what one of them has thrown.
void run_ranks(const shoal::cuda::PrimaryContext& context, int ranks,
               const std::function<void(Seat&)>& body);

/// Of one call, the slowest rank's.
struct Times {
  double each_us = 0;  ///< with a synchronised stream after each
  double many_us = 0;  ///< one after the other, waited for at the end
  double host_us = 0;  ///< of the calling thread, of those
};

struct Cell {
  std::string what;
  std::int64_t bytes;
  int calls;
  std::function<void()> call;
};

/// Medians of rounds in which the cells take turns. By all ranks alike; rank 0 has the result.
std::vector<Times> measure(Seat& seat, const std::vector<Cell>& cells, int rounds);

inline double median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
  return values[values.size() / 2];
}

/// What each call of the driver does while a kernel waits, or a stream: prints a table.
void print_waits(const shoal::cuda::PrimaryContext& context, const void* image);

}  // namespace floor_of
