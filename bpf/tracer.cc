/// The main program: attaches what it can, says so, then writes a line for each event and, every
/// interval, a sample. One thread, one epoll; the programs in the kernel do the counting.
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "cgroups.h"
#include "clock.h"
#include "operations.h"
#include "options.h"
#include "output.h"
#include "privilege.h"
#include "processes.h"
#include "programs.h"
#include "scheduler.h"
#include "signals.h"
#include "source.h"
#include "syscalls.h"
#include "tcp.h"
#include "traffic.h"
#include "ucx.h"

namespace shoal::tracer {
namespace {

constexpr int kNothingAttached = 3;
constexpr int kLastWordsMs = 2000;

class Tracer {
 public:
  Tracer(const Options& options, const SharedMaps& maps, Report& report);

  /// Watches, says hello, and goes on until it is told to end.
  void run();

 private:
  enum Wakeup : uint32_t { kTimer, kRing, kInput, kEnd, kOutput };

  static int on_event(void* self, void* data, size_t bytes);
  void watch(int pid);
  void look_at_syscalls(bool on);
  bool obey(const std::string& line);
  void sample();
  bool read_input();
  void prepare_to_wait();
  void await(int fd, uint32_t wakeup, uint32_t events);
  void await_output();
  bool on_wakeup(uint32_t wakeup);
  bool wait_once();

  const Options& options_;
  const SharedMaps& maps_;
  Report& report_;
  Output output_;
  Signals signals_;
  std::vector<std::unique_ptr<Source>> sources_;  // in the order of a sample's fields
  std::unique_ptr<Syscalls> syscalls_;            // adds to what the first of them has put there
  Ring ring_;
  Fd epoll_, timer_, end_;
  std::string input_;
  std::set<int> pids_;
  bool output_awaited_ = false;
};

Tracer::Tracer(const Options& options, const SharedMaps& maps, Report& report)
    : options_(options),
      maps_(maps),
      report_(report),
      output_(STDOUT_FILENO),
      signals_(maps, report) {
  sources_.push_back(std::make_unique<Scheduler>(maps, report));
  if (options.syscalls) look_at_syscalls(true);
  sources_.push_back(std::make_unique<Tcp>(maps, report));
  if (options.bytes) sources_.push_back(std::make_unique<Traffic>(maps, report));
  if (options.cgroups) sources_.push_back(std::make_unique<Cgroups>(maps, report));
  if (!options.operations.empty()) {
    sources_.push_back(
        std::make_unique<Operations>(maps, options.operations, options.sampling, report));
  }
  if (!options.ucx.empty()) sources_.push_back(std::make_unique<Ucx>(maps, options.ucx, report));
  ring_.reset(ring_buffer__new(maps.events(), on_event, this, nullptr));
  if (ring_ == nullptr) report.refused("events", kSignals, errno, take_warning());
}

int Tracer::on_event(void* self, void* data, size_t /*bytes*/) {
  Output& output = static_cast<Tracer*>(self)->output_;
  if (static_cast<const event*>(data)->kind == kSignalEvent) {
    output.line(describe(*static_cast<const signal_event*>(data)));
  } else {
    output.line(describe(*static_cast<const operation_event*>(data)));
  }
  return 0;
}

void Tracer::watch(int pid) {
  if (!pids_.insert(pid).second) return;
  const auto key = static_cast<uint32_t>(pid);
  const uint32_t present = 1;
  bpf_map_update_elem(maps_.watched(), &key, &present, BPF_ANY);
  for (const auto& source : sources_) source->added(pid);
  if (syscalls_ != nullptr) syscalls_->added(pid);
}

// They cost every system call of the watched processes: `shoal trace` asks for them when it has a
// reason to, and no longer than that.
void Tracer::look_at_syscalls(bool on) {
  if (on == (syscalls_ != nullptr)) return;
  syscalls_ = on ? std::make_unique<Syscalls>(maps_, report_) : nullptr;
  for (const int pid : pids_) {
    if (syscalls_ != nullptr) syscalls_->added(pid);
  }
}

void Tracer::sample() {
  const uint64_t now = now_ns();
  Json line = {{"type", "sample"}, {"t_ns", now}};
  for (const auto& source : sources_) source->sample(line, now);
  if (syscalls_ != nullptr) syscalls_->sample(line, now);
  line["drops"] = maps_.drops() + output_.dropped();
  line["sampling"] = line.value("operations_sampled", 1.0);  // all else is counted all the time
  line["own_cpu_ns"] = read_clock(CLOCK_PROCESS_CPUTIME_ID);
  output_.line(line);
}

// False: told to end.
bool Tracer::obey(const std::string& line) {
  constexpr std::string_view kPid = "pid ";
  if (line == "quit") return false;
  const bool adds = line.starts_with(kPid);
  const long pid = adds ? std::strtol(line.c_str() + kPid.size(), nullptr, 10) : 0;
  if (pid > 0) {
    watch(static_cast<int>(pid));
  } else if (line == "syscalls on" || line == "syscalls off") {
    look_at_syscalls(line == "syscalls on");
  } else {
    std::fprintf(stderr, "shoal-tracer: \"%s\" is none of pid PID, syscalls on|off, quit\n",
                 line.c_str());
  }
  return true;
}

// False: told to end.
bool Tracer::read_input() {
  char bytes[4096];
  const ssize_t count = ::read(STDIN_FILENO, bytes, sizeof bytes);
  if (count < 0) return errno == EINTR || errno == EAGAIN;
  if (count == 0) return false;
  input_.append(bytes, static_cast<size_t>(count));
  for (size_t end; (end = input_.find('\n')) != std::string::npos; input_.erase(0, end + 1)) {
    if (!obey(input_.substr(0, end))) return false;
  }
  return true;
}

void Tracer::await(int fd, uint32_t wakeup, uint32_t events) {
  epoll_event event{.events = events, .data = {.u32 = wakeup}};
  // A file (standard input from one) cannot be waited for: EPERM. Then only a signal or the time
  // ends us.
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
}

void Tracer::prepare_to_wait() {
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
  end_ = Fd(signalfd(-1, &ends, SFD_CLOEXEC));
  timer_ = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  const timespec every{options_.interval_ms / 1000, options_.interval_ms % 1000 * 1'000'000L};
  const itimerspec times{every, every};
  timerfd_settime(timer_.get(), 0, &times, nullptr);
  await(timer_.get(), kTimer, EPOLLIN);
  await(end_.get(), kEnd, EPOLLIN);
  await(STDIN_FILENO, kInput, EPOLLIN);
  if (ring_ != nullptr) await(ring_buffer__epoll_fd(ring_.get()), kRing, EPOLLIN);
}

// Room for output is waited for only while there is some to be written.
void Tracer::await_output() {
  if (output_.pending() == output_awaited_) return;
  output_awaited_ = output_.pending();
  if (output_awaited_) {
    await(output_.fd(), kOutput, EPOLLOUT);
  } else {
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, output_.fd(), nullptr);
  }
}

// False: told to end.
bool Tracer::on_wakeup(uint32_t wakeup) {
  switch (wakeup) {
    case kTimer:
      if (uint64_t ticks = 0; ::read(timer_.get(), &ticks, sizeof ticks) == sizeof ticks) sample();
      return true;
    case kRing:
      ring_buffer__consume(ring_.get());
      return true;
    case kInput:
      return read_input();
    case kEnd:
      return false;
    default:
      return true;  // kOutput: flush() follows every wake-up
  }
}

// False: it is time to end.
bool Tracer::wait_once() {
  await_output();
  epoll_event events[8];
  const int count = epoll_wait(epoll_.get(), events, 8, -1);  // the timer ends it
  bool going_on = true;
  for (int i = 0; i < count; ++i) going_on = on_wakeup(events[i].data.u32) && going_on;
  return output_.flush() && going_on;
}

void Tracer::run() {
  prepare_to_wait();
  for (const int pid : options_.pids) watch(pid);
  output_.line(report_.hello());
  const uint64_t end =
      options_.seconds > 0 ? now_ns() + static_cast<uint64_t>(options_.seconds * 1e9) : UINT64_MAX;
  while (wait_once() && now_ns() < end) {
  }
  if (ring_ != nullptr) ring_buffer__consume(ring_.get());
  sample();
  output_.finish(kLastWordsMs);
}

// Without maps there is nothing; what was asked for is said one by one.
void refuse_all(const Options& options, const Refused& error, Report& report) {
  std::vector<const Subject*> subjects = {&kThreads, &kFaults, &kSignals, &kLinks};
  if (options.syscalls) subjects.push_back(&kCalls);
  if (options.bytes) subjects.push_back(&kBytes);
  if (options.cgroups) subjects.push_back(&kCgroups);
  if (!options.operations.empty()) subjects.push_back(&kOperations);
  if (!options.ucx.empty()) subjects.push_back(&kMessages);
  for (const Subject* subject : subjects)
    report.refused("maps", *subject, error.code(), error.what());
}

int trace(const Options& options) {
  keep_warnings();
  Report report;
  try {
    if (!in_first_pid_namespace()) throw Refused("not tried", EPERM);
    const SharedMaps maps(options.ring_bytes);
    Tracer tracer(options, maps, report);
    if (!report.nothing_attached()) {
      tracer.run();
      return 0;
    }
  } catch (const Refused& error) {
    refuse_all(options, error, report);
  }
  Output output(STDOUT_FILENO);
  output.line(report.hello());
  output.finish(kLastWordsMs);
  return kNothingAttached;
}

}  // namespace
}  // namespace shoal::tracer

int main(int argc, char** argv) {
  // The parent may have died before this line: then standard input has ended, too.
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  std::signal(SIGPIPE, SIG_IGN);
  int status = 0;
  const auto options = shoal::tracer::parse(argc, argv, status);
  return options ? shoal::tracer::trace(*options) : status;
}
