/// Owners of what the kernel and libbpf hand out. All move-only; nothing else in this folder closes
/// anything.
#pragma once

#include <bpf/libbpf.h>
#include <unistd.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace shoal::tracer {

class Fd {
 public:
  Fd() noexcept = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }

  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] bool valid() const noexcept { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct DestroyLink {
  void operator()(bpf_link* link) const noexcept { bpf_link__destroy(link); }
};
using Link = std::unique_ptr<bpf_link, DestroyLink>;

struct FreeRing {
  void operator()(ring_buffer* ring) const noexcept { ring_buffer__free(ring); }
};
using Ring = std::unique_ptr<ring_buffer, FreeRing>;

template <class S>
struct DestroySkeleton {
  void operator()(S* skeleton) const noexcept { S::destroy(skeleton); }
};
template <class S>
using Skeleton = std::unique_ptr<S, DestroySkeleton<S>>;

/// The kernel or libbpf refused; `code` is the errno, the text says what was tried.
class Refused : public std::runtime_error {
 public:
  Refused(const std::string& what, int code) : std::runtime_error(what), code_(code) {}
  [[nodiscard]] int code() const noexcept { return code_; }

 private:
  int code_;
};

}  // namespace shoal::tracer
