#include "tune/load.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "core/environment.h"
#include "shoal/error.h"
#include "tune/text.h"

namespace shoal::tune {

namespace {

/// A table of every collective at 20 sizes and 100 shapes.
constexpr std::streamsize kMostBytes = 1 << 20;

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument,
              "tuning table " + path + ": " + what +
                  "; it is read by rank 0 only, where that runs. Write one with `shoal tune "
                  "--output FILE`, or name another by shoal.init(tuning=...) or SHOAL_TUNING_FILE, "
                  "\"none\" for no table");
}

/// False: there is no such file.
bool read(const std::string& path, std::string& text) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file && errno == ENOENT) return false;
  if (!file) refuse(path, std::string("cannot be opened: ") + std::strerror(errno));
  text.resize(static_cast<std::size_t>(kMostBytes) + 1);
  file.read(text.data(), kMostBytes + 1);
  if (file.bad()) refuse(path, std::string("cannot be read: ") + std::strerror(errno));
  if (file.gcount() > kMostBytes) {
    refuse(path, "is larger than " + std::to_string(kMostBytes) + " bytes, which no table is");
  }
  text.resize(static_cast<std::size_t>(file.gcount()));
  return true;
}

}  // namespace

std::string usual_path() {
  if (std::string named = environment("SHOAL_TUNING_FILE"); !named.empty()) return named;
  const std::string config = environment("XDG_CONFIG_HOME");
  if (!config.empty()) return config + "/shoal/tuning";
  const std::string home = environment("HOME");
  return home.empty() ? "" : home + "/.config/shoal/tuning";
}

Table load(const std::string& chosen) {
  const std::string path = chosen.empty() ? usual_path() : chosen;
  if (path.empty() || path == kNoTable) return {};
  std::string text;
  if (read(path, text)) return parse(text, path);
  if (chosen.empty() && environment("SHOAL_TUNING_FILE").empty()) return {};
  refuse(path, "there is no such file");
}

}  // namespace shoal::tune
