#include "symbols.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <utility>

namespace shoal::tracer {

std::string_view Symbols::name(uint64_t address) {
  if (!std::exchange(read_, true)) read();
  const auto after = std::ranges::upper_bound(symbols_, address, {}, &Symbol::address);
  if (after == symbols_.begin()) return {};
  const Symbol& symbol = *std::prev(after);
  return std::string_view(names_).substr(symbol.offset, symbol.length);
}

// "ffffffff81000000 T name [module]". Data has no frames; a hidden address is 0.
void Symbols::read() {
  std::ifstream file("/proc/kallsyms");
  for (std::string line; std::getline(file, line);) {
    char* rest = nullptr;
    const uint64_t address = std::strtoull(line.c_str(), &rest, 16);
    const size_t start = static_cast<size_t>(rest - line.c_str()) + 3;
    if (address == 0 || start >= line.size()) continue;
    if (const char kind = line[start - 2]; kind != 't' && kind != 'T' && kind != 'w' && kind != 'W')
      continue;
    const std::string_view name =
        std::string_view(line).substr(start, line.find('\t', start) - start);
    symbols_.push_back(
        {address, static_cast<uint32_t>(names_.size()), static_cast<uint32_t>(name.size())});
    names_ += name;
  }
  std::ranges::sort(symbols_, {}, &Symbol::address);
}

}  // namespace shoal::tracer
