#include "bootstrap/secret.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>

#include "bootstrap/auth.h"
#include "bootstrap/socket.h"
#include "core/environment.h"
#include "core/fd.h"
#include "shoal/error.h"

namespace shoal::bootstrap {
namespace {

constexpr std::size_t kMaxSecretBytes = 4096;
constexpr std::int64_t kPipeLimitMs = 5000;
constexpr std::size_t kKeyBytes = 32;

[[noreturn]] void refuse(const std::string& what, const std::string& why) {
  throw Error(ErrorCode::kBootstrap, "secret: " + what + ": " + why);
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  return text;
}

// All of a file, or a pipe until its end. A file is read from its start wherever its offset stands:
// that is shared with whoever inherited the descriptor, such as the next program of this rank.
std::string read_all(int fd, const std::string& what) {
  const Deadline deadline = Deadline::after_ms(kPipeLimitMs);
  const bool seekable = ::lseek(fd, 0, SEEK_CUR) >= 0;
  std::string text;
  while (text.size() <= kMaxSecretBytes) {
    pollfd entry{fd, POLLIN, 0};
    if (poll_until({&entry, 1}, deadline) == 0) refuse(what, "nobody wrote it within 5 s");
    std::array<char, 1024> part;
    const ssize_t count =
        seekable ? ::pread(fd, part.data(), part.size(), static_cast<off_t>(text.size()))
                 : ::read(fd, part.data(), part.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) refuse(what, std::strerror(errno));
    if (count == 0) break;
    text.append(part.data(), static_cast<std::size_t>(count));
  }
  text = trimmed(text);
  if (text.empty() || text.size() > kMaxSecretBytes) refuse(what, "empty, or above 4096 bytes");
  return text;
}

bool private_to_user(const struct stat& info) {
  return info.st_uid == ::geteuid() && (info.st_mode & 077) == 0;
}

std::string read_private_file(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat info{};
  if (!file.valid() || ::fstat(file.get(), &info) != 0) refuse(path, std::strerror(errno));
  if (!private_to_user(info)) refuse(path, "others can read it; chmod 600, and own it");
  return read_all(file.get(), path);
}

std::string read_fd_once(const std::string& number) {
  // Two calls of init() in one process read the same pipe: what it held must outlive the first.
  static std::mutex mutex;
  static std::map<std::string, std::string> kept;
  const std::lock_guard lock(mutex);
  if (const auto found = kept.find(number); found != kept.end()) return found->second;
  char* end = nullptr;
  const long fd = std::strtol(number.c_str(), &end, 10);
  if (number.empty() || *end != '\0' || fd < 0 || fd > 1 << 20) {
    refuse("SHOAL_SECRET_FD", "\"" + number + "\" is no file descriptor");
  }
  const Fd owned(static_cast<int>(fd));  // closed afterwards: children need not inherit it
  return kept[number] = read_all(owned.get(), "SHOAL_SECRET_FD " + number);
}

// Makes the last two levels of `path`; the last one must be private.
bool make_private_directory(const std::string& parent, const std::string& path) {
  ::mkdir(parent.c_str(), 0700);
  ::mkdir(path.c_str(), 0700);
  struct stat info{};
  return ::lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && private_to_user(info);
}

std::optional<std::string> key_directory() {
  std::string cache = environment("XDG_CACHE_HOME");
  if (cache.empty() && !environment("HOME").empty()) cache = environment("HOME") + "/.cache";
  for (const std::string& parent : {cache, environment("XDG_RUNTIME_DIR")}) {
    if (!parent.empty() && make_private_directory(parent, parent + "/shoal") &&
        ::access((parent + "/shoal").c_str(), W_OK) == 0) {
      return parent + "/shoal";
    }
  }
  return std::nullopt;
}

// link() makes the whole key appear at once, and only the first of several does: also over NFS.
void make_key(const std::string& path) {
  const std::string draft = path + "." + to_hex(random_bytes(8));
  const std::string key = to_hex(random_bytes(kKeyBytes)) + "\n";
  {
    const Fd file(::open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file.valid() ||
        ::write(file.get(), key.data(), key.size()) != static_cast<ssize_t>(key.size())) {
      const int error = errno;
      ::unlink(draft.c_str());
      refuse(draft, std::strerror(error));
    }
  }
  const int linked = ::link(draft.c_str(), path.c_str());
  const int error = errno;
  ::unlink(draft.c_str());
  if (linked != 0 && error != EEXIST) refuse(path, std::strerror(error));
}

}  // namespace

std::string secret_from_environment() {
  if (const std::string fd = environment("SHOAL_SECRET_FD"); !fd.empty()) return read_fd_once(fd);
  if (const std::string text = environment("SHOAL_SECRET"); !text.empty()) return text;
  if (const std::string path = environment("SHOAL_SECRET_FILE"); !path.empty()) {
    return read_private_file(path);
  }
  return {};
}

std::string secret_of_user(const std::string& job) {
  const auto directory = key_directory();
  if (!directory) {
    refuse("no key of this user",
           "neither ~/.cache/shoal nor $XDG_RUNTIME_DIR/shoal can be made with mode 0700; set "
           "SHOAL_SECRET_FILE to a file of mode 0600, the same on all ranks");
  }
  const std::string path = *directory + "/key";
  if (::access(path.c_str(), F_OK) != 0) make_key(path);
  return to_hex(hmac_sha256(read_private_file(path), "shoal 1 job:" + job));
}

}  // namespace shoal::bootstrap
