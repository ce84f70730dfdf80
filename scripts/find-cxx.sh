#!/usr/bin/env bash
# Prints the C++ compiler to build with: $CXX, c++, g++ or a numbered g++, the first that is a GCC of at
# least 12 or a Clang of at least 16. Prints nothing and fails when there is none.
set -euo pipefail

new_enough() {
  local macros
  macros=$("$1" -dM -E -x c++ /dev/null 2>/dev/null) || return 1
  if [[ $macros =~ __clang_major__\ ([0-9]+) ]]; then ((BASH_REMATCH[1] >= 16)); return; fi
  [[ $macros =~ __GNUC__\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= 12))
}

for candidate in ${CXX:-} g++ c++ g++-15 g++-14 g++-13 g++-12; do
  if new_enough "$candidate"; then
    command -v "$candidate"
    exit 0
  fi
done
exit 1
