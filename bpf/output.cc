#include "output.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "clock.h"

namespace shoal::tracer {
namespace {

constexpr size_t kMostPending = 4 << 20;

// A terminal's flags are shared with the shell; a pipe is ours alone.
bool may_be_changed(int fd) {
  struct stat status{};
  return fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode));
}

}  // namespace

Output::Output(int fd) : fd_(fd) {
  if (may_be_changed(fd)) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

void Output::line(const Json& json) {
  // A name of a process may be any bytes: what is no UTF-8 is replaced.
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (pending_.size() + text.size() + 1 > kMostPending) {
    ++dropped_;
    return;
  }
  pending_ += text;
  pending_ += '\n';
}

bool Output::flush() {
  while (!pending_.empty()) {
    const ssize_t written = ::write(fd_, pending_.data(), pending_.size());
    if (written < 0) return errno == EAGAIN || errno == EINTR;
    pending_.erase(0, static_cast<size_t>(written));
  }
  return true;
}

void Output::finish(int timeout_ms) {
  const uint64_t end = now_ns() + static_cast<uint64_t>(timeout_ms) * 1'000'000;
  while (flush() && pending() && now_ns() < end) {
    pollfd room{fd_, POLLOUT, 0};
    poll(&room, 1, 100);
  }
}

}  // namespace shoal::tracer
