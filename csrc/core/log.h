/// Messages for people, on stderr, each line once and prefixed `shoal:`. Level by SHOAL_LOG
/// (error, warn, info, debug; default warn). Never called on the data path.
#pragma once

namespace shoal {

enum class LogLevel { kError, kWarn, kInfo, kDebug };

[[gnu::format(printf, 2, 3)]] void log(LogLevel level, const char* format, ...) noexcept;

/// Takes the lines of every level instead of stderr, from any thread; nullptr: stderr again. For
/// who has a log of its own, which decides what is shown.
using LogSink = void (*)(LogLevel level, const char* line) noexcept;
void set_log_sink(LogSink sink) noexcept;

}  // namespace shoal
