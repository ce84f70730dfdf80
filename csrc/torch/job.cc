#include "torch/job.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <sstream>

#include "torch/host.h"
#include "torch/store_channel.h"
#include "torch/work.h"

namespace shoal::torch {

namespace {

/// The jobs of this process that are alive.
class Jobs {
 public:
  void add(const std::shared_ptr<Job>& job) {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(job);
  }
  std::vector<std::shared_ptr<Job>> alive() {
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<Job>> jobs;
    for (const auto& job : jobs_) {
      if (auto one = job.lock()) jobs.push_back(std::move(one));
    }
    std::erase_if(jobs_, [](const auto& job) { return job.expired(); });
    return jobs;
  }

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<Job>> jobs_;  // mutex_
};

Jobs& jobs() {
  static Jobs all;
  return all;
}

/// What a rank says of itself before there is a group: where it runs, and its jobs with its rank in
/// each.
std::string introduce() {
  std::string text = machine_id() + "\n";
  for (const auto& job : jobs().alive()) {
    text += job->id + " " + std::to_string(job->world.rank()) + "\n";
  }
  return text;
}

struct Introduction {
  std::string machine;
  std::vector<std::pair<std::string, Rank>> jobs;
};

Introduction read_introduction(const std::string& text) {
  std::istringstream in(text);
  Introduction who;
  std::getline(in, who.machine);
  std::string id;
  Rank rank = 0;
  while (in >> id >> rank) who.jobs.emplace_back(id, rank);
  return who;
}

/// "group ID RANK RANK ...": the group's ranks in a job that all of them have; else "".
std::string common_job(const std::vector<Introduction>& ranks) {
  for (const auto& [id, first] : ranks[0].jobs) {
    std::string text = "group " + id;
    const bool known_to_all = std::ranges::all_of(ranks, [&, name = id](const Introduction& who) {
      const auto found =
          std::ranges::find(who.jobs, name, [](const auto& job) { return job.first; });
      if (found != who.jobs.end()) text += " " + std::to_string(found->second);
      return found != who.jobs.end();
    });
    if (known_to_all) return text;
  }
  return "";
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// For `shoal ps` and messages.
std::string job_name(const std::string& id) {
  for (const char* name : {"SHOAL_JOB", "TORCHELASTIC_RUN_ID"}) {
    if (const std::string value = variable(name); !value.empty() && value != "none") return value;
  }
  return "torch-" + id.substr(0, 8);
}

/// "new ID STORE SECRET JOB", from rank 0.
struct NewJob {
  std::string id, store, secret, name;
};

Options options_of(const GroupRequest& request, const std::string& ucx_directory) {
  Options options;
  options.rank = request.rank;
  options.size = request.size;
  options.timeout_ms = request.timeout.count();
  options.init_timeout_ms = request.timeout.count();
  options.ucx_directory = ucx_directory;
  return options;
}

std::shared_ptr<Job> remember(Communicator world, const std::string& id) {
  auto job = std::make_shared<Job>(std::move(world), id);
  jobs().add(job);
  return job;
}

/// Rank 0: the store comes first, then the others hear of it.
std::shared_ptr<Job> start_job(StoreChannel& channel, const std::vector<Introduction>& ranks,
                               Options options) {
  const bool is_local = std::ranges::all_of(
      ranks, [&](const Introduction& who) { return who.machine == ranks[0].machine; });
  const std::string id = random_secret().substr(0, 16);
  options.store = (is_local ? "127.0.0.1" : own_address(channel.host())) + ":0";
  options.secret = random_secret();
  options.job = job_name(id);
  options.on_store = [&](const std::string& store) {
    channel.spread("job", "new " + id + " " + store + " " + options.secret + " " + options.job);
  };
  return remember(Communicator::init(options), id);
}

std::shared_ptr<Job> join_job(std::istringstream& answer, Options options) {
  NewJob job;
  answer >> job.id >> job.store >> job.secret;
  std::getline(answer >> std::ws, job.name);
  options.store = job.store;
  options.secret = job.secret;
  options.job = job.name;
  return remember(Communicator::init(options), job.id);
}

JoinedGroup whole(const std::shared_ptr<Job>& job) { return {job, job->world}; }

Communicator make_group(Communicator& parent, const std::vector<Rank>& ranks,
                        StoreChannel& channel) {
  return parent.group(ranks,
                      [&](const std::string& mine) { return channel.exchange("group", mine); });
}

/// Of a job that this rank is in.
JoinedGroup join_known_job(std::istringstream& answer, StoreChannel& channel) {
  std::string id;
  answer >> id;
  std::vector<Rank> ranks;
  for (Rank rank = 0; answer >> rank;) ranks.push_back(rank);
  for (const auto& job : jobs().alive()) {
    if (job->id == id) return {job, make_group(job->world, ranks, channel)};
  }
  throw Error(ErrorCode::kBootstrap, "the job " + id + " has ended while a group of it was made");
}

}  // namespace

std::optional<PoolBlock> Job::take(std::size_t bytes, Reserve reserve) {
  const auto wanted = static_cast<std::int64_t>(bytes);
  const PoolStatistics pool = world.pool();
  const std::int64_t reserved = std::min(reserve.most, pool.limit.value / reserve.parts);
  if (pool.used.value + wanted > pool.limit.value - reserved) return std::nullopt;
  try {
    return world.allocate({wanted});
  } catch (const Error&) {
    return std::nullopt;
  }
}

JoinedGroup join_group(const GroupRequest& request, const std::string& ucx_directory) {
  Options options = options_of(request, ucx_directory);
  if (request.size == 1) {
    options.job = job_name(random_secret());
    return whole(remember(Communicator::init(options), options.job));
  }
  StoreChannel channel(request.store, request.name, request.rank, request.size, request.timeout);
  std::vector<Introduction> ranks;  // at rank 0
  for (const std::string& text : channel.gather("hello", introduce())) {
    ranks.push_back(read_introduction(text));
  }
  const std::string group = ranks.empty() ? "" : common_job(ranks);
  if (!ranks.empty() && group.empty()) return whole(start_job(channel, ranks, options));
  std::istringstream answer(channel.spread("job", group));
  std::string kind;
  answer >> kind;
  return kind == "group" ? join_known_job(answer, channel)
                         : whole(join_job(answer, std::move(options)));
}

JoinedGroup join_subgroup(const std::shared_ptr<Job>& job, Communicator& parent,
                          const std::vector<Rank>& ranks, const GroupRequest& request) {
  StoreChannel channel(request.store, request.name, request.rank, request.size, request.timeout);
  return {job, make_group(parent, ranks, channel)};
}

void leave_all_jobs() {
  for (const auto& job : jobs().alive()) {
    job->progress.stop();
    job->world.finalize();
  }
}

}  // namespace shoal::torch
