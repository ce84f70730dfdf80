// Repeats one call on pool memory, to be counted by callgrind: call_cost RANKS COLLECTIVE BYTES
// CALLS
//
// The ranks live in this one thread, which starts the call on each and then asks them in turn until
// all have finished. So nobody waits for a scheduler, and every run executes the same instructions.
#include <shoal/communicator.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/job.h"

namespace {

using namespace shoal;

constexpr int kWarmup = 20;  // plans, runs and slots are made by then

struct Place {
  std::optional<Communicator> comm;
  PoolBlock input, output;
};

std::vector<Place> make_places(int ranks, std::int64_t bytes) {
  std::vector<Place> places(static_cast<std::size_t>(ranks));
  run_ranks(ranks, [&](Communicator& comm) {
    Place& place = places[static_cast<std::size_t>(comm.rank())];
    place.input = comm.allocate({bytes});
    place.output = comm.allocate({bytes * ranks});
    place.comm = std::move(comm);
  });
  return places;
}

Work start(Place& place, const std::string& what, std::int64_t bytes) {
  const Count count{bytes / 4};
  const Buffer in{place.input.data(), {bytes}};
  const ConstBuffer source{in.data, in.bytes};
  Communicator& comm = *place.comm;
  if (what == "barrier") return comm.barrier();
  if (what == "all_reduce") {
    return comm.all_reduce(source, in, count, DataType::kFloat32, ReduceOp::kSum);
  }
  if (what == "broadcast") return comm.broadcast(source, in, count, DataType::kFloat32, 0);
  if (what == "all_gather") {
    const Buffer out{place.output.data(), {bytes * comm.size()}};
    return comm.all_gather(source, out, count, DataType::kFloat32);
  }
  std::fprintf(stderr, "call_cost: no collective %s\n", what.c_str());
  std::exit(2);
}

/// Collection is on inside of this only (--toggle-collect): the call of the rank that comes last,
/// which finds the others there and need not idle for their first word.
extern "C" [[gnu::noinline]] void counted_start(Place& place, const std::string& what,
                                                std::int64_t bytes, Work& work) {
  work = start(place, what, bytes);
}

void repeat(std::vector<Place>& places, const std::string& what, std::int64_t bytes, int calls) {
  std::vector<Work> works(places.size());
  for (int i = 0; i < calls; ++i) {
    for (std::size_t r = 0; r + 1 < places.size(); ++r) works[r] = start(places[r], what, bytes);
    counted_start(places.back(), what, bytes, works.back());
    for (bool all = false; !all;) {
      all = true;
      for (Work& work : works) all = work.test() && all;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: call_cost RANKS COLLECTIVE BYTES CALLS\n");
    return 2;
  }
  const std::int64_t bytes = std::atol(argv[3]);
  std::vector<Place> places = make_places(std::atoi(argv[1]), bytes);
  repeat(places, argv[2], bytes, kWarmup + std::atoi(argv[4]));
  std::vector<std::thread> leaving;  // to leave is collective
  for (Place& place : places) leaving.emplace_back([&place] { place = Place(); });
  for (std::thread& thread : leaving) thread.join();
  return 0;
}
