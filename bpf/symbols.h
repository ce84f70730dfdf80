/// Names of the kernel's functions. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shoal::tracer {

/// Reads /proc/kallsyms when the first name is wanted: 30 ms and 10 MB that a tracer whose threads
/// never sleep does not pay. Where addresses are hidden (kernel.kptr_restrict) there are no names.
class Symbols {
 public:
  std::string_view name(uint64_t address);

 private:
  struct Symbol {
    uint64_t address;
    uint32_t offset;  // of its name in names_
    uint32_t length;
  };
  void read();

  bool read_ = false;
  std::string names_;
  std::vector<Symbol> symbols_;
};

}  // namespace shoal::tracer
