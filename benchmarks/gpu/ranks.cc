#include "ranks.h"

#include <chrono>
#include <exception>
#include <future>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace floor_of {
namespace {

using Clock = std::chrono::steady_clock;

double us_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

void synchronize(const Seat& seat) {
  shoal::cuda::require(seat.driver, "cuStreamSynchronize",
                       seat.driver.stream_synchronize(seat.stream));
}

/// One round of one cell at this rank.
Times time_round(Seat& seat, const Cell& cell) {
  Times times;
  seat.gate.meet();
  const Clock::time_point alone = Clock::now();
  for (int i = 0; i < cell.calls; ++i) {
    cell.call();
    synchronize(seat);
  }
  times.each_us = us_since(alone) / cell.calls;
  seat.gate.meet();
  const Clock::time_point together = Clock::now();
  for (int i = 0; i < cell.calls; ++i) cell.call();
  times.host_us = us_since(together) / cell.calls;
  synchronize(seat);
  times.many_us = us_since(together) / cell.calls;
  return times;
}

shoal::Options options_of(int rank, int ranks, const std::string& store) {
  shoal::Options options;
  options.rank = rank;
  options.size = ranks;
  options.store = store;
  options.secret = "of this process";
  options.job = "gpu_floor";
  options.timeout_ms = 15'000;
  options.init_timeout_ms = 15'000;
  return options;
}

}  // namespace

void Gate::meet() {
  const int turn = come_.fetch_add(1) / ranks_ + 1;
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(kGateMs);
  for (std::int64_t looks = 0; come_.load() < turn * ranks_; ++looks) {
    if (failed_.load()) throw std::runtime_error("another rank has failed");
    if (Clock::now() > end) throw std::runtime_error("another rank has not come");
    if (looks % 256 == 255) std::this_thread::yield();
  }
}

void run_ranks(const shoal::cuda::PrimaryContext& context, int ranks,
               const std::function<void(Seat&)>& body) {
  Gate gate(ranks);
  std::promise<std::string> told;
  const std::shared_future<std::string> store = told.get_future().share();
  std::mutex mutex;
  std::exception_ptr first;
  const auto live = [&](int rank) {
    shoal::Options options = options_of(rank, ranks, rank == 0 ? "127.0.0.1:0" : store.get());
    if (rank == 0) options.on_store = [&](const std::string& at) { told.set_value(at); };
    shoal::Communicator comm = shoal::Communicator::init(options);
    const shoal::cuda::ContextGuard guard(context);
    const shoal::cuda::Stream stream =
        shoal::cuda::make_stream(context.driver(), CU_STREAM_NON_BLOCKING);
    Seat seat{rank, ranks, context.driver(), comm, stream.get(), gate};
    body(seat);
    synchronize(seat);
    gate.meet();
  };
  std::vector<std::jthread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      try {
        live(r);
      } catch (...) {
        gate.fail();
        const std::lock_guard lock(mutex);
        if (first == nullptr) first = std::current_exception();
      }
    });
  }
  threads.clear();
  if (first != nullptr) std::rethrow_exception(first);
}

std::vector<Times> measure(Seat& seat, const std::vector<Cell>& cells, int rounds) {
  static std::mutex mutex;
  static std::vector<std::vector<Times>> slowest;  // by cell and round
  if (seat.rank == 0) {
    slowest.assign(cells.size(), std::vector<Times>(static_cast<std::size_t>(rounds)));
  }
  seat.gate.meet();
  for (std::size_t round = 0; round < static_cast<std::size_t>(rounds) + 1; ++round) {
    for (std::size_t c = 0; c < cells.size(); ++c) {
      const Times times = time_round(seat, cells[c]);
      if (round == 0) continue;  // to get warm
      const std::lock_guard lock(mutex);
      Times& all = slowest[c][round - 1];
      all.each_us = std::max(all.each_us, times.each_us);
      all.many_us = std::max(all.many_us, times.many_us);
      all.host_us = std::max(all.host_us, times.host_us);
    }
  }
  seat.gate.meet();
  std::vector<Times> medians;
  for (const std::vector<Times>& of_rounds : slowest) {
    const auto middle = [&](double Times::* which) {
      std::vector<double> values;
      for (const Times& times : of_rounds) values.push_back(times.*which);
      return median(values);
    };
    medians.push_back({middle(&Times::each_us), middle(&Times::many_us), middle(&Times::host_us)});
  }
  seat.gate.meet();
  return medians;
}

}  // namespace floor_of
