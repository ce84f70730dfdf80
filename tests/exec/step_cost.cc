// What a step costs: the executor runs one rank of long schedules over the transport that moves
// nothing, so that what remains is the executor. By hand: build/release/tests/exec/step_cost
// [ROUNDS]
//
// Prints, for each schedule, its number of steps and the nanoseconds of one: the median of the
// rounds and the fastest. One element a block, so that folding costs as little as it can.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/assert.h"
#include "core/clock.h"
#include "exec/engine.h"
#include "transport/null/null_transport.h"
#include "transport/shm/shm_transport.h"

namespace shoal::exec {
namespace {

constexpr Rank kRanks = 1024;
constexpr std::int64_t kPoolBytes = 64 << 20;

struct Case {
  Collective collective;
  schedule::Algorithm algorithm;
};
constexpr Case kCases[] = {{Collective::kBarrier, schedule::Algorithm::kDissemination},
                           {Collective::kAllGather, schedule::Algorithm::kRing},
                           {Collective::kReduceScatter, schedule::Algorithm::kRing},
                           {Collective::kAllReduce, schedule::Algorithm::kRing},
                           {Collective::kAllToAll, schedule::Algorithm::kPairwise}};

/// The first of 1024 ranks, alone on its node. The others are a transport's claim.
class LoneRank {
 public:
  LoneRank()
      : made_(memory::Arena::create({1, memory::kHeaderBytes + kPoolBytes})),
        arena_(made_.value()),
        pool_(arena_, 0, kPoolBytes),
        node_(arena_, 0),
        health_(kRanks),
        engine_(node_, pool_, false),
        group_(bind(), GroupEvents{}) {
    SHOAL_ASSERT(node_.commit_header().ok());
    engine_.add_transport(network_, true);
    engine_.add_group(group_);
  }
  ~LoneRank() { engine_.remove_group(group_); }
  LoneRank(const LoneRank&) = delete;
  LoneRank& operator=(const LoneRank&) = delete;

  [[nodiscard]] float* allocate(std::int64_t elements) {
    const memory::Offset block = pool_.allocate(elements * 4, 4096).value();
    return reinterpret_cast<float*>(arena_.at(block));
  }

  std::int64_t time_ns(const Call& call, int calls) {
    const std::int64_t began = now_ns();
    for (int i = 0; i < calls; ++i) {
      if (Run* run = engine_.start(group_, call)) {
        engine_.wait(*run, {});
        SHOAL_ASSERT(run->status().ok());
        engine_.release(*run);
      }
    }
    return now_ns() - began;
  }

 private:
  Binding bind() {
    const std::int64_t bytes = control_bytes(1);
    std::byte* control = arena_.at(pool_.allocate(bytes, 4096).value());
    std::memset(control, 0, static_cast<std::size_t>(bytes));
    Binding binding;
    binding.communicator = 1;
    binding.ranks = kRanks;
    for (Rank r = 0; r < kRanks; ++r) binding.routes.push_back({&network_, r, r == 0 ? 0 : -1, r});
    binding.node_members = {0};
    binding.local_ranks = {0};
    binding.node = transport::shm::NodeGroup(control, 1, 0);
    binding.board = AbortBoard(control + transport::shm::control_bytes(1), 0);
    binding.shm = &node_;
    binding.health = &health_;
    return binding;
  }

  Result<memory::Arena> made_;
  memory::Arena& arena_;
  memory::Pool pool_;
  transport::shm::Node node_;
  Health health_;
  transport::null::NullTransport network_;
  Engine engine_;
  Group group_;
};

int steps_of(const Case& of, const schedule::Shape& shape) {
  schedule::Schedule schedule(of.algorithm, shape);
  int steps = 1;  // the end is one
  while (schedule.next().kind != schedule::StepKind::kEnd) ++steps;
  return steps;
}

void measure(LoneRank& rank, const Case& of, float* input, float* output, int rounds) {
  PlanKey key;
  key.collective = of.collective;
  key.dtype = DataType::kFloat32;
  key.count = of.collective == Collective::kBarrier ? 0 : 1;
  if (of.collective == Collective::kAllReduce) key.count = kRanks;
  schedule::Shape shape;
  shape.ranks = kRanks;
  const Plan plan = make_plan(key, of.algorithm, shape, {});
  const int steps = steps_of(of, plan.shape);
  const int calls = std::max(1, 20'000 / steps);
  std::vector<double> ns;
  for (int round = 0; round < rounds; ++round) {
    const auto elapsed_ns = rank.time_ns({&plan, input, output, 0}, calls);
    ns.push_back(static_cast<double>(elapsed_ns) / calls / steps);
  }
  std::sort(ns.begin(), ns.end());
  std::printf("%-15s %-15s %5d steps, %6.2f ns each (fastest round %.2f)\n",
              name_of(of.collective).data(), schedule::name_of(of.algorithm).data(), steps,
              ns[ns.size() / 2], ns.front());
}

}  // namespace
}  // namespace shoal::exec

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 51;
  if (rounds < 1) {
    std::fprintf(stderr, "usage: step_cost [ROUNDS]\n");
    return 2;
  }
  shoal::exec::LoneRank rank;
  float* input = rank.allocate(2 * shoal::exec::kRanks);
  float* output = rank.allocate(2 * shoal::exec::kRanks);
  for (const auto& of : shoal::exec::kCases) {
    shoal::exec::measure(rank, of, input, output, rounds);
  }
  return 0;
}
