#include "torch/recorder.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace shoal::torch {

namespace {

std::int64_t wall_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return result + "\"";
}

}  // namespace

const char* name_of(Recorder::State state) {
  switch (state) {
    case Recorder::State::kStarted:
      return "started";
    case Recorder::State::kCompleted:
      return "completed";
    case Recorder::State::kFailed:
      return "failed";
  }
  return "";
}

namespace {

std::string to_json(const Recorder::Entry& entry) {
  return "{\"number\": " + std::to_string(entry.number) +
         ", \"group\": " + std::to_string(entry.group) +
         ", \"sequence\": " + std::to_string(entry.sequence) +
         ", \"operation\": " + quoted(entry.operation) +
         ", \"elements\": " + std::to_string(entry.elements) +
         ", \"dtype\": " + quoted(entry.dtype) +
         ", \"timeout_ms\": " + std::to_string(entry.timeout_ms) +
         ", \"begin_ns\": " + std::to_string(entry.begin_ns) +
         ", \"end_ns\": " + std::to_string(entry.end_ns) +
         ", \"state\": " + quoted(name_of(entry.state)) + "}";
}

/// Not through a link that somebody has laid in a folder that all can write.
bool write_file(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return false;
  const ssize_t written = ::write(fd, text.data(), text.size());
  ::close(fd);
  return written == static_cast<ssize_t>(text.size());
}

}  // namespace

std::uint64_t Recorder::begin(Entry entry) {
  entry.begin_ns = wall_ns();
  const std::lock_guard lock(mutex_);
  entry.number = ++last_;
  ring_[entry.number % kEntries] = entry;
  return entry.number;
}

void Recorder::end(std::uint64_t number, bool failed) {
  const std::int64_t now = wall_ns();
  const std::lock_guard lock(mutex_);
  Entry& entry = ring_[number % kEntries];
  if (entry.number != number) return;  // overwritten since
  entry.end_ns = now;
  entry.state = failed ? State::kFailed : State::kCompleted;
}

std::vector<Recorder::Entry> Recorder::entries() const {
  const std::lock_guard lock(mutex_);
  std::vector<Entry> all;
  for (std::uint64_t number = last_ < kEntries ? 1 : last_ - kEntries + 1; number <= last_;
       ++number) {
    all.push_back(ring_[number % kEntries]);
  }
  return all;
}

std::string Recorder::dump(const std::string& reason) {
  std::string text = "{\"rank\": " + std::to_string(rank_) +
                     ", \"ranks\": " + std::to_string(ranks_) +
                     ", \"pid\": " + std::to_string(::getpid()) +
                     ",\n \"reason\": " + quoted(reason) + ",\n \"operations\": [";
  const char* separator = "\n  ";
  for (const Entry& entry : entries()) {
    text += separator + to_json(entry);
    separator = ",\n  ";
  }
  text += "\n ]}\n";
  const char* prefix = std::getenv("TORCH_FR_DUMP_TEMP_FILE");
  const std::string file =
      (prefix == nullptr ? "/tmp/shoal_trace_rank_" : prefix) + std::to_string(rank_);
  const std::lock_guard lock(mutex_);
  if (!is_dumped_) {
    is_dumped_ = true;
    if (write_file(file, text)) file_ = file;
  }
  return file_;
}

}  // namespace shoal::torch
