#include <pthread.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "core/assert.h"
#include "core/fork.h"
#include "core/log.h"

namespace shoal {

void assertion_failed(const char* condition, const char* file, int line) noexcept {
  std::fprintf(stderr, "shoal: bug: assertion failed: %s (%s:%d); please report it\n", condition,
               file, line);
  std::abort();
}

namespace detail {
std::atomic<std::uint32_t> forks{0};
}

namespace {

/// Runs when the library is loaded.
[[maybe_unused]] const int kForksCounted =
    pthread_atfork(nullptr, nullptr, [] { detail::forks.fetch_add(1, std::memory_order_relaxed); });

LogLevel level_from_environment() noexcept {
  const char* text = std::getenv("SHOAL_LOG");
  if (text == nullptr) return LogLevel::kWarn;
  const std::string_view name(text);
  if (name == "error") return LogLevel::kError;
  if (name == "info") return LogLevel::kInfo;
  if (name == "debug") return LogLevel::kDebug;
  return LogLevel::kWarn;
}

std::atomic<LogSink> log_sink{nullptr};

}  // namespace

void set_log_sink(LogSink sink) noexcept {
  log_sink.store(sink, std::memory_order_release);  // pairs with the acquire in log()
}

void log(LogLevel level, const char* format, ...) noexcept {
  static const LogLevel limit = level_from_environment();
  const LogSink sink = log_sink.load(std::memory_order_acquire);  // pairs with set_log_sink()
  if (sink == nullptr && level > limit) return;
  char line[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (sink != nullptr) return sink(level, line);
  std::fprintf(stderr, "shoal: %s\n", line);  // one call: lines of several ranks do not mix
}

}  // namespace shoal
